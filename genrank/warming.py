"""Reads listings before anyone searches for them, so that a query costs only its own tokens from the first on.

An engine says with its methods what it can do: one with ``keep`` (`genrank.engines.transformers`) reads heads without
scoring anything; any other is asked for scores at the listings' ends, which fills its prefix cache. One with
``open_snapshot`` writes what it kept to a file and reads it from there after a restart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrank.engines.base import Engine, ScoreRequest, Stop
from genrank.engines.heads import key_of
from genrank.errors import InputError, OutputError
from genrank.files import write_atomically
from genrank.inputs import make_listings
from genrank.prompting.renderer import Renderer
from genrank.types import Listing

READ_TOGETHER = 64
"""How many listings an engine is given at once."""

Report = Callable[[int], object]
"""Told how many listings were finished since it was told last."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """What `genrank.Reranker.warm` did.

    Attributes:
        new: Listings that were read.
        known: Listings that were kept already, in memory or in the snapshot.
        left: Listings that were not reached before the deadline.
        dropped: Listings in the old snapshot that are not among those given, and are not in the new one.
        rebuilt: What the old snapshot was made with that is different now, so that nothing in it could be used, such as
            ``adapter``; empty when it fitted, or there was none.
        held_bytes: Memory that the engine's kept keys and values take; 0 when it does not say.
        snapshot_bytes: Size of the snapshot; 0 without one.
        seconds: How long it took.
    """

    new: int
    known: int
    left: int
    dropped: int
    rebuilt: tuple[str, ...]
    held_bytes: int
    snapshot_bytes: int
    seconds: float


def warm(
    engine: Engine,
    renderer: Renderer,
    listings: Iterable[Listing | Mapping[str, Any] | str],
    *,
    max_tokens: int,
    snapshot: str | os.PathLike[str] | None = None,
    deadline: float | None = None,
    report: Report | None = None,
) -> Warmed:
    """Read listings' heads; see `genrank.Reranker.warm`."""
    started = time.monotonic()
    stop = Stop() if deadline is None else Stop(started + deadline)
    warming = _Warming(engine, renderer, max_tokens, stop, report or (lambda _: None))
    given = make_listings(listings)
    if snapshot is None:
        for requests in warming.requests(given):
            warming.read(requests)
    else:
        warming.read_with_snapshot(given, Path(snapshot))
    return Warmed(
        new=warming.new,
        known=warming.known,
        left=len(given) - warming.new - warming.known,
        dropped=warming.dropped,
        rebuilt=warming.rebuilt,
        held_bytes=getattr(engine, "held_bytes", 0),
        snapshot_bytes=Path(snapshot).stat().st_size if snapshot is not None else 0,
        seconds=time.monotonic() - started,
    )


def snapshot_binding(engine: Engine, renderer: Renderer) -> dict[str, str]:
    """What a snapshot is bound to: the engine's model, adapter and dtypes, and the prompt.

    Raises:
        InputError: When the engine has no snapshots.
    """
    bound_to = getattr(engine, "bound_to", None)
    if bound_to is None:
        raise InputError(f"the engine {engine.name} has no snapshots; leave it out", field="snapshot")
    return dict(bound_to()) | {"prompt": renderer.template.digest}


class _Warming:
    """One call of `warm`, with its counts."""

    def __init__(self, engine: Engine, renderer: Renderer, max_tokens: int, stop: Stop, report: Report) -> None:
        self.new = self.known = self.dropped = 0
        self.rebuilt: tuple[str, ...] = ()
        self._engine: Any = engine
        self._renderer = renderer
        self._max_tokens = max_tokens
        self._stop = stop
        self._report = report

    def requests(self, listings: Sequence[Listing]) -> Iterator[list[ScoreRequest]]:
        """The listings' heads, `READ_TOGETHER` at a time, until the deadline."""
        for start in range(0, len(listings), READ_TOGETHER):
            if self._stop():
                return
            prompts = self._renderer.heads(listings[start : start + READ_TOGETHER], max_tokens=self._max_tokens)
            yield [ScoreRequest(p.ids, (), (), p.listing_ids, p.lead, p.head, p.opening) for p in prompts]

    def read(self, requests: Sequence[ScoreRequest], **options: Any) -> None:
        """Have the engine keep the heads, and count them."""
        if hasattr(self._engine, "keep"):
            results = self._engine.keep(requests, stop=self._stop, **options)
        else:
            yes = self._renderer.answer.yes
            asked = [
                ScoreRequest(r.ids, (len(r.ids) - 1,), yes, r.listing_ids, r.lead, r.head, r.opening) for r in requests
            ]
            results = self._engine.score(asked, stop=self._stop)
        if len(results) != len(requests):
            raise OutputError(f"the engine gave {len(results)} answers to {len(requests)} requests")
        finished = [result for result in results if result is not None]
        found = sum(result.found for result in finished)
        self.known += found
        self.new += len(finished) - found
        self._report(len(finished))

    def read_with_snapshot(self, listings: Sequence[Listing], path: Path) -> None:
        """Have the engine keep the heads, and write them to a snapshot, unless it holds exactly them already."""
        bound = snapshot_binding(self._engine, self._renderer)
        from genrank.engines.snapshots import Snapshot, SnapshotWriter, differs  # needs torch

        old: Snapshot | None = None
        if path.exists():
            self.rebuilt = tuple(differs(path, bound))
            old = None if self.rebuilt else self._engine.open_snapshot(path, bound)
        asked = list(self.requests(listings))
        keys = {key_of(request.ids[: request.head]) for requests in asked for request in requests}
        complete = sum(map(len, asked)) == len(listings)
        if old is not None and complete and keys == set(old.keys()):
            self.known = len(listings)
            self._report(len(listings))
            return
        with write_atomically(path) as part, SnapshotWriter(part, bound) as writer:
            for requests in asked:
                if not self._stop():
                    self.read(requests, into=writer)
            if old is not None:
                gone = set(old.keys()) - writer.written
                if self.new + self.known < len(listings):  # of those not reached, nobody knows which are gone
                    for key in gone:
                        writer.add(key, old.head(key))
                else:
                    self.dropped = len(gone)
        self._engine.open_snapshot(path, bound)
