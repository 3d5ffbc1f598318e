"""What reviews speak of, by kind of product, and the words by which they praise or blame; English and Chinese.

All of it is data, easy to extend. A word with ``+`` or ``-`` behind it is an opinion by itself: a lamp that is
``heavy-``, a jacket that kept somebody ``dry+``. A word in ``*`` matches any ending: ``leak*``.
"""

from __future__ import annotations

from dataclasses import dataclass

from genrank.text.language import Language


@dataclass(frozen=True, slots=True)
class AspectWords:
    """One aspect.

    Attributes:
        key: Its name in English, which also identifies it.
        chinese: Its name in Chinese.
        groups: Kinds of products whose reviews speak of it, see `GROUPS`; empty: all.
        words: What a sentence about it says, by itself neutral, good (``+``) or bad (``-``).
    """

    key: str
    chinese: str
    groups: frozenset[str]
    words: tuple[str, ...]

    def name(self, spoken: Language) -> str:
        """Its name in a language; English where there is no other."""
        return self.chinese if spoken == "zh" else self.key


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


GROUPS: dict[str, tuple[str, ...]] = {
    "clothes": _split("""
        clothing dress coat jacket shirt knitwear legging trouser sportswear scarf 装 裙 衣 外套 羽绒 衬衫 上衣
        裤 围巾 丝巾 服饰
    """),
    "shoes": _split("""
        shoe boot sneaker sandal 鞋
    """),
    "bags": _split("""
        bag backpack sleeve case cover pouch 包 壳 套 袋 箱
    """),
    "electronics": _split("""
        phone audio headphone computer laptop electronics charger cable keyboard mouse mice camera tv 数码 手机
        电脑 耳机 充电 数据线 键盘 鼠标 家电 电器 电池
    """),
    "kitchen": _split("""
        kitchen kettle pan coffee machine bottle cookware utensil 厨房 锅 杯 壶 水具 茶具
    """),
    "home": _split("""
        home curtain bedding lamp lighting storage furniture blind 家居 窗帘 灯 床 收纳 家纺
    """),
    "beauty": _split("""
        beauty face skin hair sun care wellness 美妆 护肤 洗护 防晒 护理 洗发 面霜 个护
    """),
    "food": _split("""
        food coffee tea spread sweet snack treat 食品 茶 咖啡 糖 粮 罐头
    """),
    "outdoor": _split("""
        sport outdoor camping tent yoga fitness mat 户外 运动 露营 帐篷 瑜伽 健身 睡袋 雨具
    """),
    "play": _split("""
        toy kid pet baby game 玩具 童 母婴 宠物 宝宝
    """),
}
"""Words of a category path by the kinds of products that they mean."""


def _aspects(text: str) -> tuple[AspectWords, ...]:
    found = []
    for line in text.strip().splitlines():
        head, words = line.split(":", 1)
        key, chinese, *groups = (part.strip() for part in head.split("|"))
        chosen = frozenset(groups[0].split()) if groups else frozenset[str]()
        found.append(AspectWords(key, chinese, chosen, tuple(word.strip() for word in words.split(","))))
    return tuple(found)


ASPECTS = _aspects("""
price | 价格: price, cost, value for money+, worth it+, worth the money+, cheap+, affordable+, bargain+, expensive-, overpriced-, pricey-, too much money-, for the money, twice its price+, 价格, 价钱, 便宜+, 实惠+, 划算+, 性价比, 超值+, 贵-, 不值-
quality | 质量: quality, workmanship, well made+, well-made+, stitching, seam, seams, zip, zipper, hinge, flimsy-, shoddy-, came loose-, broke-, broken-, fell apart-, keeps its shape+, holds its shape+, defective-, 质量, 品质, 做工, 用料, 线头-, 瑕疵-, 开线-
durability | 耐用: durable+, lasts for years+, still going+, after a year, after years, wears out-, wore out-, worn out-, survived+, sturdy+, ages well+, 耐用+, 结实+, 牢固+, 用了一年, 没用多久-, 摔过, 摔不坏+, 耐摔+
looks | 外观: look, looks, pretty+, beautiful+, elegant+, cute+, stylish+, ugly-, design, 外观, 颜值, 好看+, 漂亮+, 难看-, 丑-, 可爱+, 款式, 设计, 有气质+, 体面+
size | 大小: bulky-, too big-, too small-, compact+, tiny+, takes up-, small pack size+, 体积, 略厚-, 占地方-, 小巧+
weight | 重量: weight, light+, lightweight+, heavy-, 重量, 轻+, 轻便+, 重-, 沉-
delivery | 物流: delivery, delivered, shipping, shipped, arrived, courier, 物流, 快递, 发货, 到货, 送货
packaging | 包装: packaging, packed, box, boxed, wrapping, 包装, 盒子, 箱子
service | 服务: service, support, seller, refund, return, 服务, 客服, 退货, 售后, 卖家, 店家
ease of use | 易用: easy to use+, easy+, simple to+, foolproof+, complicated-, confusing-, instructions, 好用+, 易用+, 方便+, 操作, 复杂-, 说明书, 省事+, 好贴+
comfort | 舒适 | clothes shoes bags electronics home outdoor: comfortable+, comfy+, comfort, cosy+, uncomfortable-, stiff-, blister*-, itchy-, hurts my, 舒服+, 舒适+, 不疼+, 疼-, 硌-, 扎-, 勒-, 软弹+, 软+
fit | 合身 | clothes shoes bags electronics: fit, fits, fitted, sizing, runs small-, runs large-, size up, size down, true to size+, snug+, narrow-, tight-, too loose-, too long-, too short-, a bit long-, straps, slipping-, slip down-, fell out-, room for my toes+, 合身+, 合脚+, 尺码, 偏大-, 偏小-, 刚好+, 刚刚好+, 紧-, 勒-, 显瘦+, 版型, 孔位
material | 材质 | clothes shoes bags home outdoor: material, fabric, cloth, leather, cotton, linen, wool, thin-, soft+, see-through-, pilling-, creases-, scratchy-, 材质, 面料, 料子, 布料, 皮质, 质感, 起球-, 太薄-, 不透+, 掉色-
warmth | 保暖 | clothes outdoor home: warm+, warmth, cosy and warm+, frost, cold-, freezing-, 暖+, 暖和+, 保暖+, 冷-
breathability | 透气 | clothes shoes outdoor: breathable+, breathes+, cool+, airy+, sweaty-, sweat, too warm-, too hot-, hot-, stuffy-, 透气+, 凉快+, 闷-, 吸汗+, 捂-
waterproofing | 防水 | clothes shoes bags outdoor kitchen play electronics: waterproof+, water, rain, dry+, leak*-, storm, storms, downpour, showers, soaked-, wet-, 防水, 漏水-, 漏-, 没湿+, 湿-, 下雨, 大雨, 暴雨, 干的+, 进水-
colour | 颜色 | clothes shoes bags home electronics play beauty: colour*, color*, faded-, fades-, 颜色, 色差-, 掉色-
grip | 防滑 | shoes outdoor electronics: grip, grips+, sliding-, slides-, slippery-, slipped-, sticks to+, 防滑+, 打滑-, 滑-
battery | 续航 | electronics: battery, charge lasts+, lasts all day+, standby, 续航, 电池, 待机, 没电-, 耗电-
charging | 充电 | electronics: charging, charges, charger, 充电, 快充, 满速+
sound | 音质 | electronics: sound, bass, audio quality, music, speakers, tinny-, 音质, 音效, 低音, 喇叭, 声音好+
microphone | 麦克风 | electronics: microphone, mic, calls, 麦克风, 通话, 收音
noise | 噪音 | electronics kitchen home play: noise, noisy-, loud-, quiet+, quieter+, silent+, silence+, hiss-, 噪音, 静音+, 安静+, 吵-, 吵人-, 降噪, 风噪-, 声音大-
camera | 拍照 | electronics: camera, photo, photos, picture, pictures, 拍照, 相机, 照片
performance | 性能 | electronics kitchen: fast+, quick+, slow-, laggy-, lags-, smooth+, powerful+, speed, performance, 性能, 速度, 流畅+, 卡顿-, 卡-, 火力
screen | 屏幕 | electronics: screen, display, 屏幕, 显示
feel | 手感 | electronics bags beauty: feels, smooth to the touch+, greasy-, sticky-, 手感, 清爽+, 油腻-, 黏-
non-stick | 不粘 | kitchen: non-stick, nonstick, slide out+, slides out+, stick-, sticks-, burn*-, 不粘+, 不糊底+, 粘锅-, 糊底-, 滑来滑去+
cleaning | 清洁 | kitchen home play bags: clean, cleans, easy to clean+, hard to clean-, dishwasher, 清洗, 好洗+, 难洗-, 一冲就干净+, 好打理+
insulation | 保温 | kitchen outdoor: stays hot+, stays cold+, still hot+, kept hot+, still there+, keeps warm+, ice cubes, 保温, 还烫+, 还热+, 凉得快-
light | 光线 | home electronics: bright, light, glare-, dim-, dark+, pitch dark+, blackout, 光线, 亮度, 刺眼-, 遮光, 全黑+
smell | 气味 | beauty food home clothes kitchen play: smell*, scent, fragrance, stinks-, stink-, odour, 气味, 香味+, 香气, 味道, 香+, 异味-, 酒精味-, 刺鼻-, 臭-, 难闻-
gentleness | 温和 | beauty: gentle+, rash-, burn*-, sting*-, irritat*-, redness, break out-, breakouts-, 温和+, 刺激-, 过敏-, 泛红-, 不痒+, 痒-, 闭口-, 紧绷-
effect | 效果 | beauty: works+, effect, result, results, faded+, gone+, relief+, 效果, 有效+, 没用-, 见效+
taste | 口感 | food: taste*, flavour, flavor, sweet, bitter, delicious+, bland-, 口感, 好吃+, 难吃-, 好喝+, 难喝-, 酸-, 甜, 苦, 入味+
setup | 安装 | outdoor home electronics play: set up, setup, pitch, install*, assembl*, up in two seconds+, takes two minutes+, 安装, 组装, 搭
appeal | 受欢迎 | play food: loves it+, love it+, refuses to take it off+, refuses to eat-, licks the bowl+, finishes every+, 喜欢+, 爱吃+, 不吃-, 光盘+, 不爱-
""")  # noqa: E501 - a table
"""Every aspect of the lexicon."""

GOOD = frozenset(
    _split("""
good great nice excellent amazing wonderful lovely love loves loved perfect perfectly impressive best
fine super fantastic gorgeous sharp clear firm well early fast quick happy pleased like likes recommend
exactly finally 超 好 不错 很棒 棒 满意 喜欢 推荐 完美 清晰 清楚 完好 很快 快 强 明显 准 够 没问题 离谱
高 稳 高级
""")
)
"""Words of praise for whatever a clause is about."""

BAD = frozenset(
    _split("""
bad poor terrible awful horrible disappointing disappointed worst hate hates stuck crushed damaged late
useless hurts weak slow annoying unfortunately problem problems waste wrong missing scratched 差 糟
糟糕 失望 慢 破损 破了 坏 坏了 烂 一般 拖 不行 不耐 后悔 垃圾 有问题
""")
)
"""Words of blame."""

NEGATORS = frozenset(
    _split("""
not no never isn't wasn't doesn't didn't don't without hardly barely nothing can't cannot won't
""")
)
NEGATORS_BEFORE_HAN = ("不", "没", "没有", "无", "别", "未")

TURNS = ("but", "though", "although", "however", "except", "yet", "但", "但是", "就是", "不过", "可惜", "只是", "倒是")
"""Words between two opinions in one sentence."""

FUNCTION_WORDS = frozenset(
    _split("""
a an the this that these those it its it's is are was were be been being has have had having with and or
of for in on at to from by as so while which who when where if than then there also both each up down
into over under out off about per plus you your they their them one can may will do does did
""")
)
"""Words that say nothing by themselves."""

PRODUCT_WORDS = frozenset(
    _split("""
come comes coming made make makes feature features featuring include includes including included contain
contains containing design designed suit suits suitable offer offers provide provides use used uses
available listing item product products piece pieces brand branded price priced cost costs rated rating
type kind size sizes sized colour colours color colors coloured material keep keeps stay stays wear fit
fits option options add adds
""")
)
"""Words that a text about a product needs, and that claim nothing by themselves."""

PAST_WORDS = _split("like same 一样 相同 同款 类似 配套 相配 之前 过的")
"""Words that compare a listing with one of the shopper's past; they need one."""

HAN_FILLERS = _split("""
这款 这件 这双 这条 这个 这是 一款 一件 一双 一条 商品 产品 采用 选用 使用 适合 适用 具有 拥有 带有 配有
配备 搭配 设计 提供 包含 内含 材质 颜色 尺码 尺寸 品牌 价格 评分 售价 属于 来自 制成 制作 以及 并且 而且
同时 还有 可以 它的 其 您 你 的 了 是 有 和 与 为 由 在 用 带 配 可 也 及 并 款 件 条 双 只 个 这 它 能
会 还 等 中 里 于 以 之 让 穿 地 得 做 好让 因此 所以
""")
"""The same in Chinese."""

HAN_FUNCTION = _split("""
的 了 是 有 和 与 也 这 它 在 还 就 款 件 条 双 个 商品 这款 这件 而 且 而且 以及 并
""")
"""Chinese words that say nothing by themselves."""

REVIEWERS = (
    r"(?:(?:some |a few |one |a |two )?(?:reviewers?|reviews?|customers?|buyers?|owners?|users?)|"
    r"according to (?:the |some |a )?(?:reviewers?|reviews?|customers?|buyers?))"
)
SAYING = r"(?:says?|said|mentions?|mentioned|reports?|reported|notes?|noted|finds?|found|writes?|wrote|describes?)"
ATTRIBUTION = rf"\b{REVIEWERS}\b(?: (?:also|who bought it))?(?:,| {SAYING}\b(?: that)?(?: it as)?:?)"
HAN_ATTRIBUTION = (
    r"(?:有|一位|部分)?(?:评价|评论|买家|用户|顾客)(?:中|里)?"
    r"(?:也|还)?(?:说|提到|反映|表示|认为|觉得|指出|称|写道)[:：，,]?"
)
"""How a sentence says that it repeats what reviewers say; it praises and blames nothing by itself."""

FIRST_PERSON = r"(?<![a-z])(?:i|i'm|i've|me|my|mine|we|our|ours|myself)(?![a-z])|我|咱|俺|本人"
"""A summary that speaks as I or we repeats a reviewer, or puts words into the shop's mouth."""

DROPPABLE = frozenset(
    _split("""
lightweight portable breathable foldable folding adjustable stretchy summer winter spring autumn luxury
luxurious deluxe new hot sale official genuine 便携 轻便 透气 折叠 可折叠 可调节 弹力 夏季 夏天 冬季 冬天
春季 春天 秋季 秋天 新款 新品 热卖 特价 正品 官方 包邮 奢华 豪华
""")
)
"""Words that a title variant may leave out, besides praise and uses."""

MEANINGFUL_FUNCTION_WORDS = frozenset(
    _split("""
for with without fits not no non-
""")
)
"""Function words that decide what a title sells: a case for a phone is no phone with a case."""
