"""Turns a query into an `Intent`, by choices that the model makes among the catalogue's own values."""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from genrank.adapters import load_manifest
from genrank.engines.base import Engine, Stop
from genrank.errors import ConfigError, EngineError, InputError
from genrank.inputs import at
from genrank.search.bm25 import tokenise
from genrank.search.understanding.choosing import Choice, choose
from genrank.search.understanding.labels import LabelledQuery
from genrank.search.understanding.literal import exclusions, prices, with_digits
from genrank.search.understanding.spelling import Spelling, is_usual
from genrank.search.understanding.vocabulary import Path, Vocabulary
from genrank.search.understanding.wording import CHINESE, ENGLISH, TRAINED, Wording, digest
from genrank.text.clean import clean
from genrank.text.language import language
from genrank.types import Guess, Intent, Query, Tokens

_QUERY_CHARACTERS, _QUERY_TOKENS = 500, 64  # read of a query
_LONGEST = 60  # characters of a value; a longer one is prose
_KEPT = 10_000  # leanings
# a category's log-odds, from what the model says and from the listings that the query finds; chosen on the sample
# shop's train and dev queries (docs/results/understanding.md)
_SAYS, _VOTES = 0.5, 2.0
_NEAR = 0.8  # of the likeliest category's probability: what is as likely is meant too


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question about a labelled query, with its answer.

    Attributes:
        name: The slot: an attribute's name, or `Wording.category`.
        choice: The question as the model reads it.
        right: Places of the right answers in `Choice.answers`, 0-based; at least one.
    """

    name: str
    choice: Choice
    right: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Question:
    """A slot of a query.

    Attributes:
        shots: Labelled questions and their answers, which are shown before it.
    """

    wording: Wording
    query: str
    name: str
    options: tuple[str, ...]
    shots: tuple[tuple[str, str], ...] = ()

    @property
    def asked(self) -> str:
        """The question in words."""
        options = self.wording.between.join(self.options)
        return self.wording.question.format(query=self.query, name=self.name, options=options)


_Answered = tuple[_Question, tuple[int, ...]]
"""A question, and the places of its right options."""


@dataclass
class _Meter:
    """What one query has cost so far."""

    stop: Stop
    tokens: Tokens = field(default_factory=Tokens)


class Understanding:
    """Reads a query's meaning with a language model.

    Prices and exclusions are read from the query's words, brands by their names, and its spelling is corrected to the
    catalogue's words. Its category and its attributes are questions with the catalogue's own values as answers, and the
    model may answer with nothing else (`choose`):

    - The category is one of those of the listings that the query's words find. What the model says is weighed with how
      well these listings were found.
    - An attribute is asked about where the query has all words of one of its values.

    The answers that the model gives to a query that says nothing are taken off by half: a small model leans to some
    answers whatever it is asked (contextual calibration, arXiv 2102.09690).

    With `examples`, each question comes after the questions about the same slot of the labelled queries that share most
    words with the query, with their answers. An adapter may have learned from such queries instead: `finetune.sft`
    (in a clone), form ``understanding``.

    Args:
        engine: A model that can be read by ``score``, such as `genrank.Reranker.engine`.
        vocabulary: The catalogue's values.
        categories: How many categories the model may choose from: those whose words are nearest to the query's.
        names: How many attributes it is asked about: those that most listings of the category have.
        values: How many values of an attribute it may choose from, the most frequent; those in the query always.
        leaning: How much of the model's leaning is taken off, 0 to 1.
        examples: Labelled queries, or label lines that have the ``query`` itself.
        shots: How many of them are shown before a question, the nearest ones.

    Raises:
        InputError: When an argument is out of range, or an example is wrong.
        ConfigError: When the engine's adapter has learned to understand queries in other words than these.
        MissingExtraError: When symspellpy or pypinyin is not installed.
    """

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        *,
        categories: int = 8,
        names: int = 10,
        values: int = 10,
        leaning: float = 0.5,
        examples: Iterable[LabelledQuery | Mapping[str, Any]] = (),
        shots: int = 3,
    ) -> None:
        for name, number in (("categories", categories), ("names", names), ("values", values), ("shots", shots)):
            if number < 1:
                raise InputError(f"must be at least 1, got {number}", field=name)
        if not 0 <= leaning <= 1:
            raise InputError(f"must be within 0..1, got {leaning}", field="leaning")
        self.engine = engine
        self.vocabulary = vocabulary
        self._categories, self._names, self._values = categories, names, values
        self._leaning = leaning
        self._spelling = Spelling(vocabulary.words)
        self._leanings: dict[_Question, list[float]] = {}
        self._leads: dict[str, tuple[list[int], list[int]]] = {}
        self._shots = shots
        self._examples: list[_Example] = []
        for place, example in enumerate(examples):
            with at(f"examples[{place}]"):
                label = example if isinstance(example, LabelledQuery) else LabelledQuery.from_dict(example)
            self._examples.append(_Example(label.query, _said(label.query), self._answered(label)))
        _check_adapter(engine)

    def understand(self, query: Query | str, *, deadline: float | None = None, stop: Stop | None = None) -> Intent:
        """Read a query.

        Args:
            query: What was typed.
            deadline: Seconds after which what is known so far is returned.
            stop: Ends the model's work in the place of the deadline; another thread may cancel it.

        Returns:
            The intent. If the model fails or the deadline passes, what the query says in so many words, with ``source``
            ``literal`` and `Intent.why`.

        Raises:
            InputError: When the query is blank or the deadline is not positive.
        """
        if deadline is not None and not deadline > 0:
            raise InputError(f"must be more than 0 seconds, got {deadline}", field="deadline")
        started = time.monotonic()
        text = clean((query if isinstance(query, Query) else Query(query)).text)[:_QUERY_CHARACTERS]
        meter = _Meter(stop or Stop(math.inf if deadline is None else started + deadline))
        intent = self._literal(text)
        try:
            intent = self._ask(intent, meter)
        except EngineError as error:
            intent = replace(intent, source="literal", why=str(error))
        return replace(intent, tokens=meter.tokens, seconds=time.monotonic() - started)

    async def aunderstand(self, query: Query | str, *, deadline: float | None = None) -> Intent:
        """The same for asyncio; the model runs in a thread."""
        return await asyncio.to_thread(self.understand, query, deadline=deadline)

    def lessons(self, label: LabelledQuery) -> list[Lesson]:
        """The questions that a labelled query answers, as the model reads them; what training learns.

        They are about the category, if the query's words find a right one, and about the attributes of the listings
        in the label's categories of which the query has all words of a value.

        Args:
            label: The query and what it asks for. An example of the same query is not shown before its questions.
        """
        return [
            Lesson(question.name, self._choice(replace(question, shots=self._shown(question, label.query))), right)
            for question, right in self._answered(label)
        ]

    def _answered(self, label: LabelledQuery) -> list[_Answered]:
        """The questions about a labelled query with their right options."""
        intent = self._literal(clean(label.query)[:_QUERY_CHARACTERS])
        wording, rest = _wording(intent), self._rest(intent)
        wanted = [tuple(map(clean, path)) for path in label.categories]
        paths = list(self._likely(rest, intent))
        right = tuple(place for place, path in enumerate(paths) if any(path[: len(one)] == one for one in wanted))
        found: list[_Answered] = []
        if right:
            found.append((_Question(wording, rest, wording.category, tuple(map(" > ".join, paths))), right))
        for question in self._attribute_questions(wording, rest, wanted):
            answer = label.attributes.get(question.name, wording.any)
            if answer in question.options:
                found.append((question, (question.options.index(answer),)))
        return found

    def _shown(self, question: _Question, without: str = "") -> tuple[tuple[str, str], ...]:
        """The nearest examples for a question, the nearest last, each with its answer; never the query `without`."""
        said = _said(question.query)
        same = [
            (example, asked.asked, asked.options[right[0]])
            for example in self._examples
            if example.query != without
            for asked, right in example.answered
            if asked.name == question.name and asked.wording is question.wording
        ]
        same.sort(key=lambda one: -len(said & one[0].words) / max(1, len(said | one[0].words)))
        return tuple((asked, answer) for _, asked, answer in reversed(same[: self._shots]))

    def _literal(self, text: str) -> Intent:
        """What stands in a query in so many words."""
        money, rest = prices(text)
        excluded, _ = self._without(rest)
        brands = self.vocabulary.brands_in(text)
        return Intent(
            query=text,
            language=language(text),
            corrected=self._spelling.correct(text),
            brand=Guess(brands[0], 1.0) if brands else None,
            least_price=money.least,
            most_price=money.most,
            currency=money.currency or self._only_currency(),
            excluded=tuple(excluded),
        )

    def _only_currency(self) -> str:
        return next(iter(self.vocabulary.currencies)) if len(self.vocabulary.currencies) == 1 else ""

    def _ask(self, intent: Intent, meter: _Meter) -> Intent:
        wording, rest = _wording(intent), self._rest(intent)
        shares = self._likely(rest, intent)
        if shares:
            question = _Question(wording, rest, wording.category, tuple(map(" > ".join, shares)))
            (scores,) = self._scores([question], meter)
            sums = [
                _SAYS * score + _VOTES * math.log(share) for score, share in zip(scores, shares.values(), strict=True)
            ]
            likely = zip(shares, _softmax(sums), strict=True)
            chosen = sorted((Guess(path, share) for path, share in likely), key=lambda one: -one.confidence)
            intent = replace(
                intent, categories=tuple(one for one in chosen if one.confidence >= _NEAR * chosen[0].confidence)
            )
        return replace(intent, attributes=self._attributes(wording, rest, intent, meter))

    def _rest(self, intent: Intent) -> str:
        """The query without its price and exclusions."""
        _, rest = prices(intent.corrected)
        _, rest = self._without(rest)
        return rest or intent.corrected

    def _without(self, text: str) -> tuple[list[str], str]:
        words = self.vocabulary.words
        # 无线 (wireless) is a word of its own, 无糖 (without sugar) is not
        return exclusions(
            text, words.__contains__, lambda one: self.vocabulary.is_value(one) or (one in words and is_usual(one))
        )

    def _likely(self, text: str, intent: Intent) -> dict[Path, float]:
        """The categories to choose from, with their shares of BM25, in the query's language if there are any."""
        found = self.vocabulary.likely_categories(text)
        same = {path: score for path, score in found.items() if language(" ".join(path)) == intent.language}
        best = list((same or found).items())[: self._categories]
        total = math.fsum(score for _, score in best)
        return {path: score / total for path, score in best}

    def _attribute_questions(self, wording: Wording, rest: str, categories: Iterable[Path]) -> list[_Question]:
        """Questions about the attributes of listings in some categories."""
        facets = self.vocabulary.facets_of(categories)
        facets.sort(key=lambda facet: -sum(facet.values.values()))
        said, questions = _said(rest), []
        for facet in facets:
            short = [value for value in facet.values if len(value) <= _LONGEST and value != wording.any]
            named = [value for value in short if _stands_in(value, said)]
            if named:
                values = list(dict.fromkeys([*named, *short]))[: self._values]
                questions.append(_Question(wording, rest, facet.name, (*values, wording.any)))
        return questions[: self._names]

    def _attributes(self, wording: Wording, rest: str, intent: Intent, meter: _Meter) -> dict[str, Guess[str]]:
        questions = self._attribute_questions(wording, rest, [guess.value for guess in intent.categories])
        said, found = _said(rest), {}
        for question, scores in zip(questions, self._scores(questions, meter), strict=True):
            shares = dict(zip(question.options, _softmax(scores), strict=True))
            value = max((one for one in shares if one != wording.any and _stands_in(one, said)), key=shares.__getitem__)
            if shares[value] > shares[wording.any]:
                found[question.name] = Guess(value, shares[value] / (shares[value] + shares[wording.any]))
        return found

    def _scores(self, questions: Sequence[_Question], meter: _Meter) -> list[list[float]]:
        """Log-probabilities of each question's options, without the model's leaning."""
        questions = [replace(one, shots=self._shown(one)) for one in questions]
        empty = [replace(one, query=one.wording.nothing) for one in questions] if self._leaning else []
        new = [one for one in dict.fromkeys(empty) if one not in self._leanings]
        choices = [self._choice(one) for one in [*questions, *new]]
        scores, tokens = choose(self.engine, choices, stop=meter.stop)
        meter.tokens += tokens
        if len(self._leanings) + len(new) > _KEPT:
            self._leanings.clear()
            new = [one for one in new if one in empty]
        leanings = dict(zip(new, scores[len(questions) :], strict=True))
        self._leanings |= leanings
        asked = scores[: len(questions)]
        if not empty:
            return asked
        return [
            [score - self._leaning * lean for score, lean in zip(row, self._leanings[one], strict=True)]
            for row, one in zip(asked, empty, strict=True)
        ]

    def _choice(self, question: _Question) -> Choice:
        wording, tokenizer = question.wording, self.engine.tokenizer
        lead, after = self._lead(wording)
        before, behind = wording.question.split("{query}")
        behind = behind.format(name=question.name, options=wording.between.join(question.options))
        head, query, tail, *answers = tokenizer.encode([before, question.query, behind, *question.options])
        end = tokenizer.turn()[:1]
        shots = [self._exchange(asked, answer, after) for asked, answer in question.shots]
        return Choice(
            ids=(*lead, *itertools.chain.from_iterable(shots), *head.ids, *query.cut(_QUERY_TOKENS), *tail.ids, *after),
            answers=[(*answer.ids, *end) for answer in answers],
            lead=len(lead),
        )

    def _lead(self, wording: Wording) -> tuple[list[int], list[int]]:
        """The tokens before the question, examples included, and those between question and answer."""
        if wording.system not in self._leads:
            tokenizer = self.engine.tokenizer
            ids, after = tokenizer.frame(wording.system)
            for example in wording.examples:
                options = wording.between.join((*example.options, wording.any))
                asked = wording.question.format(query=example.query, name=example.name, options=options)
                ids = [*ids, *self._exchange(asked, example.answer, after)]
            self._leads[wording.system] = ids, after
        return self._leads[wording.system]

    def _exchange(self, asked: str, answer: str, after: Sequence[int]) -> list[int]:
        """A question and its answer as turns, up to the beginning of the next one."""
        question, said = self.engine.tokenizer.encode([asked, answer])
        return [*question.ids, *after, *said.ids, *self.engine.tokenizer.turn()]


@dataclass(frozen=True, slots=True)
class _Example:
    """A labelled query.

    Attributes:
        query: What was typed.
        words: Its words.
        answered: Its questions with their answers.
    """

    query: str
    words: Set[str]
    answered: Sequence[_Answered]


def _wording(intent: Intent) -> Wording:
    return CHINESE if intent.language == "zh" else ENGLISH


def _check_adapter(engine: Engine) -> None:
    """Check that an adapter that learned to understand queries is asked in the words of its training.

    Raises:
        ConfigError: When it is not.
    """
    manifest = load_manifest(engine.adapter) if engine.adapter is not None else None
    trained = manifest.prompts.get(TRAINED) if manifest else None
    if trained is not None and trained.hash != digest():
        raise ConfigError(
            f"adapter: {engine.adapter} learned to understand queries in words of hash {trained.hash}, and these have "
            f"{digest()}; train it again, or use the version of genrank that trained it"
        )


def _softmax(scores: Sequence[float]) -> list[float]:
    most = max(scores)
    shares = [math.exp(score - most) for score in scores]
    total = math.fsum(shares)
    return [share / total for share in shares]


def _said(text: str) -> set[str]:
    """The words of a query, numbers as digits."""
    return set(tokenise(with_digits(text), stem=True))


def _stands_in(value: str, words: Set[str]) -> bool:
    """Whether all words of a value are among a query's."""
    return bool(found := _words(value)) and found <= words


@functools.lru_cache(maxsize=100_000)
def _words(value: str) -> frozenset[str]:
    """The words of a value, which comes up again with every query of its category."""
    return frozenset(tokenise(value, stem=True))
