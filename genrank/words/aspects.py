"""Finds out what reviews say of a listing, by aspect: its fit, its battery, its smell, and whether they praise it.

Which aspects a sentence speaks of is read from its words: those of the lexicon for this kind of product
(`genrank.words.lexicon`), and the listing's attribute names. Where no word tells, the model can be asked. Whether it
praises or blames one is a question to the model, which can answer nothing but positive, negative, mixed or none
(`choose`). Without a model, or if it fails, word lists decide.
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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from genrank.engines.base import Engine, Stop
from genrank.errors import EngineError, InputError
from genrank.reasons.grounding import normalise
from genrank.reasons.lexicon import COMMON
from genrank.text.language import Language, language
from genrank.types import Aspect, Listing, Tokens
from genrank.words import lexicon
from genrank.words.lexicon import AspectWords
from genrank.words.reviews import clauses, review_sentences
from genrank.words.template import AspectPrompt, load_prompt

if TYPE_CHECKING:
    from genrank.search.understanding.choosing import Choice

Polarity = Literal["positive", "negative", "mixed", "none"]
"""What a sentence says of an aspect; ``none``: it speaks of it without an opinion."""

_POLARITIES: tuple[Polarity, ...] = ("positive", "negative", "mixed", "none")
_SENTENCE_TOKENS = 64
_MOST_TOPICS = 24  # aspects that the model chooses from
_MOST_SENTENCES = 200  # of one listing
_MOST_QUOTED = 160  # characters
_MOST_NAME = 30  # characters of an attribute's name that can be an aspect


Mention = tuple[str, AspectWords]
"""A sentence, and an aspect that it speaks of."""


@dataclass(frozen=True, slots=True)
class _Question:
    """A question on a sentence: what it says of an aspect, or, without a name, which aspect it speaks of."""

    spoken: Language
    sentence: str
    name: str
    options: tuple[str, ...]


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
        ask: Whether the model is also asked which aspect a sentence speaks of, where no word tells.
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
        ask: bool = False,
        prompt: str | Path = "aspects",
        leaning: float = 0.5,
    ) -> None:
        if not 0 <= leaning <= 1:
            raise InputError(f"must be within 0..1, got {leaning}", field="leaning")
        self.engine = engine
        self.prompt: AspectPrompt = load_prompt(prompt, AspectPrompt)
        self._asks = ask
        self._names = _attribute_aspects(tuple(names))
        self._leaning = leaning
        self._leanings: dict[_Question, list[float]] = {}
        self._leads: dict[tuple[Language, bool], tuple[list[int], list[int]]] = {}

    def read(self, listings: Sequence[Listing], *, deadline: float | None = None) -> list[Reading]:
        """Read the reviews of listings, as one batch.

        Args:
            listings: ``[n]``; of one, at most 200 sentences are read.
            deadline: Seconds after which word lists decide.

        Returns:
            ``[n]`` readings.

        Raises:
            InputError: When the deadline is not positive.
            MissingExtraError: When there is an engine, and NumPy is not installed.
        """
        if deadline is not None and not deadline > 0:
            raise InputError(f"must be more than 0 seconds, got {deadline}", field="deadline")
        stop = Stop(math.inf if deadline is None else time.monotonic() + deadline)
        found = [self.mentions(listing) for listing in listings]
        why, tokens = "", Tokens()
        polarities: list[tuple[Polarity, float]] | None = None
        if self.engine is not None:
            try:
                if self._asks:
                    found, tokens = self._with_topics(listings, found, stop)
                polarities, more = self._polarities([one for mentions in found for one in mentions], stop)
                tokens += more
            except EngineError as error:
                why = str(error)
                found = [self.mentions(listing) for listing in listings]
        source: Literal["model", "literal"] = "literal" if polarities is None else "model"
        if polarities is None:
            polarities = [(literal_polarity(*mention), 1.0) for mentions in found for mention in mentions]
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

    def mentions(self, listing: Listing) -> list[Mention]:
        """The sentences of a listing's reviews, each with an aspect that its words speak of.

        The longest words decide: ``too warm`` speaks of breathability, and not of warmth.
        """
        known = self._known(listing)
        found = []
        for sentence in _sentences(listing):
            said = normalise(sentence)
            places = [(span, words) for words in known for span, _ in _places(words, said)]
            whole = {words.key: words for span, words in places if not any(_inside(span, other) for other, _ in places)}
            found += [(sentence, words) for words in whole.values()]
        return found

    def _known(self, listing: Listing) -> list[AspectWords]:
        """The aspects that a listing may have, each once."""
        known = [*_aspects_of(listing.category), *self._names, *_attribute_aspects(tuple(listing.attributes))]
        return list({words.key: words for words in reversed(known)}.values())[::-1]

    def _with_topics(
        self, listings: Sequence[Listing], found: Sequence[list[Mention]], stop: Stop
    ) -> tuple[list[list[Mention]], Tokens]:
        """What was found, and what the model says that the other sentences speak of."""
        silent: list[tuple[int, _Question, dict[str, AspectWords]]] = []
        for place, (listing, mentions) in enumerate(zip(listings, found, strict=True)):
            told = {sentence for sentence, _ in mentions}
            for sentence in _sentences(listing):
                if sentence not in told:
                    spoken = language(sentence)
                    names = {words.name(spoken): words for words in self._known(listing)[:_MOST_TOPICS]}
                    question = _Question(spoken, sentence, "", (*names, self.prompt.form(spoken).topic.none))
                    silent.append((place, question, names))
        shares, tokens = self._shares([question for _, question, _ in silent], stop)
        more = [list(mentions) for mentions in found]
        for (place, question, names), row in zip(silent, shares, strict=True):
            name = question.options[max(range(len(row)), key=row.__getitem__)]
            if name in names:
                more[place].append((question.sentence, names[name]))
        return more, tokens

    def _polarities(self, asked: Sequence[Mention], stop: Stop) -> tuple[list[tuple[Polarity, float]], Tokens]:
        """What the model says of each sentence and aspect."""
        questions = []
        for sentence, words in asked:
            spoken = language(sentence)
            questions.append(_Question(spoken, sentence, words.name(spoken), self.prompt.form(spoken).answers))
        shares, tokens = self._shares(questions, stop)
        best = [max(range(len(row)), key=row.__getitem__) for row in shares]
        return [(_POLARITIES[i], row[i]) for i, row in zip(best, shares, strict=True)], tokens

    def _shares(self, questions: Sequence[_Question], stop: Stop) -> tuple[list[list[float]], Tokens]:
        """The probabilities of each question's options, without the model's leaning."""
        from genrank.search.understanding.choosing import choose  # with NumPy, which word lists do without

        empty = [replace(one, sentence=self.prompt.form(one.spoken).nothing) for one in questions]
        new = [one for one in dict.fromkeys(empty) if one not in self._leanings] if self._leaning else []
        scores, tokens = choose(cast(Engine, self.engine), [self._choice(one) for one in (*questions, *new)], stop=stop)
        self._leanings |= dict(zip(new, scores[len(questions) :], strict=True))
        found = []
        for one, row in zip(empty, scores, strict=False):
            lean = self._leanings.get(one, [0.0] * len(row))
            found.append(_softmax([score - self._leaning * less for score, less in zip(row, lean, strict=True)]))
        return found, tokens

    def _choice(self, question: _Question) -> Choice:
        from genrank.search.understanding.choosing import Choice

        tokenizer = cast(Engine, self.engine).tokenizer
        lead, after = self._lead(question.spoken, bool(question.name))
        before, behind = self._around(question.spoken, question.name, question.options)
        head, said, tail, *answers = tokenizer.encode([before, question.sentence, behind, *question.options])
        end = tokenizer.turn()[:1]
        ids = (*lead, *head.ids, *said.cut(_SENTENCE_TOKENS), *tail.ids, *after)
        return Choice(ids, [(*answer.ids, *end) for answer in answers], lead=len(lead))

    def _around(self, spoken: Language, name: str, options: Sequence[str]) -> tuple[str, str]:
        """The texts before and after the sentence in a question: about one aspect, or without a name which one."""
        form = self.prompt.form(spoken)
        asked, what = (form.question, name) if name else (form.topic.question, form.topic.between.join(options))
        before, between, behind = re.split(r"\{sentence\}|\{aspects?\}", asked)
        return before, between + what + behind

    def _lead(self, spoken: Language, named: bool) -> tuple[list[int], list[int]]:
        """The tokens before the question, examples included, and those between question and answer."""
        if (spoken, named) not in self._leads:
            form = self.prompt.form(spoken)
            tokenizer = cast(Engine, self.engine).tokenizer
            ids, after = tokenizer.frame(form.system if named else form.topic.system)
            examples = [(one.sentence, self._around(spoken, one.aspect, ()), one.answer) for one in form.examples]
            if not named:
                examples = [
                    (one.sentence, self._around(spoken, "", (*one.aspects, form.topic.none)), one.answer)
                    for one in form.topic.examples
                ]
            for sentence, around, answer in examples:
                question, said = tokenizer.encode([sentence.join(around), answer])
                ids = [*ids, *question.ids, *after, *said.ids, *tokenizer.turn()]
            self._leads[spoken, named] = ids, after
        return self._leads[spoken, named]


def _sentences(listing: Listing) -> list[str]:
    return list(itertools.islice(review_sentences(listing), _MOST_SENTENCES))


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


def _inside(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return span != other and other[0] <= span[0] and span[1] <= other[1]


def _softmax(scores: Sequence[float]) -> list[float]:
    most = max(scores)
    shares = [math.exp(score - most) for score in scores]
    return [share / math.fsum(shares) for share in shares]
