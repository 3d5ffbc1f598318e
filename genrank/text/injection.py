"""What is done to every text before it goes anywhere, and to a shop's data before a model reads it."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterable

from genrank.text.clean import clean, fold

_PASSES = 8
_LONGEST_PHRASE = 12


def _any(words: str) -> str:
    """A pattern for any of the words; `_` stands for a space."""
    return "(?:" + "|".join(word.replace("_", " ") for word in words.split()) + ")"


_ROLE = _any("system user assistant human ai bot developer instructions? response 系统 系統 用户 用戶 助手 助理")
_ROLE_NAME = _any("system user assistant model tool developer human ipython function")
_SPECIAL_NAME = (
    r"(?:s|[bus]os|eo[smtd]|pad|unk|mask|cls|sep|image|think|thinking|tools?|function|inst|instructions?|prompt|"
    rf"context|query|{_ROLE_NAME}|0x[0-9a-f]{{2}}|unused\d{{1,4}}|[a-z0-9]{{1,20}}_[a-z0-9_]{{1,30}})"
)
_SIGNS = re.compile(r"[<>\[\]|#:{}`]")

# What is in a group is kept. Matched in folded text, so look-alikes count.
_MARKER = re.compile(
    rf"<\|[^<>|\n]{{0,40}}\|>(?: ?{_ROLE_NAME}\b)?"  # <|im_start|>system, <|start_header_id|>, <｜User｜>
    rf"|<</?[a-z]{{1,12}}>>|</?{_SPECIAL_NAME}>(?:[ \n]?{_ROLE_NAME}\b)?"  # <<SYS>>, </s>, <start_of_turn>model
    r"|<\||\|>"
    r"|`{3,}|[\[\]\"'`,:]{0,8}[{}][{}\[\]\"'`,:]++|[\[\]\"'`,:]{1,8}[{}]"  # ends and beginnings of JSON, fences of code
    r"|\[/?(?:inst|[a-z]{1,12}_[a-z_]{1,20})\]"  # [/INST], [SYSTEM_PROMPT]
    rf"|\[ ?/?({_ROLE}|mask|gmask|\w{{1,3}}) ?\]"  # [A], [12], [XL], [MASK]
    r"|\] ?> ?\["
    r"|(?:(?<=[a-z0-9])(?<!\w\w)|(?<=\d\d)(?<!\w\d\d))[\]) ]{0,2}>[ \[(]{0,2}"
    r"(?=(?:[a-z]|\d{1,2})(?!\w))"  # the signs of A > B > C
    rf"|#{{2,}} ?(?:({_ROLE}) ?:)?"  # ### Instruction:
    rf"|(?:^|(?<=[\n.!?。;|>\])}}\"'*-])|(?<=[.!?。;|>\])}}\"'*-] ))({_ROLE}) ?:"
)

_PRAISE = re.compile(
    r"(?<!\w)(?:best ?sell(?:er|ing)s?|top[ -]rated|(?:perfect|best|ideal|exact) (?:match|choice|pick|answer|result)|"
    r"must[ -]have|highly recommended|customers? favou?rite|(?:number|no\.?) (?:1|one)|#1|"
    r"(?:5|five)(?: (?:out )?of (?:5|five))? stars?|100 ?% (?:match|relevant|satisfaction))(?!\w)"
)
_STUFFED = 3  # so much praise in one text is not there for the shopper

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
_RANK = (
    "rank rate score sort order prioritize prioritise promote "
    "clasifica clasifique ordena classe classez classer ordne sortiere classifica classifique rankt ranke ранжируй"
)
_PUT = (
    "put place list position show choose select recommend coloca coloque pon ponga posiciona sitúa situa "
    "mets mettez placez setze setzt stelle stell platziere platzieren metti mettete posizionare poe ponha "
    "поставь поставьте размести разместите помести ضع رتب صنف"
)
_THIS = _any(
    "this_one this it me us my our these este esta esto ce cet cette moi dies diese dieses diesen das mich "
    "questo questa quest' isto isso этот эту это هذا هذه"
)
_THING = _any(
    "listing item product result offer candidate document one entry me us "
    "producto articulo anuncio resultado produit article annonce resultat produkt artikel angebot ergebnis "
    "prodotto articolo annuncio produto artigo товар продукт объявление المنتج المنتوج السلعة"
)
_FIRST = (
    r"(?:first|top(?! of (?!the (?:list|results?|rank\w{0,6}|search|page)\b))|#1|no\.? ?1|number (?:one|1)|rank 1|1st|"
    r"highest|above|primer[oa]?|primeir[oa]|arriba|premiere?|en tete|en haut|erste[rn]?|ganz oben|platz (?:1|eins)|"
    r"zuerst|spitze|prim[oa]|in cima|перв(?:ый|ым|ое|ую|ой|ом)|наверх|الأول|الأولى|الاول|الاولى|أولا|اولا|القمة)"
)
_RANKERS = "ai llm ranker reranker model assistant engine judge chatbot"
_JUDGE = _any(f"{_RANKERS} language_model search_engine ranking_system")

_COMMANDS = (
    rf"{_any(_IGNORE)}{_GAP}{{0,2}}?\W{{1,3}}{_EARLIER}(?:{_GAP}{{0,4}}?\W{{1,3}}{_INSTRUCTIONS})\b",
    rf"{_any(_IGNORE)}{_GAP}{{0,2}}?\W{{1,3}}{_INSTRUCTIONS}{_GAP}{{0,2}}?\W{{1,3}}{_EARLIER}\b",
    r"(?:ignore|disregard|forget) (?:everything|all|anything) (?:above|before|else|you)\b",
    rf"{_any(_RANK)}\W{{1,3}}{_THIS}{_GAP}{{0,5}}?\W{{1,3}}{_FIRST}(?!\w)",
    rf"rank (?:listing |item |product |number )?\[?(?:[a-z]|\d{{1,2}})\]? (?:as |at |the ){{0,2}}{_FIRST}(?!\w)",
    rf"{_any(_PUT)}\W{{1,3}}(?:{_THIS}\W{{1,3}})?{_THING}{_GAP}{{0,4}}?\W{{1,3}}{_FIRST}(?!\w)",
    (
        rf"(?:always |must |should )(?:be )?(?:rank|ranked|placed|listed|put|come|appear|sorted){_GAP}{{0,3}}?\W{{1,3}}"
        rf"{_FIRST}(?!\w)"
    ),
    (
        rf"you (?:must|shall|should|need to|are (?:required|instructed|told|ordered) to){_GAP}{{0,2}}?\W{{1,3}}"
        r"(?:answer|rank|respond|reply|output)\b"
    ),
    rf"(?:answer|respond|reply|output|print){_GAP}{{0,3}}?\W{{1,3}}(?:yes|true|relevant)(?!\w)",
    rf"(?:do not|don't|never) (?:rank|recommend|show|list|choose){_GAP}{{0,2}}?\W{{1,3}}(?:others|competing)\b",
    r"(?:all|every|the|any) other (?:listing|item|product|result|candidate)s (?:are|must|should)\b",
    (
        rf"(?:the|this is the|is the) (?:only |most )?(?:correct|right|relevant|perfect|best|expected|final) "
        rf"(?:answer|ranking|order|match|result){_GAP}{{0,3}}?\W{{1,3}}(?:query|search|request)\b"
    ),
    r"(?:most|highly|perfectly|fully) relevant to (?:the|this|your|any|every) (?:query|search|request)\b",
    rf"you are(?: now)?(?: an?| the)?{_GAP}{{0,2}}?\W{{1,3}}{_JUDGE}\b",
    (
        r"(?:note|message|instructions?|attention|notice|dear|hello|hey|hi)(?: to| for)?(?: the| all| any)?"
        rf"\W{{1,3}}{_JUDGE}(?: reading| ranking|s\b|[:,!.])"
    ),
    rf"say (?:yes|no|true) to (?:this|the|every|all|any|each)\W{{1,3}}{_THING}\b",
    r"(?:is|are) (?:the |an? )?(?:only |very )?(?:best|perfect|exact|closest|ideal) (?:match|fit|answer|result)(?!\w)",
    rf"ahead of (?:all|every|any)(?: the)? others?(?: {_THING}s?)?(?!\w)",
    rf"(?:most|highly|perfectly|fully|exactly) relevant (?:choice|option|match|answer|{_THING})(?!\w)",
    r"exactly what (?:you|they|the (?:shopper|user|customer)) (?:want|need|search|asked|(?:are|is) looking)\w*",
    r"relevan(?:t|ce|cy|z)\W{1,5}(?:yes|true|1|high|ja)(?!\w)",
    r"rank\W{0,2}[:=]\W{0,3}1(?![\w.])",
    rf"(?:result|answer|winner|choice) ?: (?:exactly )?this {_THING}\b",
    rf"exactly this {_THING}(?!\w)",
    r"end of (?:the |this )?(?:search )?(?:listings?|lists?|results|candidates|products|items)(?!\w)",
    r"antwort(?:e|et|en)(?: immer| nur| bitte)? mit (?:ja|nein)(?!\w)",
    rf"(?:setze|setzt|stelle|stellt|platziere|platziert) (?:dies\w{{0,2}}|das|es){_GAP}{{0,3}}?\W{{1,3}}{_FIRST}(?!\w)",
    r"new (?:instructions?|rules?|task|system prompt) ?:",
    r"system (?:prompt|override|instruction|message) ?:",
)
# Each command holds a word of both; texts without them need no closer look.
_TRIGGERS = frozenset(
    f"{_IGNORE} {_RANK} {_PUT} always must shall should need required instructed told ordered answer respond reply "
    "output print never not don other others right correct relevant perfect best expected final are "
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
    r"(?:忽略|无视|無視|忽视|忘记|忘掉|不要理会|抛开)[^。!?\n]{0,12}(?:指令|指示|提示|说明|規則|规则|要求|命令|設定|设定)",
    (
        r"(?:把|将|將)?(?:这|這|此|本|该|該|(?<=[把将將])[它其])[个個款件条條项項]?[^。!?\n]{0,6}(?:排|放|列|置|评|評)[^。!?\n]{0,4}"
        r"(?:第一|首位|最前|第1|榜首|顶部|頂部|最上|前面)"
    ),
    r"(?:必须|必須|一定要|只能|应该|應該|请|請)(?:回答|选择|選擇|输出|輸出|排)[^。!?\n]{0,8}(?:是|相关|相關|第一|这|這|本|yes)",
    r"你(?:现在|現在)?是(?:一个|一個|一名)?[^。!?\n]{0,8}(?:助手|助理|模型|排序|评委|裁判)",
    r"(?:以前|前|上記|上|これまで|すべて|全て|他)の?[^。!?\n]{0,6}(?:指示|命令|指図|ルール)[^。!?\n]{0,6}(?:無視|忘れ|従わ)",
    r"(?:この|本)(?:商品|製品|アイテム|結果|品)?[をが][^。!?\n]{0,8}(?:1位|一位|一番|最初|先頭|トップ|最上位)",
    r"(?:이전|위의|앞의|모든|기존)[^.!?\n]{0,10}(?:지시|명령|지침|규칙)[^.!?\n]{0,6}(?:무시|잊)",
    r"이 ?(?:상품|제품|항목|결과)[을를][^.!?\n]{0,10}(?:1위|첫 ?번째|맨 ?위|최상위|일위)",
)


def _patterns(forms: Iterable[str], edge: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The forms with the rest of their sentence, and without."""
    found = edge + "(?:" + "|".join(f"(?:{form})" for form in forms) + ")"
    return re.compile(found + r"[^.!?。|\n]*+[.!?。]*+"), re.compile(found)


_TOLD = _patterns(_COMMANDS, r"(?<!\w)")
_TOLD_UNSPACED = _patterns(_UNSPACED, "")
_UNSPACED_STARTS = re.compile("[把将將忽无無忘不抛这這此本该該必一只应應请請你以前上こす全他이위앞모기]")
_REPEATED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2,20}?)\1{2,}")
_WORDS_ONLY = bytes(code if chr(code).isalnum() or code == ord("_") else ord(" ") for code in range(128)) + bytes(128)
_WORD = re.compile(r"\w+")
_LETTER = re.compile(r"[^\W\d_]")


def neutralise(text: str, own: re.Pattern[str] | None = None, *, keep: bool = False) -> str:
    """A text that a shop or a shopper wrote, as one clean line that stays data for the model that reads it.

    Special tokens and role markers of chat templates go, also in look-alike characters; brackets around short names
    (``[3]``, ``[A]``) and signs between them (``A > B``) go, the names stay; sentences that tell the ranker what to
    do go (English, Chinese, and the plainest ones in further languages); a phrase repeated three or more times in a
    row stays once, and three or more phrases of praise go. It is a filter of known forms, so a new form may pass. A
    text made of nothing else becomes empty. The result is never longer than the text, and neutralising it again
    changes nothing.

    Args:
        text: Any text.
        own: What else has to go: matched in lower case without accents, such as a prompt's own question.
        keep: Whether something must be left, as of a title: where nothing else would be, the rest of a command, and
            in the end its words, or a dash.
    """
    lines = [text] if text.isprintable() else text.splitlines()
    plain = "\n".join(line for part in lines if (line := clean(part)))
    harmless = _harmless(plain, own, keep)
    if keep and plain and not _WORD.search(harmless):
        words = " ".join(_WORD.findall(plain))
        return _harmless(words, own, keep) or words or harmless or "-"
    return harmless


def _harmless(text: str, own: re.Pattern[str] | None, keep: bool) -> str:
    """The text after as many passes as still change it: what one takes away may show the next more."""
    for _ in range(_PASSES):
        harmless = _pass(text, own, keep)
        if harmless == text:
            return text
        text = harmless
    return ""  # markers within markers within markers: nobody writes this but to get through


def _pass(text: str, own: re.Pattern[str] | None, keep: bool) -> str:
    folded = fold(text)
    if own and own.search(folded):
        return clean(_without(own, text))
    if text.isalnum() and text.isascii():
        return text  # one word, as most values of attributes are
    words = folded.encode().translate(_WORDS_ONLY).decode().split() if text.isascii() else _WORD.findall(folded)
    known = set(words)
    changed = text
    if len(words) - len(known) > 1 and len(set(itertools.pairwise(words))) < len(words) - 1:
        changed = _once(changed)
    if _SIGNS.search(folded):
        changed = _without(_MARKER, changed)
    if len(_PRAISE.findall(folded)) >= _STUFFED:
        changed = _without(_PRAISE, changed)
    if not _TRIGGERS.isdisjoint(known) and not _OBJECTS.isdisjoint(known):
        changed = _untold(_TOLD, changed, keep)
    if not text.isascii():
        if _UNSPACED_STARTS.search(folded):
            changed = _untold(_TOLD_UNSPACED, changed, keep)
        changed = _REPEATED.sub(r"\1", changed)
    return clean(changed) if changed is not text or "\n" in text else text


def _without(pattern: re.Pattern[str], text: str) -> str:
    """The text without what the pattern finds in its folded form; a match's last group is kept."""
    kept = []
    at = 0
    for match in pattern.finditer(fold(text)):
        start, end = match.span(match.lastindex) if match.lastindex else (match.end(), match.end())
        kept += [text[at : match.start()], " " * (start > match.start()), text[start:end], " " * (end < match.end())]
        at = match.end()
    return "".join([*kept, text[at:]]) if kept else text


def _untold(patterns: tuple[re.Pattern[str], re.Pattern[str]], text: str, keep: bool) -> str:
    """The text without its commands to the end of their sentences; to `keep` something, without the mere commands."""
    left = _without(patterns[0], text)
    return _without(patterns[1], text) if keep and left is not text and not _WORD.search(left) else left


def _once(text: str) -> str:
    """The text with each phrase of up to 12 words that is repeated three or more times in a row said once."""
    found: list[re.Match[str]] = []
    for length in range(1, _LONGEST_PHRASE + 1):
        if not found:
            found = list(_WORD.finditer(fold(text)))
            words = [match[0] for match in found]
        again = bytes(map(operator.eq, words, words[length:]))  # 1 where the word stands again `length` words later
        kept = []
        at = 0  # in `text`
        first = again.find(b"\1" * (2 * length))
        while first >= 0:
            end = again.find(b"\0", first)
            end = len(again) if end < 0 else end
            repeats = (end - first) // length + 1
            if any(map(_LETTER.search, words[first : first + length])):  # 10-10-10 says something
                kept.append(text[at : found[first + length - 1].end()])
                at = found[first + repeats * length - 1].end()
            first = again.find(b"\1" * (2 * length), end)
        if kept:
            text = "".join([*kept, text[at:]])
            found = []
    return text
