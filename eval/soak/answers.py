"""What the gateway promises of every answer, checked from what its client sees."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

LATE = 1.1
"""An answer may take this many times the deadline."""

BY_THE_MODEL = ("model", "reasons")
"""The tiers of rankings that are the model's."""

Promise = Literal[
    "answered", "in time", "status", "Retry-After", "every candidate", "once", "scores", "tier", "recovery", "memory",
    "alive", "exercised", "model",
]  # fmt: skip
"""What was promised: that a request is answered at all; within the deadline and a tenth; with a status that the docs
name; a full queue with ``Retry-After``; with every candidate, each once; with scores from 0 to 1 that do not rise; with
a tier. Of the whole run: that the model answers again soon after a fault; that memory does not grow; that the gateway
neither ends nor reports an error of its own. ``exercised`` and ``model`` are the program's own: every fault came, and
the model ranked often enough, since a gateway whose model never answers proves nothing."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A broken promise.

    Attributes:
        promise: Which one.
        words: What was seen; holds no text of a request.
    """

    promise: Promise
    words: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as its answer depends on it.

    Attributes:
        documents: How many it holds.
        wanted: How many results it asks for; None for all.
        expected: Statuses that it may get.
    """

    documents: int
    wanted: int | None = None
    expected: tuple[int, ...] = (200, 429)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client got.

    Attributes:
        status: HTTP status; 0 when the connection ended or the client's patience did.
        seconds: From the end of the request's head to the first byte of the answer, or to its end, as the client read.
        body: All of it.
        retry_after: The header ``Retry-After``; empty without one.
        words: Why there is no answer.
    """

    status: int
    seconds: float
    body: bytes = b""
    retry_after: str = ""
    words: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer, checked.

    Attributes:
        broken: What it breaks; empty for a good one.
        tier: What it says of itself; empty without a ranking.
        cause: The same.
        cached: Whether the gateway had kept it.
    """

    broken: tuple[Broken, ...] = ()
    tier: str = ""
    cause: str = ""
    cached: bool = False


def check(asked: Asked, reply: Reply, deadline: float) -> Checked:
    """Check an answer.

    Args:
        asked: The request.
        reply: What came back.
        deadline: The gateway's, in seconds.
    """
    if not reply.status:
        return Checked((Broken("answered", f"no answer after {reply.seconds:.2f} s: {reply.words}"),))
    broken = []
    if reply.seconds > LATE * deadline:
        broken.append(Broken("in time", f"{reply.seconds:.2f} s, with a deadline of {deadline:g} s"))
    if reply.status not in asked.expected:
        words = f"status {reply.status}, expected {' or '.join(map(str, asked.expected))}: {reply.body[:200]!r}"
        broken.append(Broken("status", words))
    if reply.status == 429 and not reply.retry_after.isdecimal():
        broken.append(Broken("Retry-After", f"a 429 with Retry-After: {reply.retry_after!r}"))
    if reply.status != 200:
        return Checked(tuple(broken))
    try:
        answer = json.loads(reply.body)
        results = [(one["index"], one["relevance_score"]) for one in answer["results"]]
        seen = Counter(index for index, _ in results)
        details = answer["genrank"]
        tier, cause, cached = str(details["tier"]), str(details["cause"]), bool(details["cached"])
    except (ValueError, LookupError, TypeError) as error:
        words = f"no ranking ({type(error).__name__}: {error}): {reply.body[:200]!r}"
        return Checked((*broken, Broken("every candidate", words)))
    broken += _check_results(asked, seen, [score for _, score in results])
    if not tier:
        broken.append(Broken("tier", "the answer says no tier"))
    return Checked(tuple(broken), tier, cause, cached)


def _check_results(asked: Asked, seen: Counter[Any], scores: list[Any]) -> Iterator[Broken]:
    if repeated := [index for index, times in seen.items() if times > 1]:
        yield Broken("once", f"candidates {repeated} came more than once, of {asked.documents}")
    if unknown := [index for index in seen if type(index) is not int or not 0 <= index < asked.documents]:
        yield Broken("every candidate", f"candidates {unknown} were never sent; there are {asked.documents}")
    count = asked.documents if asked.wanted is None else min(asked.wanted, asked.documents)
    if (found := len(seen) - len(unknown)) != count:
        yield Broken("every candidate", f"{found} of {count} candidates came back")
    wrong = [score for score in scores if type(score) not in (int, float) or not 0 <= score <= 1]
    if wrong:
        yield Broken("scores", f"{wrong[0]!r} is no score from 0 to 1")
    elif any(after > before for before, after in itertools.pairwise(scores)):
        yield Broken("scores", f"scores rise: {scores}")
