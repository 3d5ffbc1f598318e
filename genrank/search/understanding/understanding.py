"""Turns a query into an `Intent`, by choices that the model makes among the catalogue's own values."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace

from genrank.engines.base import Engine, Stop
from genrank.errors import EngineError, InputError
from genrank.search.bm25 import tokenise
from genrank.search.understanding.choosing import Choice, choose
from genrank.search.understanding.literal import exclusions, prices, with_digits
from genrank.search.understanding.spelling import Spelling, is_usual
from genrank.search.understanding.vocabulary import Path, Vocabulary
from genrank.search.understanding.wording import CHINESE, ENGLISH, Wording
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
class _Question:
    wording: Wording
    query: str
    name: str
    options: tuple[str, ...]


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

    Args:
        engine: A model that can be read by ``score``, such as `genrank.Reranker.engine`.
        vocabulary: The catalogue's values.
        categories: How many categories the model may choose from: those whose words are nearest to the query's.
        names: How many attributes it is asked about: those that most listings of the category have.
        values: How many values of an attribute it may choose from, the most frequent; those in the query always.
        leaning: How much of the model's leaning is taken off, 0 to 1.

    Raises:
        InputError: When an argument is out of range.
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
    ) -> None:
        for name, number in (("categories", categories), ("names", names), ("values", values)):
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

    def understand(self, query: Query | str, *, deadline: float | None = None) -> Intent:
        """Read a query.

        Args:
            query: What was typed.
            deadline: Seconds after which what is known so far is returned.

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
        meter = _Meter(Stop(math.inf if deadline is None else started + deadline))
        intent = self._literal(text)
        try:
            intent = self._ask(intent, meter)
        except EngineError as error:
            intent = replace(intent, source="literal", why=str(error))
        return replace(intent, tokens=meter.tokens, seconds=time.monotonic() - started)

    async def aunderstand(self, query: Query | str, *, deadline: float | None = None) -> Intent:
        """The same for asyncio; the model runs in a thread."""
        return await asyncio.to_thread(self.understand, query, deadline=deadline)

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
        wording = CHINESE if intent.language == "zh" else ENGLISH
        rest = self._rest(intent)
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

    def _attributes(self, wording: Wording, rest: str, intent: Intent, meter: _Meter) -> dict[str, Guess[str]]:
        facets = self.vocabulary.facets_of(guess.value for guess in intent.categories)
        facets.sort(key=lambda facet: -sum(facet.values.values()))
        said, questions = set(tokenise(with_digits(rest), stem=True)), []
        for facet in facets:
            short = [value for value in facet.values if len(value) <= _LONGEST and value != wording.any]
            named = [value for value in short if _stands_in(value, said)]
            if named:
                values = list(dict.fromkeys([*named, *short]))[: self._values]
                questions.append(_Question(wording, rest, facet.name, (*values, wording.any)))
        questions = questions[: self._names]
        found = {}
        for question, scores in zip(questions, self._scores(questions, meter), strict=True):
            shares = dict(zip(question.options, _softmax(scores), strict=True))
            value = max((one for one in shares if one != wording.any and _stands_in(one, said)), key=shares.__getitem__)
            if shares[value] > shares[wording.any]:
                found[question.name] = Guess(value, shares[value] / (shares[value] + shares[wording.any]))
        return found

    def _scores(self, questions: Sequence[_Question], meter: _Meter) -> list[list[float]]:
        """Log-probabilities of each question's options, without the model's leaning."""
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
        return Choice(
            ids=(*lead, *head.ids, *query.cut(_QUERY_TOKENS), *tail.ids, *after),
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
                question, answer = tokenizer.encode([asked, example.answer])
                ids = [*ids, *question.ids, *after, *answer.ids, *tokenizer.turn()]
            self._leads[wording.system] = ids, after
        return self._leads[wording.system]


def _softmax(scores: Sequence[float]) -> list[float]:
    most = max(scores)
    shares = [math.exp(score - most) for score in scores]
    total = math.fsum(shares)
    return [share / total for share in shares]


def _stands_in(value: str, words: Set[str]) -> bool:
    """Whether all words of a value are among a query's."""
    return bool(found := _words(value)) and found <= words


@functools.lru_cache(maxsize=100_000)
def _words(value: str) -> frozenset[str]:
    """The words of a value, which comes up again with every query of its category."""
    return frozenset(tokenise(value, stem=True))
