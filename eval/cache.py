"""Results of systems, kept under a hash of everything they depend on, so that nothing is computed twice.

The key of a result is the SHA-256 of the system's settings, the seed, the requests, every file of the models and
adapters that the system reads, the code that ranks and the versions of the packages. Change one of them, and it is
another result. Only what a result does *not* depend on is left out: the system's name and the other systems.

A folder of the cache holds ``answer.json`` once the result is whole, and before that ``part.jsonl``: what a system that
ranks batch by batch has finished, so that an interrupted run continues where it stopped. Fallback rankings are never
kept, and of each listing only the id and title are.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pydantic
from filelock import FileLock

from genrank.experiment.journal import Journal
from genrank.files import write_atomically
from genrank.models.store import home
from genrank.types import Listing, Ranking


def default_folder() -> Path:
    """The default folder: ``runs`` beside the models."""
    return home() / "runs"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where results are kept; `chosen_folder` reads them."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--cache", type=Path, help=f"folder of kept results ({default_folder()})")
    where.add_argument("--no-cache", action="store_true", help="compute every result and keep none")


def chosen_folder(options: argparse.Namespace) -> Path | None:
    """The folder that the user chose; None if nothing is to be kept."""
    return None if options.no_cache else options.cache or default_folder()


@dataclasses.dataclass(frozen=True)
class StoredResult:
    """A system's whole result, as it is kept.

    Attributes:
        scores: ``[b][n]`` by request and candidate, in the requests' order; higher is better.
        probabilities: ``[b][n]`` scores from 0 to 1; None from a system that gives none.
        rankings: ``[b]`` from genrank; empty from other systems.
        seconds: Wall time of the ranking, over all runs.
        load_seconds: Wall time before it.
        notes: Counts made on the way.
    """

    scores: Sequence[Sequence[float]]
    probabilities: Sequence[Sequence[float]] | None = None
    rankings: Sequence[Ranking] = ()
    seconds: float = 0.0
    load_seconds: float = 0.0
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Entry:
    """One result's place in the cache.

    Args:
        folder: The cache.
        key: The result's fingerprint.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder / key[:32]
        self._whole = self._folder / "answer.json"
        self._part = self._folder / "part.jsonl"
        self._journal: Journal | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from computing the same result meanwhile; they wait, and then find it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / ".lock"):
            yield

    def read(self) -> StoredResult | None:
        """The whole result; None if there is none, or it cannot be read."""
        try:
            return _RESULT.validate_json(self._whole.read_bytes())
        except (OSError, pydantic.ValidationError):
            return None

    def write(self, result: StoredResult) -> None:
        """Keep a whole result, unless one of its rankings is a fallback."""
        if any(ranking.provenance.outcome == "fallback" for ranking in result.rankings):
            return
        with write_atomically(self._whole) as part:
            slim = dataclasses.replace(result, rankings=[_slim(ranking) for ranking in result.rankings])
            part.write_bytes(_RESULT.dump_json(slim))
        self._part.unlink(missing_ok=True)
        self._journal = None

    def finished(self) -> dict[str, tuple[Ranking, float]]:
        """Rankings of a run that was interrupted, each with its seconds, by query id."""
        found: dict[str, tuple[Ranking, float]] = {}
        self._journal = Journal(self._part)
        for query_id in self._journal:
            for fields in self._journal.of(query_id):
                with contextlib.suppress(pydantic.ValidationError):
                    seconds, ranking = _FINISHED.validate_python((fields.get("seconds"), fields.get("ranking")))
                    found[ranking.query_id] = (ranking, seconds)
        return found

    def append(self, rankings: Sequence[Ranking], seconds: float) -> None:
        """Keep a batch of rankings that is finished.

        Args:
            rankings: ``[b]``; fallbacks are skipped.
            seconds: Wall time of the batch.
        """
        kept = [ranking for ranking in rankings if ranking.provenance.outcome != "fallback"]
        self._journal = self._journal or Journal(self._part)
        self._journal.add(
            (
                one.query_id,
                {"seconds": seconds / len(rankings), "ranking": _RANKING.dump_python(_slim(one), mode="json")},
            )
            for one in kept
        )


def _slim(ranking: Ranking) -> Ranking:
    """The ranking with only the ids and titles of its listings; the dataset holds the rest."""
    items = (dataclasses.replace(item, listing=Listing(item.listing_id, item.listing.title)) for item in ranking.items)
    return dataclasses.replace(ranking, items=tuple(items))


_RESULT = pydantic.TypeAdapter(StoredResult)
_RANKING = pydantic.TypeAdapter(Ranking)
_FINISHED = pydantic.TypeAdapter(tuple[float, Ranking])
