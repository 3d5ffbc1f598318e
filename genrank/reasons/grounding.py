"""Checks a reason against the facts: finds its claims, and looks each up in the listing and the history.

A claim is a brand or another name, a number with or without a unit, a price, a rating, a size, a colour, a material, a
feature, a use, another candidate's attribute value, a word of praise, or a word about the shopper's past. It is
grounded where a field says the same. The query is not evidence (a reason may only repeat what use it asks for), and
praise is never grounded. A reason with a claim that is not grounded is rewritten: it then says which words of the
query, or which interaction of the past, the listing meets, and by which of its fields. Where it meets none, there is no
reason.

The check uses rules and word lists (`genrank.reasons.lexicon`), not a model: it misses a claim in words that are on no
list.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from genrank.prompting.history import time_order
from genrank.reasons import lexicon
from genrank.text.clean import clean, number_text
from genrank.text.language import HAN, HANGUL, KANA, LATIN_WORD, Language, language, scripts
from genrank.types import Interaction, Listing, Query

MAX_CHARS = 200
"""The longest reason, in characters."""

Span = tuple[int, int]

_MAX_FIELD_CHARS = 20_000
_MAX_QUOTE_CHARS = 120
_MAX_CLAUSES = 3
_MAX_SHORT = 40  # characters of a value that `describe` names
_MOST_SIZES = 40
_OLDEST = 100
_NO_LATIN_BEFORE, _NO_LATIN_AFTER = r"(?<![a-z0-9])", r"(?![a-z0-9])"
_OPEN_QUOTE = "“"
_BYTES_A_SECOND = re.compile(r"(?<=[kmgtKMGT])B(?=/s|ps)")  # keep their capital: Mb/s are bits
_TEMPERATURES = ("celsius", "fahrenheit")
_DEGREES = ("degrees", *_TEMPERATURES)  # 70 degrees are grounded by 70 °C, but 70 °C only by itself


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim in a reason.

    Attributes:
        kind: Such as ``colour`` or ``number``.
        text: Its words, in lower case.
        fields: The fields that say the same, such as ``attributes.colour``; empty when it is not grounded.
    """

    kind: str
    text: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grounded:
    """A reason after the check.

    Attributes:
        text: One line, at most `MAX_CHARS` characters, with grounded claims only; empty where nothing is worth saying.
        evidence: The fields that support it.
        claims: The claims in the original text.
        rewritten: Whether `text` was rewritten.
    """

    text: str
    evidence: tuple[str, ...]
    claims: tuple[Claim, ...]
    rewritten: bool


@dataclass(frozen=True, slots=True)
class _Measure:
    """A number in a text, with what is measured; `word` instead of a value for sizes and model numbers."""

    span: Span
    kind: str
    value: float = math.nan
    word: str = ""
    systems: tuple[str, ...] = ()  # currencies of a price, or whose sizes these are: ``eu``, ``us``, ``uk``
    counts: bool = False  # whether a noun follows

    def says(self, fact: _Measure) -> bool:
        """Whether a fact bears this claim out."""
        if self.word or fact.word:
            bare = "" in (self.kind, fact.kind) and "size" in (self.kind, fact.kind)
            same = self.word == fact.word or (bare and self._equals(fact))
        else:
            same = self._equals(fact)
        if not same:
            return False
        if self.systems and fact.systems and not {*self.systems} & {*fact.systems}:
            return False
        any_kind = ("", "count", "reviews") if self.counts else (fact.kind,)
        allowed = {"": any_kind, "count": ("count", ""), "size": ("size", ""), "degrees": _DEGREES}
        return fact.kind in allowed.get(self.kind, (self.kind,))

    def _equals(self, fact: _Measure) -> bool:
        own, other = (_float(measure.word) if measure.word else measure.value for measure in (self, fact))
        return math.isclose(own, other, rel_tol=1e-6)


@dataclass(frozen=True, slots=True)
class _Field:
    kind: str  # such as attributes
    name: str
    value: str  # clean
    said: str  # normalised
    past: int | None = None  # which interaction it belongs to
    key: str = ""  # normalised name of an attribute


class Facts:
    """The facts that a reason for one listing may mention.

    Args:
        query: What the shopper typed; sets the reason's language, and which fields are worth mentioning.
        listing: The listing.
        history: The shopper's past; for a long one, some interactions by their places in it, 0-based.
        others: The other candidates, whose values a model may confuse with this listing's.
    """

    def __init__(
        self,
        query: Query,
        listing: Listing,
        history: Sequence[Interaction] | Mapping[int, Interaction] = (),
        others: Sequence[Listing] = (),
    ) -> None:
        self.query: str = normalise(query.text)
        self.language = language(query.text)
        self.history: dict[int, Interaction] = dict(history if isinstance(history, Mapping) else enumerate(history))
        self.fields: list[_Field] = list(_fields(listing))
        self.title: str = self.fields[0].value
        for i, interaction in self.history.items():
            for field in _fields(interaction.listing, f"history[{i}]."):
                if field.kind not in ("rating", "rating_count", "in_stock"):
                    self.fields.append(dataclasses.replace(field, past=i))
            if interaction.rating is not None:
                rating = f"{number_text(interaction.rating)} stars"
                self.fields.append(_Field("rating", f"history[{i}].rating", rating, rating, i))
        self.measures: list[tuple[_Measure, _Field]] = [
            (measure, field) for field in self.fields for measure in _field_measures(field)
        ]
        self.names: dict[str, set[str]] = _names(self.fields, self.title)
        self.telling: set[str] = {
            field.name
            for field in self.fields
            if field.kind in ("brand", "attributes") or (field.kind == "title" and field.past is not None)
        }
        own = [field for field in self.fields if field.past is None]
        self.strange: list[str] = sorted(
            {name for other in others for name in _strange(other, own)}, key=len, reverse=True
        )


def find_claims(text: str, facts: Facts) -> list[Claim]:
    """The claims in a text, each with the fields that say the same.

    Args:
        text: A reason.
        facts: The facts it may mention.
    """
    said = normalise(text)
    claims: list[Claim] = []
    taken: list[Span] = []
    past: dict[Span, set[int]] = {}  # interactions, by the clause that speaks of them
    clauses = _clauses(said)
    for at in re.finditer(re.escape(normalise(_quoted(facts.title))), said):  # a citation, whatever the title says
        taken.append(at.span())
        claims.append(Claim("value", at.group(), ("title",)))
    for event, match in _past_events(said):
        if not _free(match.span(), taken):
            continue
        places = list(facts.history)
        in_order = [places[i] for i in time_order(list(facts.history.values()))]
        known = [i for i in in_order if event in ("", facts.history[i].event)]
        clause = next(span for span in clauses if match.start() < span[1])
        past[clause] = past.get(clause, set()) | set(known)
        about = _content(said[clause[0] : match.start()]) | _content(said[match.end() : clause[1]])
        if about and not any(about & _content(field.said) for field in facts.fields if field.past in known):
            known = []  # it speaks of something else
        if named := _named_of_the_past(said[clause[0] : match.start()], said[match.end() : clause[1]]):
            known = [i for i in known if 2 * len(named & _past_words(facts, i)) >= len(named)]
        claims.append(Claim("history", match.group(), (f"history[{known[-1]}].event",) if known else ()))
        taken.append(match.span())
    own = [field for field in facts.fields if field.past is None]
    in_clause = {
        clause: [*own, *(field for field in facts.fields if field.past in places)] for clause, places in past.items()
    }

    def allowed_at(span: Span) -> list[_Field]:
        return next((fields for (start, end), fields in in_clause.items() if start <= span[0] < end), own)

    measures = list(_measures(said))
    lexemes = list(_lexemes().finditer(said))
    whole = [measure.span for measure in measures] + [match.span() for match in lexemes]
    for value, names in facts.names.items():
        for span in find_words(value, said):
            if not _free(span, taken) or any(_cuts(span, other) for other in whole):
                continue
            allowed = allowed_at(span)
            standing = [field for field in allowed if field.name in names]
            standing = standing or [field for field in allowed if _stands(value, field.said)]
            if standing or facts.telling & names:
                taken.append(span)
                denied = negated(said, *span)
                claims.append(_claim("value", said, span, denied, [] if denied else standing))
    for measure in measures:
        if _free(measure.span, taken):
            taken.append(measure.span)
            allowed = allowed_at(measure.span)
            standing = _saying(said, measure, [(fact, field) for fact, field in facts.measures if field in allowed])
            if len(measure.word) > 1 and not measure.word.isdigit():
                standing += [field for field in allowed if _stands(measure.word, field.said, strict=True)]
            kind = "number" if measure.kind not in ("price", "rating", "size", "reviews") else measure.kind
            claims.append(_claim(kind, said, measure.span, None, standing))
    for value in facts.strange:
        for span in find_words(value, said):
            if _free(span, taken):
                taken.append(span)
                standing = [field for field in allowed_at(span) if past and _stands(value, field.said)]
                if not (_stands(value, facts.query) and _WISH.search(said, 0, span[0])):
                    claims.append(_claim("value", said, span, None, standing))
    for match in lexemes:
        if not _free(match.span(), taken):
            continue
        taken.append(match.span())
        kind, words = _meaning(match)
        if kind == "none" or (match.group() in ("thick", "thin") and _MEASURED.search(said, 0, match.start())):
            continue
        if kind == "use" and any(_stands(word, facts.query) for word in words):
            continue
        denied = negated(said, *match.span())
        allowed = allowed_at(match.span())
        standing = [] if kind == "praise" else [f for f in allowed if says(f, words, denied=denied is not None)]
        claims.append(_claim(kind, said, match.span(), denied, standing))
    for span in _name_places(text, said, facts.language, taken):
        name, allowed = said[slice(*span)], allowed_at(span)
        standing = [field for field in allowed if _stands(name, field.said)]
        if not standing:
            each = [[field for field in allowed if _stands(word, field.said)] for word in name.split()]
            standing = [fields[0] for fields in each] if all(each) else []
        claims.append(_claim("name", said, span, None, standing))
    return claims


def ground(text: str, facts: Facts) -> Grounded:
    """Keep a reason whose claims are all grounded, and rewrite any other.

    A reason is also rewritten if it is in another script than the query, asks a question, repeats itself, copies the
    listing field by field, or has nothing to do with any field. Where it is true and names a wish without its last
    clauses, these are cut off. Otherwise the new reason names the words of the query that the listing's fields say too,
    or an interaction that has a brand or an attribute in common with the listing, with these fields. If there are none,
    its text is empty: where a listing meets no wish, nothing honest is worth saying.

    Args:
        text: A reason, tidied.
        facts: The facts it may mention.
    """
    text = shorten(clean(text), MAX_CHARS)
    claims = tuple(find_claims(text, facts))
    evidence = evidence_of(claims, facts)
    if proof := _proof(text, claims, facts):
        return Grounded(text, proof, claims, rewritten=False)
    for _, end in reversed(_clauses(text)[:-1]):
        shorter = text[:end].rstrip(" ,;，；") + ("。" if facts.language == "zh" else ".")
        proof = _proof(shorter, find_claims(shorter, facts), facts)
        if any(not name.startswith("history[") for name in proof) and named_wishes(shorter, facts):
            return Grounded(shorter, proof, claims, rewritten=True)
    new, evidence = _rewrite(evidence, facts)
    return Grounded(new, evidence, claims, rewritten=True)


def _proof(text: str, claims: Sequence[Claim], facts: Facts) -> tuple[str, ...]:
    """The evidence of a reason that may stay as it is; empty for one that may not."""
    evidence = evidence_of(claims, facts)
    if not evidence and _shares(normalise(text), facts.fields[0].said):
        evidence = ("title",)
    stays = all(claim.fields for claim in claims) and not is_broken(text) and in_script_of_query(text, facts)
    return evidence if stays else ()


def named_wishes(text: str, facts: Facts) -> tuple[str, ...]:
    """The wishes that a reason names: words of the query, and words about the shopper's past.

    Args:
        text: A reason.
        facts: What it is about.

    Returns:
        Words of the query that the reason says too (or a synonym that the lexicon knows), in the query's order, then
        what it says of the past. Empty where it names no wish; a free paraphrase is not recognised.
    """
    said = normalise(text)
    field = _Field("title", "", text, said)
    measures = [(measure, field) for measure in _measures(said)]
    words = [facts.query[slice(*wish.span)] for wish in _wishes(facts.query, [field], measures)]
    past = [claim.text for claim in find_claims(text, facts) if claim.kind == "history" and claim.fields]
    return (*words, *past)


def describe(facts: Facts, chars: int = 2 * MAX_CHARS) -> tuple[str, tuple[str, ...]]:
    """A listing in words that are taken from its fields alone, and the fields.

    It is the title, the query's words that fields say too, and some attributes, as far as they fit.

    Args:
        facts: The listing.
        chars: The most characters; a longer title is returned as it is.
    """
    title = _quoted(facts.title) if facts.language in ("en", "zh") else facts.title
    end = {"en": ".", "zh": "。"}.get(facts.language, "")
    text, evidence = title + end, ["title"]
    if not _holds(text, facts):
        return facts.title, ("title",)
    own = [
        field for field in facts.fields if field.past is None and field.kind in ("brand", "attributes") and field.key
    ]
    own = [field for field in facts.fields if field.past is None and field.kind == "brand"] + own
    between = {"en": " ", "zh": ""}.get(facts.language, " · ")
    met, named = _rewrite((), facts)
    if met and len(text + between + met) <= chars and _holds(text + between + met, facts):
        text, evidence = text + between + met, [*evidence, *named]
    said: dict[_Field, str] = {}
    before = text
    for field in own:
        if field.name in evidence or len(field.value) > _MAX_SHORT or field.said in lexicon.YES_OR_NO:
            continue
        longer = before + between + _sentence((), said | {field: _clause(field, (), facts)}, facts)
        if len(said) < _MAX_CLAUSES and len(longer) <= chars and _holds(longer, facts):
            said[field] = _clause(field, (), facts)
            text = longer
            evidence.append(field.name)
    return text, tuple(dict.fromkeys(evidence))


def shorten(text: str, chars: int) -> str:
    """The text, cut between two words and marked by an ellipsis where it has more than `chars` characters."""
    if len(text) <= chars:
        return text
    cut = text[: chars - 2]
    at = cut.rfind(" ")
    return f"{cut[:at] if at > chars // 2 else cut} …"


# --- the fields of a listing


def _fields(listing: Listing, prefix: str = "") -> Iterator[_Field]:
    """The fields that hold something, the title first."""

    def field(kind: str, value: str, inside: str = "", key: str = "") -> _Field:
        return _Field(kind, f"{prefix}{kind}{inside}", clean(value), normalise(value), key=normalise(key))

    yield field("title", listing.title)
    for key, value in listing.attributes.items():
        if clean(value):
            yield field("attributes", value, f".{key}", key)
    if clean(listing.brand):
        yield field("brand", listing.brand)
    if listing.price:
        yield field("price", f"{number_text(listing.price.amount)} {listing.price.currency}", ".amount")
    if listing.rating is not None:
        yield field("rating", f"{number_text(listing.rating)} stars")
    if listing.rating_count is not None:
        yield field("rating_count", f"{listing.rating_count} reviews")
    if listing.in_stock is not None:
        yield field("in_stock", "in stock" if listing.in_stock else "out of stock")
    for i, level in enumerate(listing.category):
        if clean(level):
            yield field("category", level, f"[{i}]")
    if clean(listing.description):
        yield field("description", listing.description)


def _field_measures(field: _Field) -> Iterator[_Measure]:
    if field.kind == "price":
        amount, _, currency = field.said.partition(" ")
        yield _Measure((0, 0), "price", float(amount), systems=(currency,) if currency else ())
        yield _Measure((0, 0), "", float(amount))
        return
    yield from _measures(field.said)
    if re.search(r"size|尺码|码数|サイズ", field.key):
        for word in (*re.findall(r"[a-z0-9.]+", field.said), *_sizes_between(field.said)):
            yield _Measure((0, 0), "size", word=word)
    if re.search(r"\bage\b|年龄|年齢", field.key) and (ages := re.match(r"(\d+)-(\d+) ?(?:years?|岁|$)", field.said)):
        for year in range(int(ages[1]) + 1, min(int(ages[2]), _OLDEST)):
            yield from _measures(f"{year} years")


def _sizes_between(said: str) -> Iterator[str]:
    """The sizes within a range such as ``39-46`` or ``S-XXL``."""
    numbers = re.fullmatch(r"(\d+)-(\d+)", said)
    if numbers and int(numbers[2]) - int(numbers[1]) < _MOST_SIZES:
        yield from map(str, range(int(numbers[1]), int(numbers[2]) + 1))
    letters = [next((i for i, group in enumerate(lexicon.SIZES) if word in group), -1) for word in said.split("-")]
    if len(letters) == 2 and letters[0] >= 0:
        for group in lexicon.SIZES[letters[0] : letters[1] + 1]:
            yield from group


def _names(fields: Iterable[_Field], title: str) -> dict[str, set[str]]:
    """Field values that a reason may repeat as they are, with the names of their fields, the longest first."""
    names: dict[str, set[str]] = {}
    for field in fields:
        if field.kind not in ("title", "attributes", "brand", "category"):
            continue
        values = [field.said]
        if field.kind == "title":
            values.append(normalise(_quote(field.value)))
            if field.past is not None:
                values += re.findall(f"[{HAN}]{{4,}}", field.said)
        elif field.kind == "attributes":
            values += re.split(r"\s*[,;/|、，；]\s*", field.said)
        for value in values:
            if field.kind == "title" or _worth_naming(value):
                names.setdefault(value, set()).add(field.name)
    names.setdefault(normalise(shorten(title, MAX_CHARS)), set()).add("title")
    return dict(sorted(names.items(), key=lambda item: -len(item[0])))


def _worth_naming(value: str) -> bool:
    letters = sum(char.isalpha() for char in value)
    return value not in lexicon.COMMON | lexicon.YES_OR_NO and letters >= (2 if value.isascii() else 1)


def _strange(other: Listing, own: Sequence[_Field]) -> Iterator[str]:
    """Brand and attribute values of another listing that do not occur in this one."""
    values = [normalise(other.brand)]
    for value in other.attributes.values():
        values += re.split(r"\s*[,;/|、，；]\s*", normalise(value))
    for value in values:
        if _worth_naming(value) and len(value) <= MAX_CHARS and not any(_stands(value, f.said) for f in own):
            yield value


# --- words and their places


def normalise(text: str) -> str:
    """One width, lower case (but for the B of ``MB/s``), one kind of hyphen, apostrophe and inch mark."""
    text = unicodedata.normalize("NFKC", re.sub("[º˚](?=\\s?[cf])", "°", clean(text[:_MAX_FIELD_CHARS]), flags=re.I))
    text = clean(_BYTES_A_SECOND.sub("\1", text).casefold().replace("\1", "B"))
    text = re.sub(r"[\u2010-\u2013\u2212]", "-", text).replace("′′", '"')  # NFKC makes two of ″
    text = re.sub("[‘’′]", "'", text)
    return text if _OPEN_QUOTE in text else text.replace("”", '"')


@functools.lru_cache(4096)
def _pattern(words: str, strict: bool = False) -> re.Pattern[str]:
    """Whole words, in the plural too unless `strict`; where no spaces are written, the text as it is."""
    form = r"[\s-]+".join(map(re.escape, re.split(r"[\s-]+", words))) if not strict else re.escape(words)
    if words[-1:].isascii() and words[-1:].isalpha() and not strict:
        if re.search(r"[^aeiou]y$", words):
            form = form[:-1] + "(?:y|ies)"
        else:
            singular = re.sub(r"(?<=[a-z]{3})(?:(?<=s|x|z)es|(?<=sh|ch)es|(?<!s)s)$", "", form)
            form = singular + "(?:s|es|'s)?"
    before = _NO_LATIN_BEFORE if words[:1].isascii() else ""
    after = _NO_LATIN_AFTER if words[-1:].isascii() else ""
    return re.compile(before + form + after)


def find_words(words: str, said: str, strict: bool = False) -> list[Span]:
    """Where words stand in a normalised text: whole ones, in the plural too unless `strict`."""
    probe = words if strict else re.split(r"[\s-]", words)[0][:3]
    if not words or probe not in said:
        return []
    return [match.span() for match in _pattern(words, strict).finditer(said)]


def _stands(words: str, said: str, strict: bool = False) -> bool:
    return bool(find_words(words, said, strict))


_WISH = re.compile(
    r"(?:\bsuits?\b|\bfor\b|\bso (?:it|they) (?!is|are)|适合|符合|满足|送)[^,，.。;；:：]*$"
)  # before what the shopper asks for


def _free(span: Span, taken: Iterable[Span]) -> bool:
    return all(span[1] <= start or end <= span[0] for start, end in taken)


def _cuts(span: Span, other: Span) -> bool:
    """Whether the first span holds a part of the other, but not all of it."""
    return not _free(span, [other]) and not (span[0] <= other[0] and other[1] <= span[1])


@functools.cache
def _negation() -> re.Pattern[str]:
    words = "|".join(sorted(map(re.escape, lexicon.NEGATORS), key=len, reverse=True))
    gap = r"(?:(?!(?:and|but|only|just|or)\b)[a-z]+[\s-]+){0,2}"
    han = "|".join(lexicon.NEGATORS_BEFORE_HAN)
    return re.compile(rf"(?:(?:(?<![a-z])(?:{words})|n't)[\s-]+(?!only\b|just\b){gap}|(?:{han}))$")


def negated(said: str, start: int, end: int) -> Span | None:
    """The span of the words that negate those from `start` to `end`; None if there are none."""
    if match := _negation().search(said, max(0, start - 40), start):
        return match.start(), start
    if free := re.compile(r"-free\b").match(said, end):
        return free.span()
    return None


def _claim(kind: str, said: str, span: Span, denied: Span | None, standing: Sequence[_Field]) -> Claim:
    start, end = (min(span[0], denied[0]), max(span[1], denied[1])) if denied else span
    return Claim(kind, said[start:end], tuple(dict.fromkeys(field.name for field in standing)))


# --- colours, materials, features, praise


@functools.cache
def _vocabulary() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every word of the lexicon, with its kind and its synonyms."""
    table: dict[str, tuple[str, tuple[str, ...]]] = {}
    brands = tuple((brand,) for brand in lexicon.BRANDS)
    lists = {"praise": lexicon.PRAISE, "feature": lexicon.FEATURES, "material": lexicon.MATERIALS, "use": lexicon.USES}
    for kind, groups in (lists | {"colour": lexicon.COLOURS, "brand": brands}).items():
        for group in groups:
            table |= dict.fromkeys(group, (kind, group))
    return table | dict.fromkeys(lexicon.NO_CLAIMS, ("none", ()))


@functools.cache
def _lexemes() -> re.Pattern[str]:
    words = sorted(_vocabulary(), key=len, reverse=True)
    colours = sorted((word for group in lexicon.COLOURS for word in group), key=len, reverse=True)
    shaded = rf"(?P<shade>{'|'.join(lexicon.SHADES)})[\s-]*(?P<colour>{'|'.join(map(_open, colours))})"
    endings = rf"{_NO_LATIN_BEFORE}[a-z]+-(?:{'|'.join(lexicon.FEATURE_ENDINGS)}){_NO_LATIN_AFTER}"
    plain = "|".join(f"(?:{_pattern(word).pattern})" for word in words)
    return re.compile(rf"{_NO_LATIN_BEFORE}{shaded}|(?P<word>{plain})|(?P<ending>{endings})")


def _open(word: str) -> str:
    return re.escape(word) + (_NO_LATIN_AFTER if word.isascii() else "")


def _meaning(match: re.Match[str]) -> tuple[str, tuple[str, ...]]:
    """The kind of a lexeme and the words of which one must stand in a field."""
    if match["colour"]:
        _, group = _vocabulary()[match["colour"]]
        return "colour", tuple(f"{match['shade']}{gap}{word}" for word in group for gap in ("", " "))
    if match["ending"]:
        return "feature", (match.group(),)
    word = match.group()
    if word not in _vocabulary():  # a plural
        word = next(known for known in _vocabulary() if known[:1] == word[:1] and _pattern(known).fullmatch(word))
    kind, words = _vocabulary()[word]
    return kind, (*words, *lexicon.IMPLIED_BY.get(words[0], ())) if words else ()


def says(field: _Field, words: Iterable[str], *, denied: bool) -> bool:
    """Whether a field says one of the words, or denies it."""
    for word in words:
        if any((negated(field.said, *span) is not None) == denied for span in find_words(word, field.said)):
            return True
        if field.kind == "attributes" and _stands(word, field.key) and (field.said in lexicon.NO) == denied:
            return True
    return False


# --- numbers


@functools.cache
def _measure_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """How numbers are written, by kind; the first pattern that fits a place counts."""
    names = {name for table in lexicon.UNITS.values() for name in table}
    unit = "|".join(_unit(name) for name in sorted(names, key=len, reverse=True))
    signs = sorted(lexicon.CURRENCIES, key=len, reverse=True)
    before = "|".join(("(?<![a-z])" if s[:1].isalpha() and s.isascii() else "") + re.escape(s) for s in signs)
    # Gbps are no pounds
    after = "|".join(f"{s}(?![a-z0-9])" if lexicon.CURRENCIES[s] == (s,) else _unit(s) for s in signs)
    words = "|".join(lexicon.NUMBER_WORDS)
    scales = "|".join(lexicon.SCALES)
    number = r"\d+(?:[.,]\d+)*(?:\s\d+/\d+)?"
    start = r"(?<![a-z\d])(?<!\d[.,])"
    cost = r"cost(?:s|ing)?|priced?(?: is)?(?: at| of)?|for only|only for|价格|售价|只要|仅需|定价"
    rated = r"(?:rated|rating(?: is)?(?: of)?|评分(?:为|是|:)?)"
    forms = (
        ("rating", rated + r"\s*(?P<n>\d(?:\.\d+)?)(?![\d%])(?:\s*(?:/|out of)\s*5\b)?(?:[\s-]*stars?\b)?"),
        (
            "rating",
            start + r"(?P<n>\d(?:\.\d+)?)\s*(?:-?stars?\b|颗星|星|分(?!钟)|/\s*5(?!\d)|out of (?:5|five)(?: stars)?)",
        ),
        (
            "reviews",
            rf"{start}(?P<n>{number})\s*\+?\s*(?:customer )?(?:(?:ratings?|reviews?)(?![a-z])|[条个人]评[价分])",
        ),
        ("price", rf"(?P<sign>{before})\s*(?P<n>{number})(?:\s*(?P<sign2>{after}))?"),
        ("price", rf"{start}(?P<n>{number})\s*(?P<sign>{after})"),
        ("price", rf"(?:{cost})(?: ?(?:only|just|为|是))?\s*:?\s*(?P<n>{number})(?!\s*(?:{unit}))"),
        (
            "size",
            rf"(?:size|尺码|码数|サイズ)(?: is| of|:|为|是)?\s*(?P<n>\d+(?:\.\d+)?(?![\d.]*\s*(?:{unit})))(?![a-z0-9])",
        ),
        ("size", r"(?:size|尺码|码数|サイズ)(?: is| of|:|为|是)?\s*(?P<n>xs|s|m|l|x{1,4}l|\d+xl)(?![a-z0-9])"),
        ("size", start + r"(?P<n>\d+(?:\.5)?)\s*码"),
        ("size", r"(?<![a-z0-9])(?P<n>xs|x{1,4}l|\d+xl)(?![a-z0-9])"),
        ("count", rf"(?<![a-z])(?:pack|set|box|case|lot|bundle) of (?P<n>{number}|{words})(?![a-z\d])"),
        ("unit", rf"(?P<unit>{scales})\s*(?P<minus>零下|-)?\s*(?P<n>{number})(?P<more>)\s*[度도]?"),
        (
            "unit",
            rf"{start}(?P<n>{number}|\d+/\d+)(?P<more>(?:\s*(?:[x×*~至到-]|to)\s*{number})*)\+?[\s-]*(?P<unit>{unit})",
        ),
        ("unit", rf"(?<![a-z])(?P<n>{words})(?P<more>)[\s-]+(?P<unit>{unit})"),
        ("shoe", rf"(?<![a-z])(?P<sign>eur?|us|uk)[\s-]*(?:size\s*)?(?P<n>\d+(?:\.5)?)(?![\d.]*(?:\d|\s*(?:{unit})))"),
        ("code", r"(?<![a-z0-9])(?P<n>(?=[a-z0-9-]*\d)(?=[a-z0-9-]*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*)(?![a-z0-9])"),
        ("", rf"{start}(?P<n>\d+/\d+|{number})(?P<noun>\s+(?!(?:x|and|or|to|in|for|with)\b)[a-z]+)?"),
        ("", rf"(?<![a-z])(?P<n>{words})(?![a-z])(?P<noun>\s+[a-z]+)?"),
    )
    return tuple((kind, re.compile(form)) for kind, form in forms)


_NOT_A_RATE = r"(?!\s?/\s?(?:s|sec|second|min|minute|h|hr|hour|day|m|m2|m3|l)(?![a-z0-9]))"  # 30 m/s are no 30 m


def _unit(name: str) -> str:
    """A pattern for a unit, in the plural too; ``in`` only where it is no preposition, ``f`` only behind a digit."""
    form = re.escape(name)
    if name in lexicon.ATTACHED_UNITS:
        attached = r"(?<=\d{4})|(?<=\d{4} )" if name == "k" else r"(?<=\d)|(?<=\d\d )"  # 5K is a race, 4K a screen
        return rf"(?:{attached}){name}(?![-'./&+]?\w)"
    if name == "in":
        return r"in\.?(?=\s*(?:$|[^\w\s.-]|x\b|wide|long|tall|high|deep|diameter|thick|[whdl]\b))"
    if name[-1:].isascii() and name[-1:].isalpha():
        return form + ("s?" if len(name) > 2 else "") + "(?![a-z0-9])" + _NOT_A_RATE
    return form


_MEASURED = re.compile(r"\d\s?[a-z]{1,12}[\s-]*$")  # 5 mm thick
_BARE = ("", "price", "count")
_BOUND_BEFORE = re.compile(r"\b(?:under|below|less than|up to|at most|within|no more than)\s*$|(?:不超过|低于)\s*$")
_BOUND_AFTER = re.compile(r"\s*(?:元|块钱?)?\s*(?:以下|以内|之内|or less\b|or under\b)")


def _bound(said: str, measure: _Measure) -> Span | None:
    """Where a text sets a bound with a bare number or a price: ``under 100``, ``300元以内``."""
    start, end = measure.span
    if measure.kind not in _BARE:
        return None
    if before := _BOUND_BEFORE.search(said, max(0, start - 20), start):
        return before.start(), end
    after = _BOUND_AFTER.match(said, end)
    return (start, after.end()) if after else None


def _saying(said: str, measure: _Measure, facts: Sequence[tuple[_Measure, _Field]]) -> list[_Field]:
    """The fields that say a text's number, or hold a price within the bound that it sets: ``under 60`` is no 60 g."""
    if not _bound(said, measure):
        return [field for fact, field in facts if measure.says(fact)]
    bare = [(fact, field) for fact, field in facts if fact.kind in _BARE]
    return [field for fact, field in bare if measure.says(fact) or _within(measure, fact)]


def _within(bound: _Measure, fact: _Measure) -> bool:
    if fact.kind != "price":
        return False
    return fact.value <= bound.value and dataclasses.replace(bound, kind="price", value=fact.value).says(fact)


_MINUS = re.compile(r"(?:(?:^|[\s(\[,;:/~])-|\b(?:minus|negative)\s|零下)\s?$")  # no range such as 5-20 °C
_BELOW_ZERO = re.compile(r"\s*below zero\b")


def _measures(said: str) -> Iterator[_Measure]:
    """The numbers of a normalised text, sizes and model numbers with them, each once."""
    taken: list[Span] = []
    for kind, pattern in _measure_patterns():
        for match in pattern.finditer(said):
            parts = match.groupdict()
            span = match.span("n") if kind == "" else match.span()
            if not _free(span, taken):
                continue
            taken.append(span)
            if kind in ("size", "code"):
                yield _Measure(span, kind, word=parts["n"])
            elif kind == "shoe":
                yield _Measure(span, "size", word=parts["n"], systems=(parts["sign"][:2],))
            elif kind == "unit":
                dimension, factor = _dimension(parts["unit"])
                if dimension in _DEGREES and (
                    _MINUS.search(said, 0, span[0]) or _BELOW_ZERO.match(said, span[1]) or parts.get("minus")
                ):
                    factor = -factor
                for value in (parts["n"], *re.findall(r"\d+(?:[.,]\d+)*", parts["more"])):
                    yield _Measure(span, dimension, _float(value) * factor)
                    factor = abs(factor)
            else:
                codes = _currencies(parts.get("sign2") or parts.get("sign") or "")
                yield _Measure(span, kind, _float(parts["n"]), systems=codes, counts=bool(parts.get("noun")))


def _dimension(unit: str) -> tuple[str, float]:
    for name in (unit, unit.removesuffix("."), unit.removesuffix("s")):
        for dimension, table in lexicon.UNITS.items():
            if name in table:
                return dimension, table[name]
    return "", 1.0


def _currencies(sign: str) -> tuple[str, ...]:
    return lexicon.CURRENCIES.get(sign) or lexicon.CURRENCIES.get(sign.removesuffix("s"), ())


def _float(number: str) -> float:
    """A number as it is written: ``1,299.00``, ``1,5``, ``5 1/2``, ``two``; NaN where it is none."""
    if number in lexicon.NUMBER_WORDS:
        return float(lexicon.NUMBER_WORDS[number])
    whole, _, fraction = number.rpartition(" ")
    if "/" in fraction:
        over, _, under = fraction.partition("/")
        return (_float(whole) if whole else 0.0) + (_float(over) / _float(under) if _float(under) else math.nan)
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", number):
        number = number.replace(",", "")
    try:
        return float(number.replace(",", "."))
    except ValueError:
        return math.nan


# --- names, the past, the language


def _name_places(text: str, said: str, spoken: Language, taken: Sequence[Span]) -> Iterator[Span]:
    """Places of what can only be names: capitalised words inside an English sentence, Latin words in a Chinese one."""
    cleaned = clean(unicodedata.normalize("NFKC", clean(text)))
    if len(cleaned) != len(said) or spoken == "other":
        cleaned = said  # what folds to another length cannot be told by its capitals
    run: list[Span] = []
    for match in LATIN_WORD.finditer(cleaned):
        word = match.group()
        name = len(word) > 1 and word.isascii() and _free(match.span(), taken)
        name = name and said[slice(*match.span())] not in lexicon.COMMON
        if spoken == "zh":
            name = name and bool(re.search(f"[{HAN}]", said))
        else:
            first = not re.search(r"\w", cleaned[: match.start()]) or re.search(r"[.!?:]\s*$", cleaned[: match.start()])
            name = name and word[0].isupper() and not first
        if run and (not name or cleaned[run[-1][1] : match.start()] != " "):
            yield run[0][0], run[-1][1]
            run = []
        if name:
            run.append(match.span())
    if run:
        yield run[0][0], run[-1][1]


def _clauses(said: str) -> list[Span]:
    """The clauses of a sentence: what lies between commas and the like, but for those in quotation marks."""
    ends = [match.end() for match in re.finditer(r"“[^”]*”|,(?!\d)|[;。，；]", said) if match.group()[0] != "“"]
    return list(itertools.pairwise([0, *ends, len(said) + 1]))


def _past_events(said: str) -> Iterator[tuple[str, re.Match[str]]]:
    for event, form in lexicon.EVENTS.items():
        for match in re.finditer(form, said):
            yield event, match


_NAMED_BEFORE = re.compile(r".*\b(?:like|as|with|for|to|match(?:es|ing)?)\s+(?:the|your|an?|those|these)\s+(.+)$")
_NAMED_AFTER = re.compile(
    "(?:[选买看用购]|浏览|购买|收藏|点击)(?:过|了)?的(.+?)(?:相配|搭配|配套|一样|相同|同款|类似|$)"
)


def _named_of_the_past(before: str, after: str) -> set[str]:
    """The words that say which listing of the past is meant; most of them must stand in that one listing.

    Args:
        before: What the clause says before it speaks of the past: ``like the oak desk in``.
        after: What it says after that: ``选的橡木书桌相配``.
    """
    found = _NAMED_BEFORE.match(before) or _NAMED_AFTER.match(after)
    return _content(found[1]) if found else set()


def _past_words(facts: Facts, place: int) -> set[str]:
    return {word for field in facts.fields if field.past == place for word in _content(field.said)}


def in_script_of_query(text: str, facts: Facts) -> bool:
    """Whether most of a reason is in the query's script, but for the names in it."""
    asked = scripts(facts.query)
    cjk = [name for name in ("han", "kana", "hangul") if asked[name]]
    script = cjk[-1] if cjk else asked.most_common(1)[0][0] if asked else ""
    said = normalise(text)
    for value in facts.names:
        said = said.replace(value, " ") if not value.isascii() or script != "latin" else said
    found = scripts(said)
    own = found[script] + (found["han"] if script in ("kana", "hangul") else 0)
    if script == "kana" and not found["kana"]:
        return False
    return not script or own * 2 >= found.total()


def is_broken(text: str) -> bool:
    """Whether a text is no whole statement: without words, cut off, a question, a copied listing, or a loop."""
    words = LATIN_WORD.findall(text.casefold())
    looped = len(words) >= 10 and len(set(words)) * 2 <= len(words)
    copied = " | " in text or len(re.findall(r"\w: ?\w", text)) > 1  # as the fields of a listing are written
    cut = text.endswith("…") or "\ufffd" in text  # by the token limit, maybe within a character
    return looped or copied or cut or not re.search(r"\w", text) or text.endswith(("?", "？"))


# --- rewriting


def evidence_of(claims: Iterable[Claim], facts: Facts) -> tuple[str, ...]:
    """For each claim, the field that says it most exactly, and another one from the shopper's past."""
    fields = {field.name: field for field in facts.fields}
    named = set()
    for claim in claims:
        groups: dict[bool, list[str]] = {False: [], True: []}
        for name in claim.fields:
            groups[name not in fields or fields[name].past is not None].append(name)
        for group in filter(None, groups.values()):
            exact = [name for name in group if name not in fields or fields[name].kind not in ("title", "description")]
            named.add((exact or group)[0])
    order = {name: i for i, name in enumerate(fields)}
    return tuple(sorted(named, key=lambda name: (order.get(name, len(order)), name)))


def _quote(value: str) -> str:
    return shorten(value, _MAX_QUOTE_CHARS).replace("”", '"').replace(_OPEN_QUOTE, '"')


def _quoted(title: str) -> str:
    return f"{_OPEN_QUOTE}{_quote(title)}”"


def _content(said: str) -> set[str]:
    """The words to compare a text by: without plural endings, and as pairs of characters for Han, kana and Hangul."""
    words = set()
    for run in re.findall(f"[{HAN}{KANA}{HANGUL}]+|[^\\W_{HAN}{KANA}{HANGUL}]+", said):
        if re.match(f"[{HAN}{KANA}{HANGUL}]", run):
            words |= {run[i : i + 2] for i in range(len(run) - 1)}
        elif len(run) > 2 and run not in lexicon.COMMON:
            words.add(re.sub(r"(?<=[a-z]{2})(?:es|s)$", "", run))
    return words


def _shares(said: str, other: str) -> bool:
    return bool(_content(said) & _content(other))


def _rewrite(evidence: Sequence[str], facts: Facts) -> tuple[str, tuple[str, ...]]:
    """A reason that says which wishes the listing meets and by which fields, and its evidence; empty if it meets none.

    Args:
        evidence: Fields of the claims that were grounded: what else is worth saying.
        facts: What it is about.
    """
    own = [field for field in facts.fields if field.past is None]
    measures = [(fact, field) for fact, field in facts.measures if field.past is None]
    met = _wishes(facts.query, own, measures)
    told = _told(met)
    shared = _shared_with_the_past(facts)
    clauses = {field: _clause(field, wishes, facts) for field, wishes in told.items()}
    if shared:
        clauses[shared[0]] = _past_clause(shared[0], facts.history[shared[1]], facts.language)
    if clauses and facts.language != "other":
        more = [field for field in own if field.kind == "attributes" and field.key and field.name in evidence]
        clauses |= {field: _clause(field, (), facts) for field in more if field not in clauses}
    said: dict[_Field, str] = {}
    for field, clause in clauses.items():
        longer = _sentence(met, said | {field: clause}, facts)
        if len(said) < _MAX_CLAUSES and len(longer) <= MAX_CHARS and _holds(longer, facts):
            said[field] = clause
    if not any(field in told or (shared and field == shared[0]) for field in said):
        return "", ()
    named = {field.name for field in said}
    if shared and shared[0] in said:
        named |= {f"history[{shared[1]}].{shared[0].name}", f"history[{shared[1]}].event"}
    order = [field.name for field in facts.fields]
    evidence = tuple(sorted(named, key=lambda name: (order.index(name) if name in order else len(order), name)))
    return _sentence(met, said, facts), evidence


@dataclass(frozen=True, slots=True)
class _Wish:
    """A word of the query, and the fields that say the same."""

    span: Span  # with what denies the word
    word: Span
    fields: Sequence[_Field]


def _wishes(query: str, fields: Sequence[_Field], measures: Sequence[tuple[_Measure, _Field]]) -> list[_Wish]:
    """The words of a normalised query that fields say too, in the query's order: numbers, synonyms, other words."""
    found: list[_Wish] = []
    taken: list[Span] = []

    def add(span: Span, words: Sequence[str], standing: Sequence[_Field] = (), bound: Span | None = None) -> None:
        if not _free(span, taken):
            return
        taken.append(span)
        denied = negated(query, *span)
        if standing := [*standing, *(field for field in fields if says(field, words, denied=denied is not None))]:
            start, end = (min(span[0], denied[0]), max(span[1], denied[1])) if denied else bound or span
            found.append(_Wish((start, end), span, list(dict.fromkeys(standing))))

    for measure in _measures(query):
        add(measure.span, (), _saying(query, measure, measures), _bound(query, measure))
    for match in _lexemes().finditer(query):
        kind, words = _meaning(match)
        add(match.span(), () if kind in ("none", "praise") else words)
    for match in re.finditer(f"[{HAN}]+|[^\\W_{HAN}]+(?:['-][^\\W_{HAN}]+)*", query):
        start, end = match.span()
        if not re.match(f"[{HAN}]", match.group()):
            add(match.span(), (match.group(),) if _tells(match.group()) else ())
            continue
        while start < end - 1:
            ends = range(end, start + 1, -1)
            stop = next((i for i in ends if any(query[start:i] in field.said for field in fields)), start)
            if stop > start:
                add((start, stop), (query[start:stop],))
            start = max(stop, start + 1)
    return sorted(found, key=lambda wish: wish.span)


_TELLING = ("attributes", "brand", "title", "price", "rating", "rating_count", "in_stock", "category", "description")
"""Kinds of fields, the most telling first."""


def _told(met: Sequence[_Wish]) -> dict[_Field, list[_Wish]]:
    """For each wish the most telling field; a title, category or description only where no other field meets it."""
    told: dict[_Field, list[_Wish]] = {}
    for wish in met:
        worded = [field for field in wish.fields if field.kind != "attributes" or field.key]
        for field in sorted(worded, key=lambda field: (_TELLING.index(field.kind), field not in told))[:1]:
            told.setdefault(field, []).append(wish)
    return told


def _shared_with_the_past(facts: Facts) -> tuple[_Field, int] | None:
    """A brand or an attribute in common with an interaction, and its place: the latest one that has any in common."""
    places = list(facts.history)
    for i in reversed([places[i] for i in time_order(list(facts.history.values()))]):
        past = {(field.kind, field.key): field.said for field in facts.fields if field.past == i}
        for kind in ("brand", "attributes"):
            for field in facts.fields:
                if field.past is None and field.kind == kind and past.get((kind, field.key)) == field.said:
                    return field, i
    return None


def _clause(field: _Field, wishes: Sequence[_Wish], facts: Facts) -> str:
    """A field in words; of a title or a description only what the wishes are met by."""
    value = _quote(field.value)
    if field.kind in ("title", "description"):
        spans = [span for wish in wishes for span in _spans(facts.query[slice(*wish.word)], field)]
        if spans and len(field.value) == len(field.said) and field.kind == "title":
            value = _quote(field.value[min(spans)[0] : max(end for _, end in spans)])
        elif spans:
            value = field.said[slice(*min(spans))]
    return _word(field, value, facts.language)


def _spans(wish: str, field: _Field) -> list[Span]:
    """Where a field says a wish's words, or a synonym."""
    match = _lexemes().fullmatch(wish)
    words = _meaning(match)[1] if match else ()
    places = [span for word in (wish, *words) for span in find_words(word, field.said)]
    denied = [negated(field.said, *span) or span for span in places]
    return [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(places, denied, strict=True)]


def _tells(word: str) -> bool:
    """Whether a word is worth naming as a wish."""
    return len(word) > 2 and not {word, word.removesuffix("s")} & lexicon.COMMON


def _past_clause(field: _Field, past: Interaction, spoken: Language) -> str:
    title = _quote(clean(past.listing.title))
    if spoken == "other":
        return field.value
    return _PAST[spoken][past.event].format(_word(field, _quote(field.value), spoken), title)


def _holds(text: str, facts: Facts) -> bool:
    return all(claim.fields for claim in find_claims(text, facts))


_WORDING = {
    "en": {
        "title": "its title says “{}”",
        "description": "its description mentions {}",
        "brand": "its brand is {}",
        "category": "it is in {}",
        "price": "it costs {}",
        "rating": "it is rated {number}",
        "rating_count": "it has {}",
        "attributes": "its {key} is {}",
    },
    "zh": {
        "title": "名称里有“{}”",
        "description": "描述提到{}",
        "brand": "品牌是{}",
        "category": "属于{}",
        "price": "价格是{}",
        "rating": "评分是{number}",
        "rating_count": "有{number}条评价",
        "attributes": "{key}是{}",
    },
}
_STOCK = {"en": ("it is out of stock", "it is in stock"), "zh": ("缺货", "有货")}
_PAST = {
    "en": {
        "purchase": "{}, like “{}” that you bought",
        "view": "{}, like “{}” that you viewed",
        "click": "{}, like “{}” that you clicked",
        "cart": "{}, like “{}” that you put in the cart",
        "rating": "{}, like “{}” that you rated",
    },
    "zh": {
        "purchase": "{}，和您买过的“{}”一样",
        "view": "{}，和您看过的“{}”一样",
        "click": "{}，和您点击过的“{}”一样",
        "cart": "{}，和您加入过购物车的“{}”一样",
        "rating": "{}，和您评过分的“{}”一样",
    },
}


def _word(field: _Field, value: str, spoken: Language) -> str:
    """One field in words."""
    if spoken == "other":
        return value
    if field.kind == "in_stock":
        return _STOCK[spoken][field.said == "in stock"]
    key = clean(field.name.removeprefix("attributes."))
    return _WORDING[spoken][field.kind].format(value, key=key, number=value.partition(" ")[0])


def _sentence(met: Sequence[_Wish], said: Mapping[_Field, str], facts: Facts) -> str:
    """Clauses as a sentence that begins with the wishes that their fields meet."""
    spoken, clauses = facts.language, list(said.values())
    if spoken == "other":
        return clean(" · ".join(clauses))
    wishes: list[Span] = []
    for start, end in [wish.span for wish in met if any(field in said for field in wish.fields)]:
        if wishes and not re.search(r"\w", facts.query[wishes[-1][1] : start]):
            wishes[-1] = wishes[-1][0], end
        else:
            wishes.append((start, end))
    quoted = [f"{_OPEN_QUOTE}{facts.query[slice(*span)]}”" for span in wishes]
    if spoken == "zh":
        return clean((f"符合{''.join(quoted)}：" if quoted else "") + "，".join(clauses) + "。")
    text = _listed(clauses)
    return clean((f"For {_listed(quoted)}: {text}" if quoted else text[:1].upper() + text[1:]) + ".")


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
