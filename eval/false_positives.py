"""Count the texts of real shops that neutralising changes, and list them, so that someone can look at each.

::

    python -m eval.false_positives --data FOLDER [--out changed.jsonl]

FOLDER holds downloaded sets, each a folder of CSV or JSON Lines files (``.gz`` too). Every text in them is read once:
queries, titles, descriptions, reviews; ids are left out. A text counts as changed where
`genrank.text.injection.neutralise` does more to it than `genrank.text.clean.clean`, which only tidies white space and
invisible characters. ``words_lost`` counts those that lost a word, not only signs. The counts go to stdout as JSON, by
set and field; the changed texts go to the file as JSON Lines with ``set``, ``field``, ``text`` and ``neutralised``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from eval.sets.histories import read_records
from eval.sets.tables import read_csv
from genrank.errors import InputError
from genrank.experiment.program import exit_status, say
from genrank.text.clean import clean
from genrank.text.injection import neutralise
from genrank.text.words import words

_CSV = (".csv", ".csv.gz")
_JSONL = (".jsonl", ".jsonl.gz")
_IDS = ("id", "asin", "uid")


class _Record(BaseModel, extra="allow"):
    """A line of JSON, whatever its fields."""


def texts(folder: Path) -> dict[str, dict[str, None]]:
    """The distinct texts of one set by field, such as ``product.title``, in the order they come.

    Raises:
        DataFormatError: When a file cannot be read.
    """
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for path in sorted(folder.rglob("*")):
        rows: Iterable[tuple[int, object]] = ()
        if path.name.endswith(_CSV):
            rows = read_csv(path, ())
        elif path.name.endswith(_JSONL):
            rows = ((line, record.model_dump()) for line, record in read_records(path, _Record))
        for _, row in rows:
            for field, text in _strings(row):
                found[field][text] = None
    return found


def _strings(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if not field.endswith(_IDS) and any(map(str.isalpha, value)):
            yield field, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _strings(part, f"{field}.{key}".lstrip("."))
    elif isinstance(value, Sequence):
        for part in value:
            yield from _strings(part, field)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.false_positives", description="Count changed texts.")
    parser.add_argument("--data", type=Path, required=True, help="a folder of downloaded sets")
    parser.add_argument("--out", type=Path, help="where the changed texts go, as JSON Lines")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _count(options.data, options.out))


def _count(data: Path, out: Path | None) -> None:
    folders = sorted(path for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    if not folders:
        raise InputError(f"must be a folder with one folder for each set, got {data}", field="data")
    counts: dict[str, dict[str, dict[str, int]]] = {}
    changed: list[dict[str, str]] = []
    for folder in folders:
        counts[folder.name] = {}
        for field, found in texts(folder).items():
            rows = [
                {"set": folder.name, "field": field, "text": text, "neutralised": harmless}
                for text in found
                if (harmless := neutralise(text, keep=True)) != clean(text)
            ]
            lost = sum(words(row["text"]) != words(row["neutralised"]) for row in rows)
            counts[folder.name][field] = {"texts": len(found), "changed": len(rows), "words_lost": lost}
            changed += rows
        say(f"{folder.name}: {sum(count['texts'] for count in counts[folder.name].values())} texts")
    if out:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in changed)
        out.write_text("".join(lines), encoding="utf-8")
    fields = [count for found in counts.values() for count in found.values()]
    total = {name: sum(count[name] for count in fields) for name in ("texts", "changed", "words_lost")}
    json.dump({"sets": counts, "total": total}, sys.stdout, ensure_ascii=False, indent=1)
    print()


if __name__ == "__main__":
    sys.exit(main())
