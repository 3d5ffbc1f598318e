"""Removes prompt injections from a shop's data before a model reads it.

Harmless text must stay as it was written. So a suspicious word is not enough for a rule here: it needs a form that
shops and shoppers do not write. In a clone, ``python -m eval.false_positives`` lists what the rules change in real
texts.
"""

from __future__ import annotations

import itertools
import operator
import re
import sys
import unicodedata
from collections.abc import Iterable

import regex

from genrank.text.clean import clean, fold

_PASSES = 8
_LONGEST_PHRASE = 12


def _any(words: str) -> str:
    """A pattern that matches any of the words; `_` stands for a space."""
    return "(?:" + "|".join(word.replace("_", " ") for word in words.split()) + ")"


_ROLE = _any("system user assistant human ai bot instructions? response 系统 系統 用户 用戶 助手 助理")
# speakers in a transcript; "Human: Fall Flat" is a game, so human does not count at the very beginning
_SPEAKER = _any("system user assistant human 系统 系統 用户 用戶 助手 助理")
_ROLE_NAME = _any("system user assistant model tool developer human ipython function")
_TOKEN_NAME = rf"(?:bos|eo[smtd]|unk|cls|sep|inst|instructions?|{_ROLE}|0x[0-9a-f]{{2}}|unused\d{{1,4}})"
# names of special tokens that a shop may also write: they count only in lower case, as tokenizers write them
_SHOP_NAME = (
    rf"(?:[su]|pad|mask|image|think|thinking|tools?|prompt|context|query|{_ROLE_NAME}|"
    r"[a-z0-9]{1,20}_[a-z0-9_]{1,30})"
)
_UPPER_NAME = r"(?:available|tool|system|user|assistant|img|image|begin|end|start|audio|inst)_[a-z_]{1,20}"
_SIGNS = re.compile(r"[<>\[\]|#:{}`]")

# A group named in `_KEPT` holds text that is kept. The pattern is matched against folded text, so look-alikes count.
_MARKER = re.compile(
    rf"<\|[^<>|\n]{{0,40}}\|>(?: ?{_ROLE_NAME}\b)?"  # <|im_start|>system, <|start_header_id|>, <｜User｜>
    rf"|<</?(?:sys|inst|{_ROLE_NAME})>>|</?{_TOKEN_NAME}>(?:[ \n]?{_ROLE_NAME}\b)?"  # <<SYS>>, <eos>
    rf"|(?P<lower></?{_SHOP_NAME}>)(?:[ \n]?{_ROLE_NAME}\b)?"  # </s>, <start_of_turn>model
    r"|<\||\|>"
    r"|`{3,}|(?P<json>[\[\]\"'`,:]{0,8}[{}][{}\[\]\"'`,:]++|[\[\]\"'`,:]{1,8}[{}])"  # fences of code, JSON's ends
    rf"|\[/?inst\]|(?P<upper>\[/?{_UPPER_NAME}\])"  # [/INST], [SYSTEM_PROMPT]
    rf"|\[ ?/?(?P<name>{_ROLE}|mask|gmask|[a-z]{{1,2}}|\d{{1,2}}|100) ?\]"  # [A], [12], [XL], [MASK]
    r"|\] ?> ?\["
    rf"|(?<!\w)#{{2,}} ?(?:(?P<heading>{_ROLE}) ?:)?"  # ### Instruction:
    rf"|(?:^(?!human\b)|(?<=[\n.!?。;|>\])}}\"'*])|(?<=[.!?。;|>\])}}\"'*-] ))(?P<role>{_SPEAKER}) ?:"
)
_KEPT = ("name", "heading", "role")
_NOT_JSON = frozenset(["{", "}", "{}", "}{"])  # without commas and colons
# after a title, [M] is a size or a game's age rating, [5] a count, [US] a country
_SIZE_OR_AGE = frozenset("SMLET")
_POINTING = re.compile(r"(?<!\w)(?:is|are|best|first|answer|rank|ranking|choose|select|top)(?!\w)|[>:=\[].*\[")
_RANKED = re.compile(  # A > B > C, [2] > [1]
    r"(?<![\w])(?:[\[(] ?)?(?:[a-z]|\d{1,2})(?: ?[\])])?(?: ?> ?(?:[\[(] ?)?(?:[a-z]|\d{1,2})(?!\w)(?: ?[\])])?)+"
)

_PRAISE = re.compile(
    r"(?<!\w)(?:best ?sell(?:er|ing)s?|top[ -]rated|(?:perfect|best|ideal|exact) (?:match|choice|pick|answer|result)|"
    r"must[ -]have|highly recommended|customers? favou?rite|(?:number|no\.?) (?:1|one)|#1|"
    r"(?:5|five)(?: (?:out )?of (?:5|five))? stars?|100 ?% (?:match|relevant|satisfaction)|"
    r"exactly what (?:you|they) want)(?!\w)"
)
_STUFFED = 4  # this many words of praise within `_STUFFED_WITHIN` characters are not meant for a shopper
_STUFFED_WITHIN = 200

_GAP = r"(?:\W{1,3}\w{1,20})"
_EARLIER = _any(
    "all any every previous prior above earlier preceding former other these your system "
    "anteriores anterior previas previos todas todos "
    "precedentes precedente toutes tous ci-dessus dessus "
    "alle allen vorherigen vorigen bisherigen obigen fruheren vorhergehenden "
    "precedenti tutte tutti предыдущие прошлые все السابقة جميع كل"
)
_INSTRUCTIONS = _any(
    "instructions? prompts? rules? directions? guidelines? commands? orders context listings? candidates results "
    "instrucciones indicaciones reglas instrucoes regras consignes regles "
    "anweisung(?:en)? instruktionen vorgaben regeln befehle istruzioni regole "
    "инструкции указания правила التعليمات الاوامر الأوامر"
)
_IGNORE = (
    "ignore disregard forget override bypass neglect ignora ignorez ignorer ignorar ignorad ignoren olvida olvide "
    "olvidad oublie oubliez ignoriere ignorieren ignoriert vergiss vergessen missachte dimentica ignorate esqueca "
    "desconsidere игнорируй игнорируйте забудь забудьте проигнорируй تجاهل انس"
)
_RANK = "rank prioritize prioritise"
_SORT = (
    "rate score sort promote "
    "clasifica clasifique ordena classe classez classer ordne sortiere classifica classifique rankt ranke ранжируй"
)
_PUT = "put place list position show choose select recommend"
_PUT_ABROAD = (
    "coloca coloque pon ponga posiciona sitúa situa "
    "mets mettez placez setze setzt stelle stell platziere platzieren metti mettete posizionare poe ponha "
    "поставь поставьте размести разместите помести ضع رتب صنف"
)
_THIS = _any(
    "this_one this it me us my our these este esta esto ce cet cette moi dies diese dieses diesen das mich "
    "questo questa quest' isto isso этот эту это هذا هذه"
)
_THING = _any(
    "listing item product result offer candidate document entry "
    "producto articulo anuncio resultado produit article annonce resultat produkt artikel angebot ergebnis "
    "prodotto articolo annuncio produto artigo товар продукт объявление المنتج المنتوج السلعة"
)
_ENDED = (  # before these, "first" is a place in a list; "first aid" and "top quality" are not
    r"(?=\W*$|[ \t]*[^\w\s-]|\s*\n| (?:in|on|for|of|always|now|please|and|or|among|over|before|ahead|position|place|"
    r"spot|slot|result|choice|because|since|as|to|regardless|every|all|at|by)\b)"
)
_OF_THE_LIST = r"(?: of (?:the )?(?:list|results?|rank\w{0,6}|search|page)\b)"
_FIRST_ABROAD = (
    r"primer[oa]?|primeir[oa]|arriba|premiere?|en tete|en haut|erste[rn]?|ganz oben|platz (?:1|eins)|"
    r"zuerst|spitze|prim[oa]|in cima|перв(?:ый|ым(?! делом)|ое|ую|ой|ом)|наверх|"
    r"الأول|الأولى|الاول|الاولى|أولا|اولا|القمة"
)
_FIRST = (
    rf"(?:first|top(?! of (?!the (?:list|results?|rank\w{{0,6}}|search|page)\b))|#1|no\.? ?1|number (?:one|1)|rank 1|"
    rf"1st|highest|above|{_FIRST_ABROAD})"
)
_FIRST_PLACE = (
    rf"(?:(?:first|#1|no\.? ?1|number (?:one|1)|rank 1|1st|highest){_ENDED}|top(?:{_OF_THE_LIST}|(?! of\b){_ENDED})|"
    rf"above(?= (?:the |all |any |every )*(?:others?|rest|competi\w*))|{_FIRST_ABROAD})"
)
_RANKERS = "ai llm ranker reranker model assistant engine judge chatbot"
_JUDGE = _any(f"{_RANKERS} language_model search_engine ranking_system")

_AT_WORK = (  # you are an AI engineer, says a mug
    r"(?=\W*$|[ \t]*[^\w\s]|\s*\n| (?:that|who|which|whose|tasked|ranking|reading|and|for|to|in|of|now|trained|"
    r"designed|built|working|with|you|must|should|will)\b)"
)
_SENTENCE = r"(?:^|(?<=\n)|(?<=[.!?:;\"'] )|(?<=[.!?\"']))"

# without a negation: "do not forget to read all instructions" is good advice
_NEGATIONS = ("not", "n't", "n’t", "never", "no", "non", "ne", "nunca", "не", "nicht", "لا")
_NEGATED = "".join(f"(?<!{word} )" for word in _NEGATIONS) + "(?<!n')(?<!n’)"
_DO_IGNORE = (
    rf"(?={_any(_IGNORE)}){_NEGATED}{_any(_IGNORE)}"
    rf"(?!{_GAP}?\W{{1,3}}(?:nicht|pas|not)\b)(?!\W{{1,3}}(?:nicht|pas|not)\b)"
)
_TO_GAP = (
    r"(?:\W{1,3}(?:in|at|on|as|to|the|a|an|very|of|into|position|rank|spot|slot|place|number|your|our|its|always))"
)

_COMMANDS = (
    rf"{_DO_IGNORE}{_GAP}{{0,2}}?\W{{1,3}}{_EARLIER}(?:{_GAP}{{0,4}}?\W{{1,3}}{_INSTRUCTIONS})\b",
    rf"{_DO_IGNORE}{_GAP}{{0,2}}?\W{{1,3}}{_INSTRUCTIONS}{_GAP}{{0,2}}?\W{{1,3}}{_EARLIER}\b",
    r"(?:ignore|disregard) (?:everything|all|anything) (?:above|before|else|you)\b",
    r"forget (?:everything|all|anything) (?:above|before\W{0,3}(?:this|$|[.\n])|you (?:were|are|have been) told)(?!\w)",
    rf"{_any(_RANK)}\W{{1,3}}{_THIS}{_GAP}{{0,5}}?\W{{1,3}}{_FIRST}(?!\w)",
    rf"{_any(_SORT)}\W{{1,3}}{_THIS}{_GAP}{{0,5}}?\W{{1,3}}{_FIRST_PLACE}(?!\w)",
    rf"rank (?:listing |item |product |number )?\[?(?:[a-z]|\d{{1,2}})\]? (?:as |at |the ){{0,2}}{_FIRST}(?!\w)",
    rf"{_any(_PUT)}\W{{1,3}}(?:{_THIS}\W{{1,3}})?{_THING}{_TO_GAP}{{0,4}}?\W{{1,3}}{_FIRST_PLACE}(?!\w)",
    rf"{_any(_PUT_ABROAD)}\W{{1,3}}(?:{_THIS}\W{{1,3}})?{_THING}{_GAP}{{0,4}}?\W{{1,3}}{_FIRST_PLACE}(?!\w)",
    rf"{_any('put place list position')} (?:me|us|this one){_GAP}{{0,2}}?\W{{1,3}}{_FIRST_PLACE}(?!\w)",
    (
        rf"(?:must |should |shall )(?:always )?(?:be )?(?:rank|ranked|listed|appear|sorted){_GAP}{{0,3}}?\W{{1,3}}"
        rf"{_FIRST_PLACE}(?!\w)"
    ),
    (
        rf"{_THING}\W{{1,3}}(?:always |must |should )(?:be )?(?:placed|put|come){_GAP}{{0,3}}?\W{{1,3}}"
        rf"{_FIRST_PLACE}(?!\w)"
    ),
    (
        rf"you (?:must|shall|should|need to|are (?:required|instructed|told|ordered) to){_GAP}{{0,2}}?\W{{1,3}}"
        r"(?:rank\b|(?:answer|respond|reply|output)\W{1,3}"
        r"(?:yes|no|true|false|with|only|this|relevant|json|first|the (?:letter|number|name))\b)"
    ),
    rf"(?:answer|respond|reply){_GAP}{{0,3}}?\W{{1,3}}(?:(?:yes|true){_ENDED}|relevant)(?!\w)",
    rf"(?:output|print){_GAP}{{0,3}}?\W{{1,3}}(?:yes|relevant)(?!\w)",
    rf"(?:do not|don't|never) (?:rank|recommend|show|list|choose){_GAP}{{0,2}}?\W{{1,3}}(?:others|competing)\b",
    r"(?:all|every|the|any) other (?:listing|result|candidate)s (?:are|must|should)\b",
    (
        r"(?:all|every|the|any) other (?:item|product)s (?:are|must be|should be) "
        r"(?:irrelevant|not relevant|wrong|bad|worse|inferior|ignored|ranked|lower|last)\b"
    ),
    (
        rf"(?:the|this is the|is the) (?:only |most )?(?:correct|right|relevant|perfect|best|expected|final) "
        rf"(?:answer|ranking|order|match|result){_GAP}{{0,3}}?\W{{1,3}}(?:query|search|request)\b"
    ),
    r"(?:most|highly|perfectly|fully) relevant to (?:the|this|your|any|every) (?:query|search|request)\b",
    rf"you are now(?: an?| the)?{_GAP}{{0,2}}?\W{{1,3}}{_JUDGE}\b",
    rf"(?=you are){_SENTENCE}you are(?: an?| the)?{_GAP}{{0,2}}?\W{{1,3}}{_JUDGE}{_AT_WORK}",
    (
        r"(?:note|message|instructions?|attention|notice|dear|hello|hey|hi)(?: to| for)(?: the| all| any)?"
        rf"\W{{1,3}}{_JUDGE}(?: {_JUDGE})?(?: reading| ranking|s\b|[:,!.])"
    ),
    (
        r"(?:note|message|instructions?|attention|notice|dear|hello|hey|hi)(?: the| all| any)?"
        rf"\W{{1,3}}{_any('ai llm ranker reranker assistant chatbot language_model search_engine ranking_system')}"
        r"(?: reading| ranking|s\b|[:,!.])"
    ),
    rf"(?:dear|hello|hey)(?: ranking)? {_JUDGE}(?: {_JUDGE})?[:,!.]",
    rf"say (?:yes|no|true) to (?:this|the|every|all|any|each)\W{{1,3}}(?:one\b(?= and no)|{_THING})\b",
    (
        r"(?:is|are) the (?:only |very )?(?:best|exact|closest) (?:match|answer|result)"
        r"(?=\W*$|[^\w\s-]|\n| for (?:the|this|your|any|every) (?:query|search|request)| ahead)"
    ),
    rf"ahead of (?:all|every|any)(?: the)? others? {_THING}s?(?!\w)",
    rf"(?:most|highly|perfectly|fully|exactly) relevant (?:choice|option|match|answer|{_THING})(?!\w)",
    (
        rf"(?=exactly what)(?:{_SENTENCE}|(?<=[,\n] ))exactly what (?:you|they|the (?:shopper|user|customer)) "
        r"(?:search|asked|(?:are|is) looking)\w*"
    ),
    r"relevan(?:t|ce|cy|z)\W{0,3}[:=]\W{0,3}(?:yes|true|1|high|ja)(?!\w)",
    r"rank\W{0,2}[:=]\W{0,3}1(?![\w.])",
    rf"(?:result|answer|winner|choice) ?: (?:exactly )?this {_THING}\b",
    rf"exactly this {_THING}(?!\w)",
    (
        rf"(?=end of){_SENTENCE}end of (?:the |this )?(?:search )?"
        r"(?:listings?|lists?|results|candidates|products|items)"
        r"(?=\W*$|[^\w\s]|\n)"
    ),
    r"antwort(?:e|et|en)(?: immer| nur| bitte)? mit (?:ja|nein)(?!\w)",
    rf"(?:setze|setzt|stelle|stellt|platziere|platziert) (?:dies\w{{0,2}}|das|es){_GAP}{{0,3}}?\W{{1,3}}{_FIRST}(?!\w)",
    r"new (?:instructions?|system prompt) ?:",
    r"system (?:prompt|override|instruction|message) ?:",
)
# Each command holds a word of both sets; texts without them need no closer look.
_TRIGGERS = frozenset(
    f"{_IGNORE} {_RANK} {_SORT} {_PUT} {_PUT_ABROAD} always must shall should need required instructed "
    "told ordered answer respond reply output print never not don other others right correct relevant perfect "
    "best expected final are "
    "note message instruction instructions attention notice dear hello hey hi new system "
    "say is are ahead most highly perfectly fully exactly relevant relevance relevancy relevanz rank result winner "
    "choice end antworte antwortet antworten setze setzt stelle stellt platziere platziert".split()
)
_OBJECTS = frozenset(
    f"{_RANKERS} instruction instructions prompt prompts rule rules direction directions guideline guidelines command "
    "commands orders context listing listings candidate candidates results everything anything override task message "
    "instrucciones indicaciones reglas instrucoes regras consignes regles anweisung anweisungen instruktionen "
    "vorgaben regeln befehle istruzioni regole инструкции указания правила التعليمات الاوامر الأوامر "
    "first top 1 number 1st highest above primero primera primer primeiro primeira arriba premier premiere tete haut "
    "erste ersten erster zuerst oben eins spitze primo prima cima наверх первый первым первое первую первой первом "
    "الأول الأولى الاول الاولى أولا اولا القمة "
    "answer rank respond reply output yes true relevant others competing items products "
    "query search request match fit result choice option offer document one listing item product entry list lists "
    "want wants need needs searched looking asked asks high ja nein relevance relevancy relevanz".split()
)
# Chinese, Japanese and Korean
_UNSPACED = (
    r"(?<![勿不别莫能可])(?:忽略|无视|無視|忽视|忘记|忘掉|不要理会|抛开)[^。!?\n]{0,12}(?:指令|指示|提示|说明|規則|规则|要求|命令|設定|设定)",
    (
        r"(?:把|将|將)?(?:这|這|此|本|该|該|(?<=[把将將])[它其])[个個款件条條项項]?[^。!?\n]{0,6}"
        r"(?:(?:排|列|评|評)[^。!?\n]{0,4}(?:第一|首位|最前|第1|榜首|顶部|頂部|最上|前面)|"
        r"(?:放|置)[^。!?\n]{0,4}(?:第一|首位|最前|第1|榜首))"
    ),
    r"(?:必须|必須|一定要|只能|应该|應該|请|請)(?:回答|输出|輸出)[^。!?\n]{0,8}(?:是|相关|相關|第一|这|這|本|yes)",
    r"(?:必须|必須|一定要|只能|应该|應該|请|請)(?:选择|選擇)[这這本][个個款件条條项項]?(?:商品|产品|產品|结果|結果|选项|選項)",
    r"(?:必须|必須|一定要|只能|应该|應該|请|請)排[^。!?，,\n]{0,8}(?:第一|首位|最前|榜首)",
    (
        r"(?<![果若管论論要])你(?:现在是|現在是|是(?:一个|一個|一名))[^。!?\n]{0,8}"
        r"(?:助手|助理|模型(?![爱愛迷控玩])|排序|评委|裁判)"
    ),
    r"(?:以前|前|上記|上|これまで|すべて|全て|他)の?[^。!?\n]{0,6}(?:指示|命令|指図|ルール)[^。!?\n]{0,6}(?:無視|忘れ(?!ず|な)|従わないで)",
    (
        r"(?:この|本)(?:商品|製品|アイテム|結果|品)?を[^。!?\n]{0,8}"
        r"(?:(?:1位|一位|先頭|トップ|最上位)[にへ]|(?:一番上?|最初)に(?:し|置|表示|配置|並べ|出し|ランク))"
    ),
    r"(?:この|本)(?:商品|製品|アイテム|結果)が(?:1位|一位|最上位)(?:です|だ|に)",
    r"(?:이전|위의|앞의|모든|기존)[^.!?\n]{0,10}(?:지시|명령|지침|규칙)[^.!?\n]{0,6}(?:무시|잊)",
    r"이 ?(?:상품|제품|항목|결과)[을를][^.!?\n]{0,10}(?:1위|첫 ?번째|맨 ?위|최상위|일위)(?:로|에)",
)


def _patterns(forms: Iterable[str], edge: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Two patterns: the forms with the rest of their sentence, and the forms alone."""
    found = edge + "(?:" + "|".join(f"(?:{form})" for form in forms) + ")"
    return re.compile(found + r"[^.!?。|\n]*+[.!?。]*+"), re.compile(found)


_TOLD = _patterns(_COMMANDS, r"(?<!\w)")
_TOLD_UNSPACED = _patterns(_UNSPACED, "")
_UNSPACED_STARTS = re.compile("[把将將忽无無忘不抛这這此本该該必一只应應请請你以前上こす全他이위앞모기]")
_UNSPACED_LETTER = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_REPEATED = re.compile(  # two characters five times, or a longer run three times; 哈哈哈 (laughter) stays
    rf"(([{_UNSPACED_LETTER}])(?!\2)[{_UNSPACED_LETTER}])\1{{4,}}|([{_UNSPACED_LETTER}]{{3,20}}?)\3{{2,}}"
)
_WORDS_ONLY = bytes(code if chr(code).isalnum() or code == ord("_") else ord(" ") for code in range(128)) + bytes(128)
_WORD = regex.compile(r"\w+")  # unlike re, regex counts marks and joiners as parts of words
_MARKUP = re.compile(r"[<>{}=\n]")
_LISTED = re.compile(r"[ ;]?[/&+x×-] ?")


def neutralise(text: str, own: re.Pattern[str] | None = None, *, keep: bool = False) -> str:
    """A shop's or a shopper's text as one clean line that a model reads as data, not as instructions.

    Removed are:

    - special tokens and role markers of chat templates, also in look-alike characters;
    - brackets around short names (``[3]``, ``[A]``) and signs between them (``A > B``); the names stay;
    - sentences that tell the ranker what to do (English, Chinese, and the plainest ones in further languages);
    - repetitions of a phrase that comes three or more times in a row (a word: four); it stays once;
    - four or more phrases of praise close together.

    All other text stays as it was written. This is a filter of known forms, so a new form may pass. A text of nothing
    but such forms becomes empty. The result is never longer than the text, and neutralising it again changes nothing.

    Args:
        text: Any text.
        own: What else to remove, such as a prompt's own question; matched in lower case without accents.
        keep: Whether something must be left, as in a title. If nothing would be, the rest of a command is kept, or
            else its words, or a dash.
    """
    lines = [text] if text.isprintable() else text.splitlines()
    plain = "\n".join(line for part in lines if (line := clean(part)))
    harmless = _harmless(plain, own, keep)
    if keep and plain and not _WORD.search(harmless):
        words = " ".join(_WORD.findall(plain))
        return _harmless(words, own, keep) or words or harmless or "-"
    return harmless


def _harmless(text: str, own: re.Pattern[str] | None, keep: bool) -> str:
    """Repeat the passes until the text no longer changes: removing one form may uncover another."""
    for _ in range(_PASSES):
        harmless = _pass(text, own, keep)
        if harmless == text:
            return text
        text = harmless
    return ""  # markers within markers within markers: only an attacker writes this


def _pass(text: str, own: re.Pattern[str] | None, keep: bool) -> str:
    folded = fold(text)
    if own and own.search(folded):
        return clean(_without(own, text))
    if text.isalnum() and text.isascii():
        return text  # one word, like most attribute values
    words = folded.encode().translate(_WORDS_ONLY).decode().split() if text.isascii() else _WORD.findall(folded)
    known = set(words)
    changed = text
    if len(words) - len(known) > 1 and len(set(itertools.pairwise(words))) < len(words) - 1:
        changed = _once(changed)
    if _SIGNS.search(folded):
        if ">" in folded:
            changed = _unranked(changed)
        changed = _without(_MARKER, changed)
    if len(_PRAISE.findall(folded)) >= _STUFFED and _stuffed(folded):
        changed = _without(_PRAISE, changed)
    if not _TRIGGERS.isdisjoint(known) and not _OBJECTS.isdisjoint(known):
        changed = _untold(_TOLD, changed, keep)
    if not text.isascii():
        if _UNSPACED_STARTS.search(folded):
            changed = _untold(_TOLD_UNSPACED, changed, keep)
        changed = _REPEATED.sub(_said_once, changed)
    return clean(changed) if changed is not text or "\n" in text else text


def _stuffed(folded: str) -> bool:
    places = [match.start() for match in _PRAISE.finditer(folded)]
    return any(last - first <= _STUFFED_WITHIN for first, last in zip(places, places[_STUFFED - 1 :], strict=False))


def _said_once(match: re.Match[str]) -> str:
    unit = match[1] or match[3]
    return unit if len(set(unit)) > 1 else match[0]


def _without(pattern: re.Pattern[str], text: str) -> str:
    """The text without the pattern's matches in its folded form, except for groups named in `_KEPT`."""
    kept = []
    at = 0
    for match in pattern.finditer(fold(text)):
        if pattern is _MARKER and _spared(match, text):
            continue
        group = match.lastgroup if match.lastgroup in _KEPT else None
        start, end = match.span(group) if group else (match.end(), match.end())
        kept += [text[at : match.start()], " " * (start > match.start()), text[start:end], " " * (end < match.end())]
        at = match.end()
    return "".join([*kept, text[at:]]) if kept else text


def _spared(match: re.Match[str], text: str) -> bool:
    """Whether a match is something shops write too: ``<S>``, ``Cup[s]``, ``{}``, ``[M]`` after a title."""
    match match.lastgroup:
        case "lower":
            return not _as_written(match, text).islower()
        case "upper":
            return not _as_written(match, text).isupper()
        case "json":
            return match[0].translate({ord(","): None, ord(":"): None}) in _NOT_JSON
        case "name":
            name = text[slice(*match.span("name"))]
            last = match.end() == len(text) and text[: match.start()].endswith(" ")
            plain = name in _SIZE_OR_AGE or len(name) == 2 or (name.isdecimal() and name != "1")  # [1] may be a rank
            return (last and plain and not _POINTING.search(fold(text))) or (len(name) <= 2 and name.islower())
    return False


def _as_written(match: re.Match[str], text: str) -> str:
    return unicodedata.normalize("NFKC", text[slice(*match.span(match.lastgroup or 0))])


def _unranked(text: str) -> str:
    """The text without the signs of an order such as ``A > B > C``; of two names only if they stand apart."""
    folded = fold(text)
    kept = []
    at = 0
    for match in _RANKED.finditer(folded):
        before, after = folded[: match.start()].rstrip(" "), folded[match.end() :].lstrip(" ")
        apart = before[-1:] in ("", ":", ".", "\n") and after[:1] in ("", ".", "\n")
        if match[0].count(">") > 1 or "[" in match[0] or "]" in match[0] or apart:
            end = match.end()
            kept += [
                text[at : match.start()],
                "".join(" " if folded[i] in ">[]" else text[i] for i in range(match.start(), end)),
            ]
            at = end
    return "".join([*kept, text[at:]]) if kept else text


def _untold(patterns: tuple[re.Pattern[str], re.Pattern[str]], text: str, keep: bool) -> str:
    """The text without its commands and the rest of their sentences; with `keep`, without the commands alone."""
    left = _without(patterns[0], text)
    return _without(patterns[1], text) if keep and left is not text and not _WORD.search(left) else left


def _once(text: str) -> str:
    """The text, with each phrase of up to 12 words that repeats too often in a row kept once; see `_too_often`."""
    found: list[regex.Match[str]] = []
    for length in range(1, _LONGEST_PHRASE + 1):
        if not found:
            found = list(_WORD.finditer(text))
            # accents count: dừa dứa dưa are three words
            words = [match[0].lower() if text.isascii() else _plain(match[0]) for match in found]
        again = bytes(map(operator.eq, words, words[length:]))  # 1 where the same word comes `length` words later
        kept = []
        at = 0  # in `text`
        first = again.find(b"\1" * (2 * length))
        while first >= 0:
            end = again.find(b"\0", first)
            end = len(again) if end < 0 else end
            repeats = (end - first) // length + 1
            phrase = words[first : first + length]
            last = found[first + repeats * length - 1].end()
            between = text[found[first].end() : found[first + length].start()] if length == 1 else ""
            if repeats >= _too_often(phrase, between) and not _MARKUP.search(
                text, found[first].end(), found[first + 2 * length - 1].start()
            ):
                kept.append(text[at : found[first + length - 1].end()])
                at = last
            first = again.find(b"\1" * (2 * length), end)
        if kept:
            text = "".join([*kept, text[at:]])
            found = []
    return text


def _plain(word: str) -> str:
    return unicodedata.normalize("NFKC", word).lower()


def _too_often(phrase: list[str], between: str) -> int:
    """How many times in a row a phrase must come to count as stuffing.

    Three times for a phrase; four for one word of four letters or more (``Girls Girls Girls`` is a song); ten for
    anything shorter (``Ho Ho Ho``, ``3 in. x 3 in. x 3 in.``) or a list such as ``Black/Black/Black/Black``. Words with
    a digit count as having no letters, and Chinese, Japanese and Korean characters count twice.
    """
    size = len(phrase)
    if any(phrase[step:] == phrase[:-step] for step in range(1, size // 2 + 1) if size % step == 0):
        return sys.maxsize  # made of a shorter phrase, which was checked already
    letters = sum(len(word) + len(_UNSPACED_LETTERS.findall(word)) for word in phrase if _LETTERS_ONLY.fullmatch(word))
    if letters >= _LONG_PHRASE and (size > 1 or _UNSPACED_LETTERS.search(phrase[0])):
        return 3
    if size == 1 and letters >= _LONG_WORD and not _LISTED.fullmatch(between):
        return 4
    return 10 if letters else sys.maxsize


_LONG_PHRASE, _LONG_WORD = 6, 4
_LETTERS_ONLY = regex.compile(r"[\p{L}\p{M}\u200c\u200d]+")
_UNSPACED_LETTERS = re.compile(f"[{_UNSPACED_LETTER}]")
