"""Finds out what reviews say of a listing, by aspect: its fit, its battery, its smell, and whether they praise it.

Which aspects a sentence speaks of is read from its words: those of the lexicon for this kind of product
(`genrank.words.lexicon`), and the listing's attribute names. Whether it praises or blames one is a question to
the model, which can answer nothing but positive, negative, mixed or none (`choose`). Without a model, or if it fails,
word lists decide.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from genrank.engines.base import Engine, Stop
from genrank.errors import EngineError, InputError
from genrank.reasons.grounding import normalise
from genrank.reasons.lexicon import COMMON
from genrank.search.understanding.choosing import Choice, choose
from genrank.text.language import Language, language
from genrank.types import Aspect, Listing, Tokens
from genrank.words import lexicon
from genrank.words.lexicon import AspectWords
from genrank.words.reviews import clauses, review_sentences
from genrank.words.template import AspectForm, AspectPrompt, load_prompt

Polarity = Literal["positive", "negative", "mixed", "none"]
"""What a sentence says of an aspect; ``none``: it speaks of it without an opinion."""

_POLARITIES: tuple[Polarity, ...] = ("positive", "negative", "mixed", "none")
_SENTENCE_TOKENS, _ASPECT_TOKENS = 64, 16
_MOST_SENTENCES = 200  # of one listing
_MOST_QUOTED = 160  # characters
_MOST_NAME = 30  # characters of an attribute's name that can be an aspect


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one sentence says of one aspect.

    Attributes:
        sentence: The sentence.
        aspect: The aspect's key: its English name, or the attribute's name.
        polarity: Whether it praises or blames it.
        confidence: The polarity's probability among the four, 0 to 1; 1.0 where word lists decided.
    """

    sentence: str
    aspect: str
    polarity: Polarity
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What the reviews of one listing say.

    Attributes:
        aspects: By aspect, the one with most opinions first; aspects without an opinion are left out.
        opinions: One for each sentence and aspect, ``none`` included.
        source: ``model``, or ``literal`` where word lists decided.
        why: Why the source is ``literal`` although there is a model; else empty.
        tokens: Token counts of the call, which all listings of a batch share.
    """

    aspects: tuple[Aspect, ...]
    opinions: tuple[Opinion, ...]
    source: Literal["model", "literal"]
    why: str = ""
    tokens: Tokens = field(default_factory=Tokens)


class AspectReader:
    """Reads what reviews say of listings.

    Args:
        engine: A model that can be read by ``score``, such as `genrank.Reranker.engine`; None: word lists decide.
        names: Further aspects that are called by their names. Each listing's attribute names are such anyway.
        prompt: Name of a prompt in ``prompts/words``, or a ``.toml`` file.
        leaning: How much of the answer that the model gives to a sentence without an opinion is taken off, 0 to 1
            (contextual calibration, arXiv 2102.09690).

    Raises:
        ConfigError: When the prompt is wrong.
        InputError: When `leaning` is out of range.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        names: Iterable[str] = (),
        prompt: str | Path = "aspects",
        leaning: float = 0.5,
    ) -> None:
        if not 0 <= leaning <= 1:
            raise InputError(f"must be within 0..1, got {leaning}", field="leaning")
        self.engine = engine
        self.prompt = load_prompt(prompt, AspectPrompt)
        self._names = _attribute_aspects(tuple(names))
        self._leaning = leaning
        self._leanings: dict[tuple[Language, str], list[float]] = {}
        self._leads: dict[Language, tuple[list[int], list[int]]] = {}

    def read(self, listings: Sequence[Listing], *, deadline: float | None = None) -> list[Reading]:
        """Read the reviews of listings, as one batch.

        Args:
            listings: ``[n]``; of one, at most 200 sentences are read.
            deadline: Seconds after which word lists decide.

        Returns:
            ``[n]`` readings.

        Raises:
            InputError: When the deadline is not positive.
        """
        if deadline is not None and not deadline > 0:
            raise InputError(f"must be more than 0 seconds, got {deadline}", field="deadline")
        stop = Stop(math.inf if deadline is None else time.monotonic() + deadline)
        found = [self.mentions(listing) for listing in listings]
        asked = [mention for mentions in found for mention in mentions]
        why, tokens, polarities = "", Tokens(), None
        if self.engine is not None and asked:
            try:
                polarities, tokens = self._ask(asked, stop)
            except EngineError as error:
                why = str(error)
        source: Literal["model", "literal"] = "literal" if polarities is None else "model"
        if polarities is None:
            polarities = [(literal_polarity(sentence, words), 1.0) for sentence, words in asked]
        left = iter(polarities)
        readings = []
        for listing, mentions in zip(listings, found, strict=True):
            opinions = tuple(Opinion(sentence, words.key, *next(left)) for sentence, words in mentions)
            aspects = _counted(opinions, [words for _, words in mentions], language(listing.title))
            readings.append(Reading(aspects, opinions, source, why, tokens))
        return readings

    async def aread(self, listings: Sequence[Listing], *, deadline: float | None = None) -> list[Reading]:
        """The same for asyncio; the model runs in a thread."""
        return await asyncio.to_thread(self.read, listings, deadline=deadline)

    def enrich(self, listings: Sequence[Listing], *, deadline: float | None = None) -> list[Listing]:
        """The listings with `Listing.aspects` as their reviews have them; see `read`."""
        readings = self.read(listings, deadline=deadline)
        return [
            dataclasses.replace(listing, aspects=reading.aspects)
            for listing, reading in zip(listings, readings, strict=True)
        ]

    def mentions(self, listing: Listing) -> list[tuple[str, AspectWords]]:
        """The sentences of a listing's reviews, each with an aspect that its words speak of.

        The longest words decide: ``too warm`` speaks of breathability, and not of warmth.
        """
        known = [*_aspects_of(listing.category), *self._names, *_attribute_aspects(tuple(listing.attributes))]
        known = list({words.key: words for words in reversed(known)}.values())[::-1]
        found = []
        for sentence in itertools.islice(review_sentences(listing), _MOST_SENTENCES):
            said = normalise(sentence)
            places = [(span, words) for words in known for span, _ in _places(words, said)]
            whole = {words.key: words for span, words in places if not any(_inside(span, other) for other, _ in places)}
            found += [(sentence, words) for words in whole.values()]
        return found

    def _ask(self, asked: Sequence[tuple[str, AspectWords]], stop: Stop) -> tuple[list[tuple[Polarity, float]], Tokens]:
        engine = cast(Engine, self.engine)
        spoken = [language(sentence) for sentence, _ in asked]
        new: list[tuple[Language, AspectWords]] = []
        if self._leaning:
            kinds = {(one, words.key): (one, words) for one, (_, words) in zip(spoken, asked, strict=True)}
            new = [kind for key, kind in kinds.items() if key not in self._leanings]
        choices = [self._choice(one, sentence, words) for one, (sentence, words) in zip(spoken, asked, strict=True)]
        choices += [self._choice(one, self.prompt.form(one).nothing, words) for one, words in new]
        scores, tokens = choose(engine, choices, stop=stop)
        for (one, words), row in zip(new, scores[len(asked) :], strict=True):
            self._leanings[one, words.key] = row
        found: list[tuple[Polarity, float]] = []
        for one, (_, words), row in zip(spoken, asked, scores, strict=False):
            lean = self._leanings.get((one, words.key), [0.0] * len(row))
            shares = _softmax([score - self._leaning * less for score, less in zip(row, lean, strict=True)])
            best = max(range(len(shares)), key=shares.__getitem__)
            found.append((_POLARITIES[best], shares[best]))
        return found, tokens

    def _choice(self, spoken: Language, sentence: str, words: AspectWords) -> Choice:
        tokenizer = cast(Engine, self.engine).tokenizer
        form = self.prompt.form(spoken)
        lead, after = self._lead(spoken)
        before, between, behind = re.split(r"\{sentence\}|\{aspect\}", form.question)
        parts = tokenizer.encode([before, sentence, between, words.name(spoken), behind, *form.answers])
        head, said, middle, name, tail, *answers = parts
        end = tokenizer.turn()[:1]
        asked = (*head.ids, *said.cut(_SENTENCE_TOKENS), *middle.ids, *name.cut(_ASPECT_TOKENS), *tail.ids, *after)
        return Choice((*lead, *asked), [(*answer.ids, *end) for answer in answers], lead=len(lead))

    def _lead(self, spoken: Language) -> tuple[list[int], list[int]]:
        """The tokens before the question, examples included, and those between question and answer."""
        if spoken not in self._leads:
            form = self.prompt.form(spoken)
            tokenizer = cast(Engine, self.engine).tokenizer
            ids, after = tokenizer.frame(form.system)
            for example in form.examples:
                question, answer = tokenizer.encode([_asked(form, example.sentence, example.aspect), example.answer])
                ids = [*ids, *question.ids, *after, *answer.ids, *tokenizer.turn()]
            self._leads[spoken] = ids, after
        return self._leads[spoken]


def literal_polarity(sentence: str, words: AspectWords) -> Polarity:
    """What a sentence says of an aspect, by word lists.

    The clauses that name the aspect count, with their opinion words: those of the aspect, and praise or blame of
    anything. A negation before such a word turns it round. Where these clauses hold none, the whole sentence counts.

    Args:
        sentence: Any.
        words: The aspect.
    """
    parts = [normalise(part) for part in clauses(sentence)]
    own = [_signs(part, words) for part in parts if _places(words, part)]
    signs = [sign for found in own for sign in found]
    if not signs:
        signs = [sign for part in parts for sign in _signs(part, words)]
    if not signs:
        return "none"
    return "mixed" if len(set(signs)) > 1 else "positive" if signs[0] > 0 else "negative"


def _signs(said: str, words: AspectWords) -> list[int]:
    """The opinions in a clause as 1 and -1."""
    found = {span: sign for span, sign in _places(words, said) if sign}
    for match in _general().finditer(said):
        if not any(start < match.end() and match.start() < end for start, end in found):
            found[match.span()] = 1 if match.lastgroup == "good" else -1
    return [-sign if _denied(said, start) else sign for (start, _), sign in found.items()]


def _denied(said: str, start: int) -> bool:
    """Whether a word that begins at `start` is negated: by one of the three words before it, or the sign before it."""
    before = said[:start]
    if re.search(rf"(?:{'|'.join(lexicon.NEGATORS_BEFORE_HAN)})[太很怎么会是]?$", before):
        return True
    words = re.findall(r"[a-z'’]+", before)[-3:]
    return any(word.replace("’", "'") in lexicon.NEGATORS for word in words)


def _counted(opinions: Sequence[Opinion], words: Sequence[AspectWords], spoken: Language) -> tuple[Aspect, ...]:
    """Opinions by aspect, named in the listing's language."""
    names = {one.key: one.name(spoken) for one in words}
    counts: dict[str, Counter[Polarity]] = {}
    quotes: dict[str, dict[Polarity, str]] = {}
    for opinion in opinions:
        if opinion.polarity != "none":
            counts.setdefault(opinion.aspect, Counter())[opinion.polarity] += 1
            if len(opinion.sentence) <= _MOST_QUOTED:
                quotes.setdefault(opinion.aspect, {}).setdefault(opinion.polarity, opinion.sentence)
    found = []
    for key, count in sorted(counts.items(), key=lambda item: (-item[1].total(), item[0])):
        ((most, _), *_) = count.most_common(1)
        quote = quotes.get(key, {}).get(most, "")
        found.append(Aspect(names[key], count["positive"], count["negative"], count["mixed"], quote))
    return tuple(found)


@functools.lru_cache(4096)
def _aspects_of(category: tuple[str, ...]) -> tuple[AspectWords, ...]:
    """The lexicon's aspects for a kind of product; all of them where the category says nothing."""
    path = normalise(" ".join(category))
    kinds = {
        kind
        for kind, words in lexicon.GROUPS.items()
        if any(word in path if not word.isascii() else re.search(rf"\b{word}(?:e?s)?\b", path) for word in words)
    }
    return tuple(one for one in lexicon.ASPECTS if not one.groups or not kinds or one.groups & kinds)


@functools.lru_cache(4096)
def _attribute_aspects(names: tuple[str, ...]) -> tuple[AspectWords, ...]:
    """Attribute names that are aspects of their own: no common words, and none that the lexicon has already."""
    known = {word.rstrip("+-*") for one in lexicon.ASPECTS for word in (one.key, one.chinese, *one.words)}
    found = {}
    for name in names:
        said = normalise(name)[: _MOST_NAME + 1]
        whole = len(said) <= _MOST_NAME and (len(said) > 3 if said.isascii() else len(said) > 1)
        if whole and said not in known | COMMON and re.search(r"[^\W\d]", said):
            found[said] = AspectWords(said, said, frozenset(), (said,))
    return tuple(found.values())


@functools.lru_cache(4096)
def _pattern(words: AspectWords) -> re.Pattern[str]:
    groups: dict[str, list[str]] = {"good": [], "bad": [], "plain": []}
    for word in words.words:
        kind = {"+": "good", "-": "bad"}.get(word[-1:], "plain")
        groups[kind].append(word if kind == "plain" else word[:-1])
    # the longest first, whatever it says: "too warm" blames where "warm" praises
    listed = sorted(((word, kind) for kind, some in groups.items() for word in some), key=lambda one: -len(one[0]))
    forms = [f"(?P<{kind}{i}>{_form(word)})" for i, (word, kind) in enumerate(listed)]
    return re.compile("|".join(forms))


def _form(word: str) -> str:
    if word.rstrip("*").isascii():
        return rf"(?<![a-z]){re.escape(word.rstrip('*'))}{'[a-z]*' if word.endswith('*') else ''}(?![a-z])"
    return re.escape(word)


def _places(words: AspectWords, said: str) -> list[tuple[tuple[int, int], int]]:
    """Where a normalised text speaks of an aspect, and whether the word itself praises (1) or blames (-1)."""
    signs = {"good": 1, "bad": -1}
    return [
        (match.span(), signs.get((match.lastgroup or "").rstrip("0123456789"), 0))
        for match in _pattern(words).finditer(said)
    ]


@functools.cache
def _general() -> re.Pattern[str]:
    forms = []
    for name, words in (("good", lexicon.GOOD), ("bad", lexicon.BAD)):
        forms.append(f"(?P<{name}>{'|'.join(_form(word) for word in sorted(words, key=len, reverse=True))})")
    return re.compile("|".join(reversed(forms)))


def _asked(form: AspectForm, sentence: str, aspect: str) -> str:
    before, between, behind = re.split(r"\{sentence\}|\{aspect\}", form.question)
    return f"{before}{sentence}{between}{aspect}{behind}"


def _inside(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return span != other and other[0] <= span[0] and span[1] <= other[1]


def _softmax(scores: Sequence[float]) -> list[float]:
    most = max(scores)
    shares = [math.exp(score - most) for score in scores]
    return [share / math.fsum(shares) for share in shares]
