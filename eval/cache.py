"""Answers of systems, kept by a hash of all that they depend on, so that nothing is computed twice.

The key of an answer is the SHA-256 of the system's settings, the seed, the requests, every file of the models, adapters
and baselines that it reads, the code that ranks and the versions of the packages. Change one of them, and it is another
answer. Only what an answer does *not* depend on is left out: the system's name and the other systems.

A folder of the cache holds ``answer.json`` once the answer is whole, and before that ``part.jsonl``: what a system that
answers batch by batch has finished, so that a run which was interrupted goes on where it stopped. A ranking that is a
fallback is never kept, and of a listing only its id and title are.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pydantic
from filelock import FileLock

from genrank.models.store import home
from genrank.types import Listing, Ranking


def default_folder() -> Path:
    """Where answers are kept: ``runs`` beside the models."""
    return home() / "runs"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let a program's user say where answers are kept; `chosen_folder` reads it."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--cache", type=Path, help=f"folder of answers kept ({default_folder()})")
    where.add_argument("--no-cache", action="store_true", help="compute every answer anew and keep none")


def chosen_folder(options: argparse.Namespace) -> Path | None:
    """The folder of the user's choice; None where nothing is to be kept."""
    return None if options.no_cache else options.cache or default_folder()


@dataclasses.dataclass(frozen=True)
class Kept:
    """A whole answer, as it is kept.

    Attributes:
        scores: ``[b][n]`` by request and candidate, in the requests' order; higher is better.
        probabilities: ``[b][n]`` scores from 0 to 1; None from a system that gives no such thing.
        rankings: ``[b]`` of a system that is genrank; empty from others.
        seconds: Wall time of the ranking, over all sittings.
        load_seconds: Wall time before it.
        notes: What was counted on the way.
    """

    scores: Sequence[Sequence[float]]
    probabilities: Sequence[Sequence[float]] | None = None
    rankings: Sequence[Ranking] = ()
    seconds: float = 0.0
    load_seconds: float = 0.0
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Entry:
    """One answer's place in the cache.

    Args:
        folder: The cache.
        key: The answer's fingerprint.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder / key[:32]
        self._whole = self._folder / "answer.json"
        self._part = self._folder / "part.jsonl"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the same answer meanwhile; they wait, and then find it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / ".lock"):
            yield

    def read(self) -> Kept | None:
        """The whole answer; None where there is none, or it cannot be read."""
        try:
            return _KEPT.validate_json(self._whole.read_bytes())
        except (OSError, pydantic.ValidationError):
            return None

    def write(self, answer: Kept) -> None:
        """Keep a whole answer, unless a ranking of it is a fallback."""
        if any(ranking.provenance.outcome == "fallback" for ranking in answer.rankings):
            return
        part = self._whole.with_suffix(f".{os.getpid()}.part")
        slim = dataclasses.replace(answer, rankings=[_slim(ranking) for ranking in answer.rankings])
        part.write_bytes(_KEPT.dump_json(slim))
        part.replace(self._whole)
        self._part.unlink(missing_ok=True)

    def finished(self) -> dict[str, tuple[Ranking, float]]:
        """Rankings of an answer that was interrupted, with the seconds that each took, by query id."""
        found: dict[str, tuple[Ranking, float]] = {}
        with contextlib.suppress(OSError):
            for line in self._part.read_bytes().splitlines():
                with contextlib.suppress(pydantic.ValidationError):  # the last line may be cut off
                    seconds, ranking = _PART.validate_json(line)
                    found[ranking.query_id] = (ranking, seconds)
        return found

    def append(self, rankings: Sequence[Ranking], seconds: float) -> None:
        """Keep a batch of rankings that is finished.

        Args:
            rankings: ``[b]``; fallbacks are passed over.
            seconds: Wall time of the batch.
        """
        kept = [ranking for ranking in rankings if ranking.provenance.outcome != "fallback"]
        with self._part.open("ab") as out:
            # a line break first: the line before may be cut off
            out.writelines(b"\n" + _PART.dump_json((seconds / len(rankings), _slim(ranking))) for ranking in kept)
            out.flush()
            os.fsync(out.fileno())


def _slim(ranking: Ranking) -> Ranking:
    """The ranking with no more of its listings than their ids and titles: the dataset holds the rest."""
    items = (dataclasses.replace(item, listing=Listing(item.listing_id, item.listing.title)) for item in ranking.items)
    return dataclasses.replace(ranking, items=tuple(items))


_KEPT = pydantic.TypeAdapter(Kept)
_PART = pydantic.TypeAdapter(tuple[float, Ranking])
