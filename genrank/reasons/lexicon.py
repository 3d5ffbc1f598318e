"""Words that name colours, materials, features, praise and units; `genrank.rankers.wording` reads the same tables.

All of it is data, easy to extend: one group of synonyms a line, separated by commas, in lower case. A reason's claim is
grounded where a field has a word of the same group. English and Chinese; of other languages the commonest colours.
"""

from __future__ import annotations

from collections.abc import Iterator

Groups = tuple[tuple[str, ...], ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in text.strip().split(","))


def _groups(text: str) -> Groups:
    return tuple(_words(line) for line in text.strip().splitlines())


# family: words that rankers read too; further words for the same colour
_COLOUR_TABLE = """
red: red, 红; 红色, 赤, rot, rouge, rojo, roja
red: burgundy; 酒红, 酒红色
red: maroon;
pink: pink; 粉色, 粉红, 粉红色, ピンク, rosa
orange: orange; 橙色, 橘色, オレンジ
orange: coral; 珊瑚色
yellow: yellow, 黄; 黄色, gelb, jaune, amarillo, amarilla
green: green, 绿; 绿色, 緑, grün, vert, verde
blue: blue, 蓝; 蓝色, 青色, 青, blau, bleu, azul
blue: navy, 藏青; navy blue, 藏青色, 海军蓝
blue: turquoise; 绿松石色
blue: teal;
purple: purple, violet, 紫; 紫色, lila, violett, morado, morada
black: black, 黑; 黑色, 黒, schwarz, noir, noire, negro, negra
white: white, 白; 白色, weiss, blanc, blanche, blanco, blanca
white: ivory; 象牙白
grey: grey, gray, 灰; 灰色, grau, gris
grey: charcoal; 炭灰
brown: brown, 棕; 棕色, 褐色, 咖啡色, 茶色, braun, marron, marrón
beige: beige; 米色, 杏色
beige: cream; 奶白, 奶白色
beige: khaki, 卡其; 卡其色
gold: gold, golden; 金色
silver: silver; 银色, 銀色
transparent: transparent, 透明;
: ; rose gold, 玫瑰金
: ; multicolour, multicolor, multi-colour, multi-color, multicoloured, multicolored, 彩色
"""


def _colours() -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    for line in _COLOUR_TABLE.strip().splitlines():
        family, _, names = line.partition(":")
        read, _, further = (_words(part) if part.strip() else () for part in names.partition(";"))
        yield family, read, further


COLOURS: Groups = tuple(read + further for _, read, further in _colours())
_ALSO_THINGS = {  # words that mean a colour beside one, but in a reason just as well a thing
    "grey": "graphite",
    "pink": "粉",
    "orange": "橙, 橘",
    "yellow": "mustard",
    "green": "olive, sage, mint",
    "blue": "cyan",
    "purple": "lilac, lavender, plum",
    "brown": "tan, camel, cognac, chocolate, 咖啡, 焦糖",
    "beige": "sand, 米, 杏",
    "gold": "金",
    "silver": "银",
}
COLOUR_FAMILIES: dict[str, str] = {word: family for family, read, _ in _colours() for word in read} | {
    word: family for family, words in _ALSO_THINGS.items() for word in _words(words)
}
"""By word, the family that a ranker compares colours by: ivory is ``white``."""

SHADES = ("light", "dark", "pale", "bright", "deep", "hot", "深", "浅", "淡", "亮", "暗", "天", "宝", "墨", "军")
"""Before a colour they make a different one of it."""

MATERIALS = _groups("""
cotton, 棉, 纯棉, 全棉
linen, 亚麻
wool, woollen, woolen, 羊毛
cashmere, 羊绒
silk, 真丝, 丝绸
satin, 缎面
velvet, 丝绒, 天鹅绒
denim, 牛仔布
leather, 皮革, 真皮, 牛皮
faux leather, 人造革, pu皮
suede, 麂皮
polyester, 涤纶, 聚酯纤维
nylon, 尼龙, 锦纶
viscose, rayon, 粘胶
spandex, elastane, 氨纶
chiffon, 雪纺
lace, 蕾丝
flannel, 法兰绒
fleece, 抓绒
canvas, 帆布
down, 羽绒
wood, wooden, 木质, 实木, 木头
oak, 橡木
bamboo, 竹, 竹子
stainless steel, 不锈钢
steel, 钢
aluminium, aluminum, 铝, 铝合金
iron, 铁
copper, 铜
brass, 黄铜
titanium, 钛
plastic, 塑料
glass, 玻璃
ceramic, 陶瓷
porcelain, 瓷
silicone, 硅胶
rubber, 橡胶
acrylic, 亚克力
marble, 大理石
sterling silver, 纯银
diamond, 钻石
recycled
""")

FEATURES = _groups("""
waterproof, water proof, 防水
water-resistant, water resistant, 防泼水
windproof, 防风
wireless, 无线
cordless
bluetooth, 蓝牙
noise cancelling, noise canceling, noise-cancelling, noise-canceling, 降噪
rechargeable, 可充电, 充电式
battery-operated, battery operated, battery-powered, battery powered, 电池供电
included, 附带, 附赠
dishwasher safe, dishwasher-safe
machine washable, machine-washable, 可机洗, 机洗
organic, 有机
vegan
handmade, hand-made, hand made, 手工
foldable, folding, 可折叠, 折叠
adjustable, 可调节
portable, 便携
lightweight, 轻便
breathable, 透气
stretchy, stretch, 弹力
quick-drying, quick drying, quick-dry, 速干
non-slip, nonslip, anti-slip, 防滑
padded
insulated, 保温
lined, 加绒
thick, 加厚, 厚款
thin, 薄款
long-sleeved, long sleeve, long-sleeve, 长袖
short-sleeved, short sleeve, short-sleeve, 短袖
sleeveless, 无袖
slim, slim fit, 修身
loose, 宽松
oversized, plus size, plus-size, 大码
refurbished, 翻新
second-hand, second hand, used, 二手
brand new, 全新
vintage, 复古
free shipping, free delivery, 包邮
warranty, guarantee, guaranteed, 保修
summer, 夏季, 夏天, 夏
winter, 冬季, 冬天, 冬
spring, 春季, 春天, 春
autumn, 秋季, 秋天, 秋
women, woman, ladies, lady, womens, 女士, 女款, 女, 女装, 女性, 女式
men, man, mens, gentlemen, 男士, 男款, 男, 男装, 男性, 男式
boy, 男童
girl, 女童
kid, child, children, 儿童, 孩子
baby, infant, toddler, 婴儿, 宝宝, 幼儿
elderly, elder, old people, senior, 老人, 老年, 中老年, 长辈
beginner, novice, 新手, 初学者, 入门
student, 学生, 学生党
puppy, puppies, 幼犬
kitten, 幼猫, 小奶猫
sensitive skin, sensitive, 敏感肌, 敏感
unscented, fragrance-free, fragrance free, perfume-free, without perfume, no fragrance, 无香, 无香精, 无香型
decaf, decaffeinated, caffeine-free, without caffeine, no caffeine
unsweetened, sugar-free, without sugar, no sugar, no added sugar, 无糖, 0糖
quiet, silent, 静音, 轻声, 安静
mild, gentle, 温和
sun protection, uv protection, 防晒
in stock, 有货, 现货
out of stock, sold out, 缺货, 售罄
small, 小号
medium, 中号
large, 大号
limited edition, limited-edition, 限量
luxury, luxurious, deluxe, 奢华, 豪华
""")

USES = _groups("""
outdoor, outdoors, 户外
indoor, indoors, 室内
travel, travelling, traveling, 旅行, 出差, 旅游
office, 办公, 办公室
wedding, 婚礼
party, 派对, 聚会
hiking, hike, 登山, 徒步
running, jogging, runner, 跑步, 慢跑, 跑友
yoga, 瑜伽
gift, 礼物, 送礼
school, 上学, 学校
gym, fitness, 健身
camping, 露营
beach, 海边, 沙滩
cycling, 骑行
swimming, 游泳
gaming, 电竞
commute, commuting, 通勤
car, 车载, 车用, 车上
""")
"""What a listing is for. A reason may also repeat what the query says: that is the wish."""

IMPLIED_BY = {
    "wireless": _words("bluetooth, 蓝牙, 2.4g"),
    "water-resistant": _words("waterproof, water proof, 防水"),
    "kid": _words("boy, girl, 男童, 女童, 宝宝"),
}
"""By the first word of a group, words that say as much and more."""

FEATURE_ENDINGS = ("proof", "resistant", "free", "safe", "friendly", "certified", "compatible", "activated", "powered")
"""After a hyphen they make a feature of any word: ``stain-resistant``."""

PRAISE = _groups("""
best, 最好, 最佳, 首选
great
good, 不错, 很好
excellent, 优秀, 出色
outstanding, exceptional, superior, 卓越
amazing, awesome, incredible, fantastic, wonderful, 惊艳
perfect, perfectly, 完美
ideal, ideally, 理想
beautiful, beautifully, gorgeous, stunning, lovely, 漂亮, 美丽
stylish, fashionable, trendy, chic, 时尚, 时髦
elegant, exquisite, 优雅, 精美, 精致
unique, one-of-a-kind, 独特, 独一无二
game-changer
effective, effectively, 有效
rare, legendary, memorable, iconic
innovative, 创新
must-have, must have, must-buy, 必备, 必买
high quality, high-quality, top quality, quality, 高品质, 优质, 质量好, 品质好
high-end, premium, finest, top-notch, world-class, 高端, 顶级
comfortable, comfy, 舒适, 舒服
durable, long-lasting, sturdy, reliable, 耐用, 结实
popular, famous, renowned, well-known, best-selling, bestselling, bestseller, 热销, 热门, 爆款, 畅销
cheap, cheaper, cheapest, affordable, bargain, great value, 便宜, 最便宜, 超值, 划算, 性价比, 价格适中, 实惠
better, superb, finer, nicer, 更好
largest, smallest, fastest, lightest, strongest, biggest, newest, latest
most, least, 最
versatile, 百搭
unbeatable, unmatched, unparalleled, ultimate, 无与伦比
favourite, favorite
innovation, craftsmanship, masterpiece
sustainable, eco-friendly, environmentally friendly, 环保
safe, 安全
easy, effortless, convenient, 方便
healthy, 健康
powerful, 强大
delicious, 美味
recommended, recommendation, recommend, 推荐
worth, 值得
""")

NO_CLAIMS = _words("""
at most, at least, most of, write down, up and down, good for, for good, used to, used for, used as, used by, used in,
used with, be used, is used, are used, 口红, 明白, 空白, 白天, 黄金, 青年, 最近, 最后, 女儿, 天空, 青春, 钢琴, 铁路
""")
"""Phrases that hold a word of another list and claim nothing."""

BRANDS = _words("""
nike, adidas, samsung, sony, microsoft, lenovo, huawei, xiaomi, ikea, lego, nintendo, philips, panasonic, canon, nikon,
bosch, dyson, gucci, chanel, prada, zara, uniqlo, levi's, reebok, puma, skechers, disney,
耐克, 阿迪达斯, 三星, 索尼, 华为, 小米, 联想, 优衣库
""")
"""Brands that a model knows by heart, and so may name without a reason."""

NEGATORS = _words("""
not, no, non, nor, without, never, isn't, aren't, doesn't, don't, cannot, can't, free of, free from, lack, lacks,
lacking, lack of
""")
NEGATORS_BEFORE_HAN = _words("不是, 没有, 不含, 不带, 不能, 不可, 不用, 无需, 不, 无, 没, 非, 未, 免")
NO = _words("no, false, none, not, n/a, 否, 无, 没有, 不支持, 不是")
"""Values of an attribute that say that the listing does not have it."""
YES_OR_NO = frozenset((*NO, *_words("yes, true, 是, 有, 支持")))
"""Values that are no names."""


_DEGREE_SIGNS = _words("""
°, degree, degrees, deg, 度, 도, grad, grado, grados, gradi, grau, graus, degré, degrés, градус, градусов
""")


def _degrees(*scales: str) -> tuple[str, ...]:
    joined = ("", " ", "-")
    return tuple(scales) + tuple(sign + gap + scale for scale in scales for sign in _DEGREE_SIGNS for gap in joined)


SCALES = {"摄氏": "celsius", "攝氏": "celsius", "摂氏": "celsius", "섭씨": "celsius"} | {
    "华氏": "fahrenheit",
    "華氏": "fahrenheit",
    "화씨": "fahrenheit",
}
"""Temperature scales that are written before the number."""


def _before(scale: str) -> list[str]:
    return [word for word, named in SCALES.items() if named == scale]


UNITS: dict[str, dict[str, float]] = {
    "length": {
        **dict.fromkeys(("mm", "millimetre", "millimeter", "毫米"), 0.001),
        **dict.fromkeys(("cm", "centimetre", "centimeter", "厘米", "公分"), 0.01),
        **dict.fromkeys(("m", "metre", "meter", "米"), 1.0),
        **dict.fromkeys(("km", "kilometre", "kilometer", "公里", "千米"), 1000.0),
        **dict.fromkeys(('"', "''", "in", "inch", "inches", "英寸", "寸"), 0.0254),
        **dict.fromkeys(("ft", "foot", "feet", "'", "英尺"), 0.3048),
        **dict.fromkeys(("yd", "yard"), 0.9144),
        **dict.fromkeys(("mile",), 1609.344),
    },
    "mass": {
        **dict.fromkeys(("mcg", "μg", "microgram", "微克"), 0.000001),
        **dict.fromkeys(("mg", "milligram", "毫克"), 0.001),
        **dict.fromkeys(("g", "gram", "gramme", "克"), 1.0),
        **dict.fromkeys(("kg", "kilo", "kilogram", "公斤", "千克"), 1000.0),
        **dict.fromkeys(("斤",), 500.0),
        **dict.fromkeys(("oz", "ounce", "盎司"), 28.349523125),
        **dict.fromkeys(("lb", "lbs", "pound", "磅"), 453.59237),
    },
    "volume": {
        **dict.fromkeys(("ml", "millilitre", "milliliter", "毫升"), 0.001),
        **dict.fromkeys(("cl",), 0.01),
        **dict.fromkeys(("l", "litre", "liter", "升"), 1.0),
        **dict.fromkeys(("fl oz", "fl. oz", "fl.oz", "floz", "fluid oz", "fluid ounce"), 0.0295735295625),
        **dict.fromkeys(("pint",), 0.473176473),
        **dict.fromkeys(("cu ft", "cu. ft", "cubic foot", "cubic feet"), 28.316846592),
        **dict.fromkeys(("cubic inch", "cu in", "cu. in"), 0.016387064),
        **dict.fromkeys(("gallon", "gal", "加仑"), 3.785411784),
        **dict.fromkeys(("quart", "qt"), 0.946352946),
    },
    "area": {
        **dict.fromkeys(("sq ft", "sq. ft", "square foot", "square feet", "平方英尺"), 0.09290304),
        **dict.fromkeys(("sq in", "sq. in", "square inch"), 0.00064516),
        **dict.fromkeys(("m2", "sq m", "square metre", "square meter", "平方米"), 1.0),
    },
    "data": {
        **dict.fromkeys(("kb", "kilobyte"), 0.000001),
        **dict.fromkeys(("mb", "megabyte"), 0.001),
        **dict.fromkeys(("gb", "gigabyte"), 1.0),
        **dict.fromkeys(("tb", "terabyte"), 1000.0),
    },
    "bits": {
        **dict.fromkeys(("mbit", "megabit"), 0.001),
        **dict.fromkeys(("gbit", "gigabit"), 1.0),
    },
    "bits a second": {
        **dict.fromkeys(("kbps", "kbit/s", "kb/s"), 0.000001),
        **dict.fromkeys(("mbps", "mbit/s", "mb/s"), 0.001),
        **dict.fromkeys(("gbps", "gbit/s", "gb/s"), 1.0),
    },
    "bytes a second": {
        **dict.fromkeys(("kB/s", "kBps"), 0.000001),
        **dict.fromkeys(("mB/s", "mBps"), 0.001),
        **dict.fromkeys(("gB/s", "gBps"), 1.0),
        **dict.fromkeys(("tB/s", "tBps"), 1000.0),
    },
    "light": dict.fromkeys(("lumen", "lm", "流明"), 1.0),
    "illuminance": dict.fromkeys(("lux", "勒克斯"), 1.0),
    "luminance": dict.fromkeys(("nit", "cd/m2"), 1.0),
    "light intensity": dict.fromkeys(("candela",), 1.0),
    "loudness": dict.fromkeys(("db", "decibel", "分贝"), 1.0),
    "turns": dict.fromkeys(("rpm", "转/分"), 1.0),
    "pressure": {
        **dict.fromkeys(("psi",), 6.894757293),
        **dict.fromkeys(("kpa",), 1.0),
        **dict.fromkeys(("bar",), 100.0),
    },
    "heat": dict.fromkeys(("btu",), 1.0),
    "energy": {
        **dict.fromkeys(("wh", "watt-hour", "watt hour"), 1.0),
        **dict.fromkeys(("kwh", "kilowatt-hour", "kilowatt hour"), 1000.0),
    },
    "food energy": {
        **dict.fromkeys(("kcal", "calorie", "大卡", "千卡"), 1.0),
        **dict.fromkeys(("kj",), 0.239005736),
    },
    "current": {**dict.fromkeys(("amp", "ampere", "安培"), 1.0), "ma": 0.001},
    "resistance": {
        **dict.fromkeys(("ohm", "ω", "欧姆"), 1.0),
        **dict.fromkeys(("kohm", "kω"), 1e3),
        **dict.fromkeys(("mω",), 1e6),
    },
    "speed": {
        **dict.fromkeys(("mph", "miles per hour"), 1.609344),
        **dict.fromkeys(("km/h", "kph", "kmh"), 1.0),
    },
    "paper weight": dict.fromkeys(("gsm", "g/m2"), 1.0),
    "dots": dict.fromkeys(("dpi",), 1.0),
    "airflow": dict.fromkeys(("cfm",), 1.0),
    "water flow": dict.fromkeys(("gpm",), 1.0),
    "horsepower": dict.fromkeys(("hp", "horsepower", "马力"), 1.0),
    "international units": dict.fromkeys(("iu",), 1.0),
    "power": {**dict.fromkeys(("w", "watt", "瓦"), 1.0), **dict.fromkeys(("kw", "kilowatt", "千瓦"), 1000.0)},
    "charge": {**dict.fromkeys(("mah", "毫安"), 1.0), **dict.fromkeys(("ah",), 1000.0)},
    "voltage": dict.fromkeys(("v", "volt", "伏"), 1.0),
    "frequency": {
        **dict.fromkeys(("hz", "赫兹"), 1.0),
        **dict.fromkeys(("khz",), 1e3),
        **dict.fromkeys(("mhz",), 1e6),
        **dict.fromkeys(("ghz",), 1e9),
    },
    "pixels": {**dict.fromkeys(("mp", "megapixel", "百万像素"), 1.0), **dict.fromkeys(("万像素",), 0.01)},
    "percent": dict.fromkeys(("%", "percent", "per cent"), 1.0),
    "degrees": dict.fromkeys(_DEGREE_SIGNS, 1.0),
    "celsius": dict.fromkeys(
        _degrees("c", "celsius", "centigrade", "摄氏度", "с", "цельсия", *_before("celsius")), 1.0
    ),
    "fahrenheit": dict.fromkeys(_degrees("f", "fahrenheit", "华氏度", "фаренгейта", *_before("fahrenheit")), 1.0),
    "kelvin": dict.fromkeys(_degrees("k", "kelvin", "开尔文"), 1.0),
    "time": {
        **dict.fromkeys(("second", "sec", "秒"), 1.0),
        **dict.fromkeys(("minute", "min", "分钟"), 60.0),
        **dict.fromkeys(("h", "hour", "hr", "小时"), 3600.0),
        **dict.fromkeys(("day", "天"), 86400.0),
        **dict.fromkeys(("month", "个月"), 2592000.0),
        **dict.fromkeys(("year", "yr", "岁", "年"), 31536000.0),
    },
    "count": dict.fromkeys(
        _words("pack, pk, piece, pc, pcs, count, ct, set, pair, 件, 个, 只, 片, 包, 双, 对, 支, 条"), 1.0
    ),
    "cents": dict.fromkeys(("cent", "¢"), 1.0),
    "carat": dict.fromkeys(("carat", "ct. tw", "克拉"), 1.0),
}
"""By dimension: units with their factor. Values of one dimension are compared in its unit of factor 1.

Temperatures are no factors of each other, so each scale is a dimension of its own; a bare degree may be of any.
"""

ATTACHED_UNITS = ("c", "f", "k")
"""Units only right behind the digits, or a space behind several: ``7F`` and ``70 F``, but not ``7 f``."""

_CODES = _words("""
usd, cny, eur, gbp, jpy, cad, aud, inr, krw, hkd, twd, chf, sgd, nzd, sek, nok, dkk, pln, czk, huf, rub, brl, mxn, zar,
thb, idr, myr, vnd, ils, uah
""")

CURRENCIES: dict[str, tuple[str, ...]] = {
    "$": ("usd", "cad", "aud", "hkd", "sgd", "nzd", "twd"),
    "¥": ("cny", "jpy"),
    "€": ("eur",),
    "£": ("gbp",),
    "₹": ("inr",),
    "dollar": ("usd", "cad", "aud", "hkd", "sgd", "nzd"),
    "yuan": ("cny",),
    "rmb": ("cny",),
    "元": ("cny", "hkd", "twd"),
    "块": ("cny",),
    "人民币": ("cny",),
    "美元": ("usd",),
    "欧元": ("eur",),
    "euro": ("eur",),
    "pound sterling": ("gbp",),
    "yen": ("jpy",),
    "円": ("jpy",),
    "日元": ("jpy",),
    "us$": ("usd",),
    **dict.fromkeys(("c$", "ca$", "加元"), ("cad",)),
    **dict.fromkeys(("a$", "au$", "澳元"), ("aud",)),
    **dict.fromkeys(("hk$", "港币", "港元"), ("hkd",)),
    **dict.fromkeys(("nt$", "台币", "新台币"), ("twd",)),
    "s$": ("sgd",),
    "nz$": ("nzd",),
    "r$": ("brl",),
    **dict.fromkeys(("mx$", "mex$"), ("mxn",)),
    **dict.fromkeys(("₩", "원", "韩元", "won"), ("krw",)),
    **dict.fromkeys(("₽", "руб", "ruble", "rouble"), ("rub",)),
    **dict.fromkeys(("₺", "tl"), ("try",)),
    **dict.fromkeys(("฿", "baht"), ("thb",)),
    **dict.fromkeys(("rs", "rs.", "rupee"), ("inr", "pkr", "lkr", "npr")),
    **dict.fromkeys(("kr", "krone", "krona", "kronor", "kroner"), ("sek", "nok", "dkk", "isk")),
    **dict.fromkeys(("zł", "złoty", "zloty"), ("pln",)),
    "kč": ("czk",),
    "₫": ("vnd",),
    "₱": ("php",),
    "peso": ("mxn", "php", "ars", "clp", "cop"),
    "franc": ("chf", "xof", "xaf"),
    "英镑": ("gbp",),
    "₪": ("ils",),
    "₴": ("uah",),
    "₦": ("ngn",),
    "₸": ("kzt",),
    **{
        code: (code,)
        for code in [
            "usd",
            "cny",
            "eur",
            "gbp",
            "jpy",
            "cad",
            "aud",
            "inr",
            "krw",
            "hkd",
            "twd",
            "chf",
            "sgd",
            "nzd",
            "sek",
            "nok",
            "dkk",
            "pln",
            "czk",
        ]
    },
    **{code: (code,) for code in _CODES},
}
"""What is written for a currency, and the ISO 4217 codes that it may mean."""

SIZES = _groups("""
xxs
xs
s, small
m, medium
l, large
xl
xxl, 2xl
xxxl, 3xl
xxxxl, 4xl
5xl
6xl
""")
"""Sizes of clothes, the smallest first."""

NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        _words("two, three, four, five, six, seven, eight, nine, ten, eleven, twelve"), start=2
    )
}

EVENTS: dict[str, str] = {
    "purchase": r"\byou(?:'ve| have)?(?: \w+)? (?:bought|purchased|ordered|own)\b|买过|购买过|买了",
    "view": r"\byou(?:'ve| have)?(?: \w+)? (?:viewed|looked at|seen|saw|browsed)\b|看过|浏览过|浏览了",
    "click": r"\byou(?:'ve| have)?(?: \w+)? clicked\b|点击过|点过",
    "cart": r"\byou(?:'ve| have)?(?: \w+)? (?:put|added)\b|加入过购物车",
    "rating": r"\byou(?:'ve| have)?(?: \w+)? (?:rated|liked|loved)\b|评过分",
    "": r"\byour (?:\w+ )?(?:history|past|purchases?|orders?)\b|您之前|你之前|您的历史|你的历史",
}
"""Patterns by which a reason speaks of the shopper's past, by event; the empty one means any."""

COMMON = frozenset(
    _words("""
a, about, above, across, after, again, all, allow, also, am, an, and, any, are, as, at, available, be, because, been,
before, being, below, best, between, both, brand, bring, business, but, buy, by, can, category, choice, come, company,
contain, create, customer, day, description, design, designed, do, does, each, english, every, experience, feature,
featured, features, few, find, first, fit, for, from, fun, get, gift, give, go, good, great, had, has, have, help,
her, here, his, home, how, i, if, in, include, includes, including, into, is, it, item, its, just, keep, key, kind,
last, less, like, list, listed, listing, look, looking, made, make, makes, many, market, match, matches, may, me,
mean, more, most, much, my, need, needed, needs, new, no, not, now, of, off, offer, offers, on, one, only, option, or,
order, other, our, out, over, own, part, per, perfect, piece, price, product, products, provide, provides, quality,
question, rated, rating, reason, relevant, result, same, search, sell, seller, set, several, shop, shopper, shopping,
should, show, so, some, style, such, suitable, than, that, the, their, them, then, there, these, they, thing, this,
those, to, too, top, two, type, under, up, use, used, user, very, want, was, way, we, well, were, what, when, where,
which, while, who, why, will, with, work, would, yes, you, your
""")
)
"""Words that are no names, whatever case they are written in, and no field value worth citing."""
