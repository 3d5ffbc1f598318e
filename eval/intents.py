"""Measure query understanding against labels.

::

    python -m eval.intents [--dataset FOLDER] [--labels FILE] [--split SPLIT ...] [--model M] [--adapter A]
                           [--examples SPLIT] [--shots K] [--leaning L] [--out FILE]

Every distinct query of the splits is read by `genrank.search.understanding`, with the vocabulary of the dataset's
listings. A label line has ``query_id`` and the slots that the query asks for: ``categories`` (paths; any path that
begins with one is right, and one that is found is enough), ``brand``, ``attributes``, ``least_price``, ``most_price``,
``excluded`` and ``corrected``. Precision, recall and F1 are over all slots of all queries together (micro).

Without an adapter and examples, this is how well the model does untrained. ``--examples`` shows it the nearest labelled
queries of another split, and an adapter may have learned from them (`finetune.sft`, form ``understanding``).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.matching import precision_recall
from genrank.data.dataset import Dataset
from genrank.errors import InputError
from genrank.experiment.datasets import load_dataset
from genrank.experiment.program import exit_status, say
from genrank.files import write_atomically
from genrank.models.registry import DEFAULT_MODEL
from genrank.search.understanding import LabelledQuery, Understanding, Vocabulary
from genrank.search.understanding.labels import labelled_queries, read_labels

Slot = tuple[str, str]
_SHOP = Path(__file__).parent.parent / "genrank" / "data" / "sample_shop" / "intents.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.intents", description="Measure query understanding.")
    parser.add_argument("--dataset", default="sample-shop", help="a dataset folder (%(default)s)")
    parser.add_argument("--labels", type=Path, default=_SHOP, help="JSON Lines (those of the sample shop)")
    parser.add_argument("--split", action="append", help="may be repeated (all of them)")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="%(default)s")
    parser.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    parser.add_argument("--examples", metavar="SPLIT", help="split whose labelled queries are shown as examples (none)")
    parser.add_argument("--shots", type=int, default=3, help="examples before each question (%(default)s)")
    parser.add_argument("--leaning", type=float, default=0.5, help="of the model, that is taken off (%(default)s)")
    parser.add_argument("--out", type=Path, help="a JSON file for all queries")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    dataset = load_dataset(options.dataset)
    labels = read_labels(options.labels)
    vocabulary = Vocabulary.of(dataset.listings.values())
    from genrank.engines.transformers import TransformersEngine  # late: labels are checked without torch

    with TransformersEngine(options.model, adapter=options.adapter) as engine:
        examples = examples_of(dataset, labels, options.examples, options.split)
        understanding = Understanding(
            engine, vocabulary, leaning=options.leaning, examples=examples, shots=options.shots
        )
        results = measure(dataset, labels, understanding, options.split)
    results["examples"] = len(examples)
    for line in results["queries"]:
        if line["missing"] or line["wrong"]:
            say(f"{line['query']}: missing {line['missing']}, wrong {line['wrong']}")
    print(json.dumps({key: value for key, value in results.items() if key != "queries"}, ensure_ascii=False, indent=1))
    if options.out:
        with write_atomically(options.out) as file:
            file.write_text(json.dumps(results, ensure_ascii=False, indent=1))


def examples_of(
    dataset: Dataset, labels: Mapping[str, Mapping[str, Any]], split: str | None, measured: Sequence[str] | None
) -> list[LabelledQuery]:
    """The labelled queries of a split, without those whose text is measured too.

    Args:
        dataset: With the queries.
        labels: By query id.
        split: Whose queries; None for no examples.
        measured: Splits that are measured; None for all.

    Raises:
        InputError: When the split is measured, or has no other labelled query.
    """
    if split is None:
        return []
    if not measured or split in measured:
        raise InputError(f"{split} is measured; name other splits with --split", field="examples")
    asked = {query.query.text for query in dataset.queries if query.split in measured}
    texts = [
        (query.query.query_id, query.query.text) for query in dataset.split(split) if query.query.text not in asked
    ]
    if found := labelled_queries(labels, texts):
        return list(found.values())
    raise InputError(f"no labelled query in {split} that is not measured", field="examples")


def measure(
    dataset: Dataset,
    labels: Mapping[str, Mapping[str, Any]],
    understanding: Understanding,
    splits: Sequence[str] | None,
) -> dict[str, Any]:
    """Read the labelled queries, each text once.

    Raises:
        InputError: When the splits have no labelled query.
    """
    asked = {
        query.query.text: query
        for query in dataset.queries
        if query.query.query_id in labels and (not splits or query.split in splits)
    }
    if not asked:
        raise InputError(f"no labelled query in {', '.join(splits or ['the dataset'])}", field="split")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    lines, seconds = [], []
    for text, query in asked.items():
        intent = understanding.understand(text)
        right, missing, wrong = compare(intent.slots(), slots_of(labels[query.query.query_id]))
        for name, some in (("right", right), ("missing", missing), ("wrong", wrong)):
            for slot, _ in some:
                for key in ("all", intent.language, slot.partition(".")[0]):
                    counts[key][name] += 1
        seconds.append(intent.seconds)
        lines.append({"query": text, "intent": intent.to_dict(), "missing": sorted(missing), "wrong": sorted(wrong)})
    return {
        "queries": lines,
        "scores": {key: scores(one) for key, one in counts.items()},
        "seconds": {"median": statistics.median(seconds), "most": max(seconds)},
    }


def slots_of(label: Mapping[str, Any]) -> set[Slot]:
    """A label's slots, as `Intent.slots` has them."""
    found = {("category", " > ".join(path)) for path in label.get("categories", ())}
    found |= {(f"attributes.{name}", value) for name, value in label.get("attributes", {}).items()}
    found |= {("excluded", word) for word in label.get("excluded", ())}
    found |= {(name, f"{label[name]:g}") for name in ("least_price", "most_price") if name in label}
    found |= {(name, label[name]) for name in ("brand", "corrected") if name in label}
    return found


def compare(found: set[Slot], label: set[Slot]) -> tuple[set[Slot], set[Slot], set[Slot]]:
    """Slots that are right, missing and wrong.

    All categories of a label are one slot, found by any path in one of them; each path outside them is wrong.
    """
    wanted = {value for name, value in label if name == "category"}
    inside = {
        (name, value)
        for name, value in found
        if name == "category" and any(f"{value} > ".startswith(f"{path} > ") for path in wanted)
    }
    others = {slot for slot in found if slot[0] != "category"}
    expected = {slot for slot in label if slot[0] != "category"}
    right, missing = others & expected, expected - others
    wrong = (others - expected) | {slot for slot in found - inside if slot[0] == "category"}
    if wanted:
        (right if inside else missing).add(("category", " or ".join(sorted(wanted))))
    return right, missing, wrong


def scores(counts: Mapping[str, int]) -> dict[str, float]:
    """Precision, recall and F1."""
    right, missing, wrong = (counts.get(name, 0) for name in ("right", "missing", "wrong"))
    return {**precision_recall(right, missing, wrong), "slots": right + missing}


if __name__ == "__main__":
    raise SystemExit(main())
