"""Measure what is read of reviews, by aspect, against labels.

::

    python -m eval.aspects [--labels FILE] [--literal] [--model M] [--adapter A] [--ask] [--leaning X] [--out FILE]

A label line has ``sentence``, ``aspects`` (``{aspect: positive | negative | mixed}``) and ``listing_id`` of the sample
shop, or ``category`` (a path). Each is read as the only review of a listing of that category. A pair of sentence and
aspect is right where its polarity is too; precision, recall and F1 are over all pairs together (micro), by split and
language. ``found`` counts the aspects alone, whatever the polarity. ``split`` is ``dev`` for sentences that were known
when the word lists were written, and ``test`` for those that were written afterwards.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from eval.matching import precision_recall
from genrank.data.dataset import sample_shop
from genrank.data.jsonl import read_jsonl
from genrank.errors import DataFormatError
from genrank.experiment.program import exit_status, say
from genrank.files import write_atomically
from genrank.models.registry import DEFAULT_MODEL
from genrank.text.language import language
from genrank.types import Listing
from genrank.words.aspects import AspectReader, Polarity

_SHOP = Path(__file__).parent.parent / "genrank" / "data" / "sample_shop" / "aspects.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.aspects", description="Measure aspects read of reviews.")
    parser.add_argument("--labels", type=Path, default=_SHOP, help="JSON Lines (those of the sample shop)")
    parser.add_argument("--literal", action="store_true", help="word lists, no model")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="%(default)s")
    parser.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    parser.add_argument("--ask", action="store_true", help="ask the model for aspects that no word tells")
    parser.add_argument("--leaning", type=float, default=0.5, help="see AspectReader (%(default)s)")
    parser.add_argument("--out", type=Path, help="a JSON file for all sentences")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    labels = read_labels(options.labels)
    if options.literal:
        results = measure(labels, AspectReader())
    else:
        from genrank.engines.transformers import TransformersEngine  # late: labels are checked without torch

        with TransformersEngine(options.model, adapter=options.adapter) as engine:
            results = measure(labels, AspectReader(engine, ask=options.ask, leaning=options.leaning))
    for line in results["sentences"]:
        if line["found"] != line["label"]:
            say(f"{line['sentence']}: found {line['found']}, label {line['label']}")
    print(json.dumps({key: value for key, value in results.items() if key != "sentences"}, indent=1))
    if options.out:
        with write_atomically(options.out) as file:
            file.write_text(json.dumps(results, ensure_ascii=False, indent=1))


def read_labels(path: Path) -> list[tuple[Listing, dict[str, Polarity]]]:
    """The labels, each with a listing whose only review is the sentence.

    Raises:
        DataFormatError: When a line is wrong.
    """
    shop = sample_shop().listings
    labels = []
    for number, line in read_jsonl(path):
        if isinstance(line, DataFormatError):
            raise line
        try:
            known = shop[line["listing_id"]] if "listing_id" in line else None
            category = known.category if known else tuple(line["category"])
            title, aspects = known.title if known else line["sentence"], dict(line["aspects"])
            attributes = known.attributes if known else {}
            split = line.get("split", "dev")
            listing = Listing(split, title, category=category, attributes=attributes, reviews=(line["sentence"],))
        except (KeyError, TypeError, ValueError) as error:
            wanted = "sentence, aspects, and a known listing_id or a category"
            raise DataFormatError(str(path), number, wanted, f"{type(error).__name__}: {error}") from None
        if wrong := sorted(set(aspects.values()) - {*get_args(Polarity)}):
            raise DataFormatError(str(path), number, f"one of {get_args(Polarity)}", repr(wrong[0]))
        labels.append((listing, aspects))
    return labels


def measure(labels: Sequence[tuple[Listing, dict[str, Polarity]]], reader: AspectReader) -> dict[str, Any]:
    """Read all labelled sentences as one batch, and compare."""
    started = time.monotonic()
    readings = reader.read([listing for listing, _ in labels])
    seconds = time.monotonic() - started
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    lines = []
    for (listing, label), reading in zip(labels, readings, strict=True):
        found = {one.aspect: one.polarity for one in reading.opinions if one.polarity != "none"}
        spoken, split = language(listing.reviews[0]), listing.listing_id
        for key in ("all", split, f"{split} {spoken}"):
            counts[key].update(scored(set(found.items()), set(label.items())))
            counts[f"{key} found"].update(scored(set(found), set(label)))
        lines.append({"sentence": listing.reviews[0], "found": found, "label": label})
    return {
        "source": readings[0].source if readings else "literal",
        "why": readings[0].why if readings else "",
        "scores": {key: scores(count) for key, count in counts.items()},
        "seconds": seconds,
        "sentences": lines,
    }


def scored(found: set[Any], label: set[Any]) -> dict[str, int]:
    """How many are right, missing and wrong."""
    return {"right": len(found & label), "missing": len(label - found), "wrong": len(found - label)}


def scores(count: Counter[str]) -> dict[str, float]:
    """Precision, recall and F1."""
    right, missing, wrong = count["right"], count["missing"], count["wrong"]
    return {**precision_recall(right, missing, wrong), "labels": right + missing}


if __name__ == "__main__":
    raise SystemExit(main())
