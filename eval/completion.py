"""How fast suggestions are while a shopper types: making them, renewing them, and each keystroke."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.index import catalogue
from genrank.data.dataset import Dataset
from genrank.experiment.program import say
from genrank.search.completion import Completion
from genrank.search.index import Index
from genrank.text.language import language
from genrank.text.words import words

_AT_ONCE = 1000
_MOST_WORDS = 4
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def logged_queries(titles: Sequence[str], count: int, seed: int = 0) -> dict[str, int]:
    """`count` different queries of one to four neighbouring words of titles, and how many shoppers asked each.

    Few are asked often and many seldom, three times at least.
    """
    rng = random.Random(seed)
    found: dict[str, int] = {}
    parts = [part for part in map(words, titles) if part]
    tries = 0
    while len(found) < count:
        tries += 1
        part = rng.choice(parts)
        length = min(len(part), rng.randint(1, _MOST_WORDS))
        start = rng.randrange(len(part) - length + 1)
        query = "".join(part[start : start + length]) if language(part[start]) == "zh" else ""
        query = query or " ".join(part[start : start + length])
        if tries > 20 * count:  # a small catalogue has too few phrases
            query += f" {tries}"
        found.setdefault(query, int(2 + rng.paretovariate(0.8)))
    return found


def measure_completion(dataset: Dataset, count: int, *, logged: int = 100_000, queries: int = 300) -> dict[str, Any]:
    """Make suggestions for a catalogue and a log, and type queries letter by letter.

    Args:
        dataset: Where listings come from; see `eval.index.catalogue`.
        count: Listings of the catalogue.
        logged: Different queries in the log.
        queries: How many of them are typed, for each way of typing.

    Returns:
        Seconds of making and renewing, the number of suggestions, MiB of the file; and for each way of typing the
        keystrokes, how many of them were answered, and their milliseconds (50th, 95th, 99th percentile and the
        longest). All times as they passed, and as this process's processor time.
    """
    listings = catalogue(list(dataset.listings.values()), count)
    log = logged_queries([listing.title for listing in listings], logged)
    rng = random.Random(1)
    typed = rng.sample(sorted(log), min(queries, len(log)))
    result: dict[str, Any] = {"listings": count, "logged": len(log)}
    with tempfile.TemporaryDirectory() as folder, Index.create(Path(folder) / "index") as index:
        for i in range(0, count, _AT_ONCE):
            index.add(listings[i : i + _AT_ONCE])
        say("indexed")
        started = time.perf_counter(), time.process_time()
        with Completion.of(index, log) as completion:
            result |= _since("make", started)
            result["suggestions"] = len(completion)
            started = time.perf_counter(), time.process_time()
            completion.update(log)
            result |= _since("renew", started)
            result["mib"] = round(completion.path.stat().st_size / 2**20, 1)
            say(f"made in {result['make_s']} s")
            ways: dict[str, Callable[[str], str]] = {
                "as logged": str,
                "one letter wrong": lambda text: with_slip(text, rng),
                "no such query": lambda text: f"{rng.choice(typed)} {text[::-1]}",
            }
            chinese = [text for text in log if language(text) == "zh"]
            result["typing"] = {name: _typing(completion, map(slip, typed)) for name, slip in ways.items()}
            if chinese:
                result["typing"]["pinyin"] = _typing(
                    completion, map(pinyin, rng.sample(chinese, min(queries, len(chinese))))
                )
    return result


def with_slip(text: str, rng: random.Random) -> str:
    """A text with one of its letters, but not the first, replaced by another."""
    places = [at for at, char in enumerate(text) if at and char in _LETTERS]
    if not places:
        return text
    at = rng.choice(places)
    return text[:at] + rng.choice(_LETTERS.replace(text[at], "")) + text[at + 1 :]


def pinyin(text: str) -> str:
    """A Chinese text as it is typed on a keyboard of Latin letters."""
    from pypinyin import lazy_pinyin

    return "".join(lazy_pinyin(text))


def _typing(completion: Completion, queries: Iterable[str]) -> dict[str, Any]:
    passed, used, answered = [], [], 0
    for query in queries:
        for end in range(1, len(query) + 1):
            started = time.perf_counter(), time.process_time()
            found = completion.complete(query[:end])
            passed.append(time.perf_counter() - started[0])
            used.append(time.process_time() - started[1])
            answered += bool(found)
    say(f"{len(passed)} keystrokes")
    times = {name: _percentiles(some) for name, some in (("ms", passed), ("processor_ms", used))}
    return {"keystrokes": len(passed), "answered": answered, **times}


def _since(name: str, started: tuple[float, float]) -> dict[str, float]:
    return {
        f"{name}_s": round(time.perf_counter() - started[0], 1),
        f"{name}_processor_s": round(time.process_time() - started[1], 1),
    }


def _percentiles(seconds: Sequence[float]) -> list[float]:
    return [round(float(ms), 2) for ms in np.percentile(np.asarray(seconds) * 1e3, (50, 95, 99, 100))]
