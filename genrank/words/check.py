"""Checks a text about a listing, sentence by sentence: what no field, no review and no purchase says is cut.

The check of reasons (`genrank.reasons.grounding`) finds claims of the kinds that it has word lists for. A summary is
held to more: *each* of its words must be one that a field says too, or one that says nothing by itself (``it comes
with``). So a claim in words that are on no list does not pass either. A sentence that repeats reviewers must say so,
and all of its words must stand in one sentence of one review, which denies neither more nor less.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from genrank.reasons.grounding import (
    Claim,
    Facts,
    Span,
    evidence_of,
    find_claims,
    find_words,
    is_broken,
    negated,
    normalise,
    says,
)
from genrank.reasons.lexicon import NEGATORS, PRAISE, USES
from genrank.text.clean import clean
from genrank.text.language import HAN, Language, scripts
from genrank.types import Listing, Query
from genrank.words import lexicon
from genrank.words.reviews import clauses, review_sentences

_HAN_RUN = re.compile(f"[{HAN}]+")
_ATTRIBUTION = re.compile(f"{lexicon.ATTRIBUTION}|{lexicon.HAN_ATTRIBUTION}")
_ATTRIBUTION_AT_ALL = re.compile(rf"\b{lexicon.REVIEWERS}\b|评价|评论|买家|用户|顾客|网友|大家")
_FIRST_PERSON = re.compile(lexicon.FIRST_PERSON)
_NEGATOR = re.compile(rf"(?<![a-z])(?:{'|'.join(map(re.escape, NEGATORS))})(?![a-z-])|n't\b|[不没无未别非]")
_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
# letters beside a digit are a unit or a model number, which `find_claims` finds
_WORD = re.compile(rf"(?<![a-z0-9])[a-z]+(?:['-][a-z]+)*(?![a-z0-9])|[^\W\d_a-z{HAN}]+")


@dataclass(frozen=True, slots=True)
class Checked:
    """A sentence after the check.

    Attributes:
        text: The sentence.
        evidence: The fields that support it, such as ``attributes.colour`` or ``reviews[0]``; empty if it may not stay.
        why: Why it may not stay; empty if it may.
    """

    text: str
    evidence: tuple[str, ...]
    why: str = ""


class Grounds:
    """What a text about one listing may say.

    Args:
        facts: The listing's fields and the shopper's past.
        listing: The listing, for its reviews.
        spoken: The language that the text must be in.
    """

    def __init__(self, facts: Facts, listing: Listing, spoken: Language) -> None:
        facts.language = spoken
        self.facts = facts
        self.spoken = spoken
        self.reviews: list[tuple[int, str]] = []  # each sentence and each clause, normalised, with its review's place
        for sentence, place in review_sentences(listing).items():
            units = dict.fromkeys([sentence, *clauses(sentence)])
            self.reviews += [(place, normalise(unit)) for unit in units]

    def check(self, sentence: str) -> Checked:
        """Whether a sentence may stay: all that it says is known, and it is a whole sentence in the right language."""
        text = clean(sentence)
        said = normalise(text)
        if is_broken(text) or re.search(r"[\[\]{}<>|]|https?:|www\.", text):
            return Checked(text, (), "no whole sentence")
        if not _in_language(text, self.spoken):
            return Checked(text, (), "in another language")
        if _FIRST_PERSON.search(said):
            return Checked(text, (), "speaks in the first person")
        if _ATTRIBUTION.search(said):
            return self._check_attributed(text, said)
        if _ATTRIBUTION_AT_ALL.search(said) and not re.search(r"\d+ ?(?:reviews|ratings|[条个]评)", said):
            return Checked(text, (), "speaks of reviewers without saying what they say")
        claims = find_claims(text, self.facts)
        if wrong := [claim.text for claim in claims if not claim.fields]:
            return Checked(text, (), f"no field says {', '.join(map(repr, wrong))}")
        if strange := unsaid(text, self.facts, claims):
            return Checked(text, (), f"no field says {', '.join(map(repr, strange))}")
        named = evidence_of(claims, self.facts)
        if evidence := named or _evidence_of_words(said, self.facts):
            return Checked(text, evidence)
        return Checked(text, (), "says nothing of the listing")

    def _check_attributed(self, text: str, said: str) -> Checked:
        rest = _ATTRIBUTION.sub(" ", said, count=1)
        if _ATTRIBUTION_AT_ALL.search(rest):
            return Checked(text, (), "speaks of reviewers twice")
        for place, unit in self.reviews:
            if _repeats(rest, unit, self.facts):
                return Checked(text, (f"reviews[{place}]",))
        return Checked(text, (), "no review says this")


def unsaid(text: str, facts: Facts, claims: Sequence[Claim], fillers: Set[str] | None = None) -> tuple[str, ...]:
    """The words of a text that no field says, apart from those that say nothing.

    A word is said by a field of the listing, or of an interaction that a grounded claim speaks of; where the text
    denies it, the field must deny it too.

    Args:
        text: One line.
        facts: The fields.
        claims: What `genrank.reasons.grounding.find_claims` found; those that are grounded are said.
        fillers: Words that say nothing; by default those of the lexicon.
    """
    fillers = lexicon.FUNCTION_WORDS | lexicon.PRODUCT_WORDS if fillers is None else fillers
    said = normalise(text)
    past = {int(at[1]) for claim in claims for name in claim.fields if (at := re.match(r"history\[(\d+)\]", name))}
    fields = [field for field in facts.fields if field.past is None or field.past in past]
    fillers = fillers | {*lexicon.HAN_FILLERS} | ({*lexicon.PAST_WORDS} if past else set())
    covered = [span for claim in claims if claim.fields for span in _all(claim.text, said)]
    covered += [span for claim in claims if claim.kind == "history" for span in _all(claim.text, said)]
    denials = list(covered)
    strange: list[str] = []

    def stands(word: str, start: int, end: int) -> bool:
        denied = negated(said, start, end)
        if not any(says(field, (word,), denied=denied is not None) for field in fields):
            return False
        denials.append((min(denied[0], start), max(denied[1], end)) if denied else (start, end))
        return True

    for match in _WORD.finditer(said):
        word = match.group()
        if word in fillers or _inside(match.span(), covered) or word in NEGATORS:
            continue
        if stands(word, *match.span()):
            continue
        parts = list(re.finditer(r"[a-z']+", word))
        if len(parts) < 2 or not all(
            part[0] in fillers or stands(part[0], match.start() + part.start(), match.start() + part.end())
            for part in parts
        ):
            strange.append(word)
    for run in _HAN_RUN.finditer(said):
        strange += _unsaid_han(run, covered, fillers, stands)
    for match in _NEGATOR.finditer(said):
        if not _inside(match.span(), denials):
            strange.append(match[0])
    signs = {normalise(char) or char for char in text if unicodedata.category(char) == "So"}
    strange += sorted(sign for sign in signs if not any(sign in field.said for field in fields))
    return tuple(dict.fromkeys(strange))


def _unsaid_han(
    run: re.Match[str], covered: Collection[Span], fillers: Set[str], stands: Callable[[str, int, int], bool]
) -> Iterator[str]:
    """The characters of a run of Chinese that belong to no word of a field; the longest words are tried first."""
    text, start = run.group(), run.start()
    i = 0
    while i < len(text):
        claimed = max((end for begin, end in covered if begin <= start + i < end), default=start + i) - start - i
        lengths = range(len(text) - i, 1, -1)
        known = next((n for n in lengths if stands(text[i : i + n], start + i, start + i + n)), 0)
        filler = next((n for n in range(4, 0, -1) if text[i : i + n] in fillers), 0)
        if not max(claimed, known, filler):
            yield text[i]
        i += max(claimed, known, filler, 1)


def lost_words(original: str, variant: str) -> tuple[str, ...]:
    """What a variant of a title lost of it: numbers with their units, sizes, models, brands, nouns.

    Small words count where they decide what is sold (``for``). Only praise, uses and the lexicon's `DROPPABLE` words
    may be left out.

    Args:
        original: The title.
        variant: Its variant.
    """
    said, new = normalise(original), normalise(variant)
    before, after = (Facts(Query("?"), Listing("t", text)).measures for text in (original, variant))
    lost = [
        said[slice(*measure.span)] or f"{measure.value:g}"
        for measure, _ in before
        if not any(
            measure.kind == other.kind
            and measure.word == other.word
            and (bool(measure.word) or math.isclose(measure.value, other.value))
            for other, _ in after
        )
    ]
    spans = [measure.span for measure, _ in before]
    for word in sorted(_droppable(), key=len, reverse=True):
        spans += find_words(word, said)
    for match in _WORD.finditer(said):
        word = match.group()
        needless = word in lexicon.FUNCTION_WORDS - lexicon.MEANINGFUL_FUNCTION_WORDS
        if not needless and not _inside(match.span(), spans) and not find_words(word, new):
            lost.append(word)
    for run in _HAN_RUN.finditer(said):
        for i, char in enumerate(run.group(), start=run.start()):
            if not _inside((i, i + 1), spans) and char not in new and char not in "的和与款":
                lost.append(char)
    return tuple(dict.fromkeys(lost))


def check_title(variant: str, facts: Facts, max_chars: int) -> Checked:
    """Whether a variant of a title may take its place: short enough, nothing lost, nothing added but from the fields.

    Args:
        variant: The variant, one line.
        facts: The listing's fields.
        max_chars: The most characters.
    """
    text = clean(variant)
    said, original = normalise(text), normalise(facts.title)
    if is_broken(text) or re.search(r"[\[\]{}<>|]|[.!?。！？]\s", text):
        return Checked(text, (), "no title")
    if len(text) > max_chars:
        return Checked(text, (), f"longer than {max_chars} characters")
    if lost := lost_words(facts.title, text):
        return Checked(text, (), f"lost {', '.join(map(repr, lost))}")
    claims = find_claims(text, facts)
    kept = {match for claim in claims if not claim.fields for match in [claim.text] if find_words(match, original)}
    if wrong := [claim.text for claim in claims if not claim.fields and claim.text not in kept]:
        return Checked(text, (), f"no field says {', '.join(map(repr, wrong))}")
    if any(claim.kind == "history" for claim in claims) or _FIRST_PERSON.search(said):
        return Checked(text, (), "speaks of a person")
    own = {word for word in lexicon.FUNCTION_WORDS if find_words(word, original)} | {"in", "by", "and"}
    if strange := unsaid(text, facts, claims, own):
        return Checked(text, (), f"no field says {', '.join(map(repr, strange))}")
    return Checked(text, tuple(dict.fromkeys(["title", *evidence_of(claims, facts)])))


def _repeats(rest: str, unit: str, facts: Facts) -> bool:
    """Whether all that a sentence says stands in one sentence or clause of a review, or names the listing."""
    if bool(_NEGATOR.search(rest)) != bool(_NEGATOR.search(unit)):
        return False
    title = facts.fields[0].said
    own = 0
    named = 0
    for match in _WORD.finditer(rest):
        word = match.group()
        if word in lexicon.FUNCTION_WORDS or word in NEGATORS:
            continue
        if find_words(word, unit):
            own += 1
        elif find_words(word, title):
            named += 1
        else:
            return False
    for run in _HAN_RUN.finditer(rest):
        found, strange = _han_words(run.group(), unit, title)
        own += found
        if strange:
            return False
    if any(number not in _NUMBER.findall(unit) for number in _NUMBER.findall(rest)):
        return False
    return own > 0 and own >= named


def _han_words(run: str, unit: str, title: str) -> tuple[int, bool]:
    """How many characters a review says too, and whether there are some that neither it nor the title says."""
    i = found = 0
    while i < len(run):
        own = next((n for n in range(len(run) - i, 1, -1) if run[i : i + n] in unit), 0)
        named = next((n for n in range(len(run) - i, 1, -1) if run[i : i + n] in title), 0)
        filler = max((len(word) for word in lexicon.HAN_FUNCTION if run.startswith(word, i)), default=0)
        if not own and not named and not filler:
            if run[i] not in unit:
                return found, True
            own = 1
        found += own if own >= max(named, filler) else 0
        i += max(own, named, filler)
    return found, False


def _evidence_of_words(said: str, facts: Facts) -> tuple[str, ...]:
    """The field that says most of a sentence's words, where it makes no claim of a kind that is known."""
    words = [word for word in _WORD.findall(said) if word not in lexicon.FUNCTION_WORDS | lexicon.PRODUCT_WORDS]
    words += [run[i : i + 2] for run in _HAN_RUN.findall(said) for i in range(len(run) - 1)]
    own = [field for field in facts.fields if field.past is None]
    counts = [(sum(bool(find_words(word, field.said)) for word in words), field.name) for field in own]
    most, name = max(counts, key=lambda one: one[0])
    return (name,) if most else ()


def _in_language(text: str, spoken: Language) -> bool:
    found = scripts(text)
    script = {"zh": "han", "en": "latin"}.get(spoken, "")
    return bool(script) and found[script] * 2 >= found.total() > 0


def _all(words: str, said: str) -> list[Span]:
    return [match.span() for match in re.finditer(re.escape(words), said)]


def _inside(span: Span, others: Iterable[Span]) -> bool:
    return any(start <= span[0] and span[1] <= end for start, end in others)


def _droppable() -> frozenset[str]:
    return lexicon.DROPPABLE | {word for group in (*PRAISE, *USES) for word in group}
