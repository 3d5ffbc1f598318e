"""Teachers, which label the listings of a query.

A teacher is a model behind an endpoint, a model that genrank runs, BERT + GBDT, or a cross-encoder.

Probabilities (from ``pointwise`` and ``inline``, or BERT + GBDT with the objective ``binary``) are labels as they are.
Other scores are comparable only within their query, and are stretched there to 0..1. For an order, the label is linear
in the rank,
``(n - rank) / n`` with the rank 0-based: all pairs that are equally many ranks apart then weigh the same in RankNet,
and no preference is lost when gains are rounded (1/20 and 1/21 of a reciprocal rank would be). A loss that should weigh
the top more does so itself (``lambda``).
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from genrank.engines.tokenizer import Encoded
from genrank.errors import ConfigError, EngineError, OutputError
from genrank.experiment.fingerprints import code_fingerprint, requests_fingerprint
from genrank.experiment.journal import Journal
from genrank.experiment.record import versions
from genrank.experiment.systems import (
    BaselineSystem,
    CrossEncoderSystem,
    GenrankSystem,
    decoding_of,
    dependencies,
    make_reranker,
)
from genrank.files import files_fingerprint, fingerprint
from genrank.permutation import IDENTIFIERS, Permutation
from genrank.progress import track
from genrank.prompting.messages import json_question
from genrank.prompting.renderer import Renderer
from genrank.prompting.template import Limits, load_template
from genrank.remote.answers import read_answer
from genrank.remote.chat import ChatClient, OpenAISettings, Reply, SpentError, unfinished
from genrank.remote.thinking import CutOffError
from genrank.types import Ranking, Request

MOST_CANDIDATES = len(IDENTIFIERS)
"""The most candidates in one question to an endpoint: each has a letter."""

_GIVE_UP = 10  # windows in a row without a label: the fault is the teacher's, not the windows'
_MOST_UNREAD = 2  # answers to one question that give no label; a third is not paid for
_LONGEST_WAIT = 60.0  # seconds
_CHARS = 10**6  # in one question; limits by section keep it far below
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Label:
    """What a teacher says about a request's candidates.

    Attributes:
        scores: ``[n]`` 0 to 1, higher is better; None for a candidate that it does not name.
        reasons: By place, 0-based, as the teacher wrote them.
    """

    scores: tuple[float | None, ...]
    reasons: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no label.

    Attributes:
        kind: A short name, under which it is counted.
        words: The same in more words; may be empty.
    """

    kind: str
    words: str = ""


OVER_LIMIT = Failure("over max_cost", "the spending limit allows no further request")


class Tally:
    """Counts that many threads may add to.

    Attributes:
        counts: By name.
        failures: Attempts that failed, by kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, **counts: int) -> None:
        """Count more of some things."""
        with self._lock:
            self.counts.update(counts)

    def fail(self, kind: str) -> None:
        """Count a failed attempt."""
        with self._lock:
            self.failures[kind] += 1


class Teacher(Protocol):
    """Labels requests.

    Attributes:
        name: What to call it in the dataset's source.
    """

    name: str

    def label(self, requests: Sequence[Request], journal: Journal, tally: Tally) -> dict[str, Label | Failure]:
        """Label requests, or take the labels from earlier sittings.

        Args:
            requests: ``[b]``, each with a query id of its own.
            journal: Answers from earlier sittings; new ones are added.
            tally: Takes the counts.

        Returns:
            By query id.

        Raises:
            EngineError: When the teacher fails on every request.
            GenrankError: When the teacher cannot be loaded or reached.
        """


@dataclass(frozen=True, slots=True)
class Scored:
    """What a local teacher says about a request.

    Attributes:
        scores: ``[n]`` finite, on any scale, higher is better.
        reasons: By place, 0-based.
    """

    scores: Sequence[float]
    reasons: Mapping[int, str] = field(default_factory=dict)


Ask = Callable[[Sequence[Request]], Sequence[Scored | Failure]]
"""``[b]`` requests in, ``[b]`` answers out."""


class LocalTeacher:
    """A teacher in this process.

    Args:
        name: What to call it.
        identity: A hash of everything that its scores depend on besides the request.
        load: Loads it; not called if nothing is left to score.
        soften: Turns its scores into labels from 0 to 1; both are ``[n]``.
        batch: Requests that are scored, and then kept, together.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        load: Callable[[], Ask],
        soften: Callable[[Sequence[float]], list[float]],
        batch: int = _BATCH,
    ) -> None:
        self.name = name
        self._identity = identity
        self._load = load
        self._soften = soften
        self._batch = batch

    def label(self, requests: Sequence[Request], journal: Journal, tally: Tally) -> dict[str, Label | Failure]:
        """See `Teacher`."""
        keys = {r.query.query_id: fingerprint([self._identity, requests_fingerprint([r])]) for r in requests}
        scored: dict[str, Scored | Failure] = {}
        for request in requests:
            for fields in journal.of(keys[request.query.query_id]):
                if (known := _kept(fields, len(request.candidates))) is not None:
                    scored[request.query.query_id] = known
        tally.add(answered_before=len(scored))
        left = [request for request in requests if request.query.query_id not in scored]
        if left:
            ask = self._load()
            batches = [left[i : i + self._batch] for i in range(0, len(left), self._batch)]
            for batch in track(batches, self.name):
                found = dict(zip((request.query.query_id for request in batch), ask(batch), strict=True))
                journal.add((keys[key], asdict(one)) for key, one in found.items() if isinstance(one, Scored))
                tally.add(requests=len(batch))
                for one in found.values():
                    if isinstance(one, Failure):
                        tally.fail(one.kind)
                scored |= found
        return {key: self._label(one) for key, one in scored.items()}

    def _label(self, scored: Scored | Failure) -> Label | Failure:
        if isinstance(scored, Failure):
            return scored
        return Label(tuple(self._soften(scored.scores)), scored.reasons)


def _kept(fields: Mapping[str, Any], count: int) -> Scored | None:
    """The scores of a journal entry; None if it holds none for that many candidates."""
    try:
        scores = [float(score) for score in fields["scores"]]
        reasons = {int(place): str(text) for place, text in fields["reasons"].items()}
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
    whole = len(scores) == count and all(map(math.isfinite, scores)) and all(0 <= place < count for place in reasons)
    return Scored(scores, reasons) if whole else None


def as_they_are(scores: Sequence[float]) -> list[float]:
    """Probabilities, clipped to 0..1."""
    return [min(max(score, 0.0), 1.0) for score in scores]


def stretched(scores: Sequence[float]) -> list[float]:
    """``(s - min) / (max - min)``; 0.5 for all if they are equal."""
    least, most = min(scores), max(scores)
    width = most - least
    return [(score - least) / width if width else 0.5 for score in scores]


def by_rank(scores: Sequence[float]) -> list[float]:
    """``(n - rank) / n`` with the rank 0-based; equal scores keep the order in which they come."""
    places = Permutation.from_scores(scores).inverse()
    return [(len(scores) - rank) / len(scores) for rank in places]


def make_teacher(settings: OpenAISettings | GenrankSystem | BaselineSystem | CrossEncoderSystem, seed: int) -> Teacher:
    """The teacher that a configuration names.

    Args:
        settings: The teacher's part of the configuration.
        seed: Seed of the orders in which candidates are shown.

    Raises:
        ConfigError: When a folder or a key is missing.
        GenrankError: When a model cannot be loaded.
    """
    match settings:
        case OpenAISettings():
            return EndpointTeacher(settings, seed)
        case GenrankSystem():
            return _genrank_teacher(settings, seed)
    folder = Path(settings.folder).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"teacher.folder: no folder {settings.folder!r}; train it with {_PROGRAMS[settings.type]}")
    identity = _identity(settings.type, {"folder": files_fingerprint(folder)})
    if isinstance(settings, CrossEncoderSystem):
        from genrank.rankers.cross_encoder import CrossEncoderRanker

        return LocalTeacher(
            f"the cross-encoder {folder.name}",
            identity,
            lambda: _scoring(CrossEncoderRanker.load(folder).score),
            stretched,
        )
    from genrank.rankers.gbdt import GbdtRanker

    gbdt = GbdtRanker.load(folder)
    binary = gbdt.objective == "binary"
    score = gbdt.probabilities if binary else gbdt.score
    soften = as_they_are if binary else stretched
    return LocalTeacher(f"the BERT + GBDT ranker {folder.name}", identity, lambda: _scoring(score), soften)


_PROGRAMS = {"baseline": "python -m eval.baseline train", "cross-encoder": "python -m eval.cross_encoder train"}


def _identity(kind: str, more: Mapping[str, Any]) -> str:
    return fingerprint([kind, code_fingerprint(), versions(), more])


def _scoring(score: Callable[[Sequence[Request]], Iterable[Sequence[float]]]) -> Ask:
    return lambda requests: [Scored(scores) for scores in score(requests)]


def _genrank_teacher(system: GenrankSystem, seed: int) -> LocalTeacher:
    settings = system.model_dump(mode="json", exclude={"name", "batch"})

    def load() -> Ask:
        reranker = make_reranker(system, seed)

        def ask(requests: Sequence[Request]) -> list[Scored | Failure]:
            rankings = reranker.rerank_batch(requests, reasons=system.reasons)
            return [scored_by(ranking, request) for ranking, request in zip(rankings, requests, strict=True)]

        return ask

    name = system.model + (f" with the adapter {system.adapter}" if system.adapter else "")
    identity = _identity("genrank", {"settings": settings, "seed": seed, **dependencies(system)})
    soften = as_they_are if decoding_of(system) in ("pointwise", "inline") else by_rank
    return LocalTeacher(name, identity, load, soften, system.batch)


def scored_by(ranking: Ranking, request: Request) -> Scored | Failure:
    """The scores and reasons of a ranking, in the order of the request's candidates; a fallback is a failure."""
    if ranking.provenance.outcome == "fallback":
        return Failure("fallback", ranking.provenance.why)
    items = {item.listing_id: item for item in ranking.items}
    ids = [candidate.listing.listing_id for candidate in request.candidates]
    reasons = {place: reason for place, key in enumerate(ids) if (reason := items[key].reason)}
    return Scored([items[key].score for key in ids], reasons)


# --- a model behind an endpoint


@dataclass(frozen=True, slots=True)
class Question:
    """A request as it is put to an endpoint.

    Attributes:
        key: A hash of everything that the answer depends on.
        body: The HTTP request's body.
        shown: ``[n]`` places of the candidates, in the order of their letters.
    """

    key: str
    body: Mapping[str, Any]
    shown: tuple[int, ...]


class EndpointTeacher:
    """A model behind an OpenAI-compatible endpoint, which is asked for an order and for reasons.

    An answer that was cut off, or ends inside the model's thinking, is a failure and never a label. With the same
    settings, a question that gives no label is paid for at most twice, over all sittings.

    Args:
        settings: The endpoint.
        seed: Seed of the order in which candidates are shown. The first stage's order would bias the model.

    Raises:
        ConfigError: When the key is missing.
    """

    def __init__(self, settings: OpenAISettings, seed: int = 0) -> None:
        with _named_teacher():
            settings.authorization()  # a missing key is reported before anything else is done
        self.name = f"the model {settings.model}"
        self._settings = settings
        self._seed = seed
        self._renderer = _text_renderer(settings.reasons)

    def label(self, requests: Sequence[Request], journal: Journal, tally: Tally) -> dict[str, Label | Failure]:
        """See `Teacher`."""
        with _named_teacher(), ChatClient(self._settings, spent=journal.total("cost")) as client:
            return self._label_all(requests, client, journal, tally)

    def _label_all(
        self, requests: Sequence[Request], client: ChatClient, journal: Journal, tally: Tally
    ) -> dict[str, Label | Failure]:
        stop = threading.Event()
        found: dict[str, Label | Failure] = {}
        failed = 0  # in a row
        pool = ThreadPoolExecutor(self._settings.concurrency)
        try:
            jobs = {pool.submit(self._label, one, client, journal, tally, stop): one for one in requests}
            for job in track(as_completed(jobs), self.name, total=len(jobs)):
                label = found[jobs.pop(job).query.query_id] = job.result()
                if isinstance(label, Label):
                    failed = 0
                elif label is not OVER_LIMIT and (failed := failed + 1) == _GIVE_UP:
                    raise EngineError(
                        f"{self.name} gave no label {failed} times in a row, most recently: {label.kind} "
                        f"({label.words}); its answers so far are kept: fix the cause and start again to go on"
                    )
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        return found

    def _label(
        self, request: Request, client: ChatClient, journal: Journal, tally: Tally, stop: threading.Event
    ) -> Label | Failure:
        question = self.question(request)
        failure = Failure("unreadable")
        unread = 0
        for reply in map(self._kept_reply, journal.of(question.key)):
            if reply is None:
                continue
            label = self._read(reply, question, tally)
            if isinstance(label, Label):
                tally.add(answered_before=1)
                return label
            unread += 1
            failure = Failure(label.kind, f"{label.words} (an answer kept from an earlier sitting)")
        wait = 0.0
        for attempt in range(self._settings.attempts if unread < _MOST_UNREAD else 0):
            if stop.wait(wait):
                return Failure("stopped")
            try:
                reply = client.post(question.body)
            except SpentError:
                return OVER_LIMIT
            tally.add(
                requests=1,
                retries=int(attempt > 0),
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                estimated=int(reply.estimated),
            )
            if reply.text is not None or reply.cost:
                kept = {name: getattr(reply, name) for name in _KEPT_FIELDS}
                journal.add([(question.key, kept)])
            passing = reply.passing
            if reply.text is None:
                failure = Failure(reply.failure, reply.words)
            else:
                label = self._read(reply, question, tally)
                if isinstance(label, Label):
                    return label
                unread += 1
                failure, passing = label, unread < _MOST_UNREAD
            tally.fail(failure.kind)
            if not passing:
                break
            backoff = self._settings.backoff * 2.0**attempt * random.uniform(0.5, 1.0)
            wait = min(backoff if reply.wait is None else reply.wait, _LONGEST_WAIT)
        return failure

    def _kept_reply(self, fields: Mapping[str, Any]) -> Reply | None:
        """The answer of an earlier sitting, judged by the same rules; None if the entry only says what a loss cost."""
        text, reason = fields.get("text"), fields.get("finish_reason")
        if not isinstance(text, str):
            return None
        tokens = fields.get("completion_tokens")
        reported = tokens if isinstance(tokens, int) and not fields.get("estimated") else None
        reason = reason if isinstance(reason, str) else None
        failure, words = unfinished(reason, reported, self._settings.max_tokens)
        return Reply(text, reason, failure, words)

    def question(self, request: Request) -> Question:
        """The question that an endpoint is asked.

        Raises:
            InputError: When it has more than `MOST_CANDIDATES`.
        """
        shown = list(range(len(request.candidates)))
        random.Random(f"{self._seed} {request.query.query_id}").shuffle(shown)
        prompt = self._renderer.render(
            request.query,
            [request.candidates[place] for place in shown],
            request.history,
            max_tokens=_CHARS,
            decoding="listwise",
        )
        settings = self._settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [
                {"role": "system", "content": self._renderer.template.system},
                {"role": "user", "content": self._renderer.tokenizer.decode(prompt.ids)},
            ],
            "temperature": 0.0,
            "max_tokens": settings.max_tokens,
            **settings.options,
        }
        body = {name: value for name, value in body.items() if value is not None}
        return Question(fingerprint([settings.url, body]), body, tuple(shown))

    def _read(self, reply: Reply, question: Question, tally: Tally) -> Label | Failure:
        """The label that an answer gives, or why it gives none."""
        if reply.failure:
            return Failure(reply.failure, reply.words)
        n = len(question.shown)
        try:
            answer = read_answer(reply.text or "", n, finished=bool(reply.finish_reason))
        except CutOffError as error:
            return Failure("cut off", str(error))
        except OutputError as error:
            return Failure("unreadable", str(error))
        scores: list[float | None] = [None] * n
        for rank, place in enumerate(answer.order):
            scores[question.shown[place]] = (n - rank) / n
        best = answer.order[: self._settings.reasons]
        reasons = {question.shown[place]: answer.reasons[place] for place in best if place in answer.reasons}
        tally.add(missing=n - len(answer.order), repeated=answer.repeated)
        return Label(tuple(scores), reasons)


_KEPT_FIELDS = ("text", "finish_reason", "cost", "prompt_tokens", "completion_tokens", "estimated")


@contextlib.contextmanager
def _named_teacher() -> Iterator[None]:
    """Name the teacher in an error about the endpoint's settings."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"teacher.{error}") from None


class _Characters:
    """A tokenizer whose tokens are characters: a prompt is rendered as in serving, then decoded back to text."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """See `genrank.engines.tokenizer.Tokenizer`."""
        return [Encoded([*map(ord, text)], range(len(text)), range(1, len(text) + 1)) for text in texts]

    def frame(self, _: str, *, chat: bool = True) -> tuple[list[int], list[int]]:  # noqa: ARG002 - the protocol's
        """Nothing: the system text is a message of its own."""
        return [], []

    def turn(self) -> list[int]:
        """Nothing."""
        return []

    def decode(self, ids: Sequence[int]) -> str:
        """See `genrank.engines.tokenizer.Tokenizer`."""
        return "".join(map(chr, ids))

    def texts(self, ids: Sequence[int]) -> list[str]:
        """See `genrank.engines.tokenizer.Tokenizer`."""
        return list(map(chr, ids))


@functools.cache
def _text_renderer(reasons: int) -> Renderer:
    """Renders a window as text, with the same fields and defences as in serving; limits are in characters."""
    template = json_question(load_template("listwise"), reasons).model_copy(
        update={"limits": Limits(query=256, history=2000, interaction=200, listing=600)}
    )
    return Renderer(template, _Characters())
