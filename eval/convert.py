"""Turn a shop's own CSV files, or a public test set, into a dataset folder.

::

    python -m eval.convert shop-csv SOURCE FOLDER [--name NAME] [--seed N] [--overwrite]
    python -m eval.convert crowdflower|homedepot|wands SOURCE FOLDER [--seed N] [--overwrite]
    python -m eval.convert esci SOURCE FOLDER [--locale us|jp|es|all] ..
    python -m eval.convert games-history|amazon-user-history SOURCE FOLDER ..
    python -m eval.convert amazon-reviews SOURCE FOLDER [--min-interactions N] [--max-users N] [--split-by user|time] ..
    python -m eval.convert jdsearch SOURCE FOLDER [--max-users N] ..

SOURCE is the folder with the CSV files, or what was downloaded. The folder is written under another name first and
renamed when it is complete. Each set's rules are in its module under `eval.sets`. A summary goes to stdout as one line
of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.sets import (
    amazon_reviews,
    amazon_user_history,
    crowdflower,
    esci,
    games_history,
    homedepot,
    jdsearch,
    shop_csv,
    wands,
)
from genrank.data.dataset import Dataset
from genrank.errors import InputError
from genrank.experiment.program import exit_status, say
from genrank.files import write_folder_atomically

READERS: dict[str, Callable[..., Dataset]] = {
    "shop-csv": shop_csv.read,
    "crowdflower": crowdflower.read,
    "homedepot": homedepot.read,
    "wands": wands.read,
    "esci": esci.read,
    "games-history": games_history.read,
    "amazon-user-history": amazon_user_history.read,
    "amazon-reviews": amazon_reviews.read,
    "jdsearch": jdsearch.read,
}
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "shop-csv": {"name": {"default": "shop", "help": "name of the dataset (shop)"}},
    "esci": {"locale": {"choices": (*esci.LOCALES, "all"), "default": "all", "help": "one shop, or all of them (all)"}},
    "amazon-reviews": {
        "min-interactions": {"type": int, "default": 5, "help": "leave out users with fewer reviews (5)"},
        "max-users": {"type": int, "help": "keep a sample of this many users"},
        "split-by": {
            "choices": amazon_reviews.SPLITS_BY,
            "default": "user",
            "help": "split the queries by user or by time (user)",
        },
    },
    "jdsearch": {"max-users": {"type": int, "help": "keep a sample of this many users"}},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.convert", description="Make a dataset folder.")
    sets = parser.add_subparsers(dest="set", required=True, metavar="SET", help=", ".join(READERS))
    for name in READERS:
        one = sets.add_parser(name, help=f"see eval/sets/{name.replace('-', '_')}.py")
        one.add_argument("source", type=Path, help="the folder or file to read")
        one.add_argument("folder", type=Path, help="the dataset folder to make")
        one.add_argument("--seed", type=int, default=0, help="for the order of the candidates (0)")
        one.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
        for option, settings in OPTIONS.get(name, {}).items():
            one.add_argument(f"--{option}", **settings)
    options = parser.parse_args(arguments)
    return exit_status(lambda: _convert(options))


def _convert(options: argparse.Namespace) -> None:
    started = time.monotonic()
    folder = options.folder.absolute()
    if folder.exists() and not options.overwrite:
        raise InputError(f"{options.folder} exists; pass --overwrite to replace it", field="folder")
    if folder.exists() and not (folder / "dataset.toml").is_file():
        raise InputError(
            f"{options.folder} is not a dataset folder, so it is not replaced; name another", field="folder"
        )
    notes: Counter[str] = Counter()
    names = [option.replace("-", "_") for option in OPTIONS.get(options.set, {})]
    own = {name: getattr(options, name) for name in names}
    dataset = READERS[options.set](options.source, notes, options.seed, **own)
    save_whole(dataset, folder)
    say(f"{dataset.name}: {len(dataset.queries)} queries, {len(dataset.listings)} listings in {options.folder}")
    line = {"set": options.set, "folder": str(options.folder), "seed": options.seed} | own | summary(dataset)
    line |= {"notes": dict(notes), "seconds": round(time.monotonic() - started, 1)}
    json.dump(line, sys.stdout, ensure_ascii=False)
    print()


def summary(dataset: Dataset) -> dict[str, object]:
    """Counts of a dataset: listings, queries by split and with a history, judgements by grade."""
    grades = Counter(grade for judged in dataset.qrels.values() for grade in judged.values())
    return {
        "listings": len(dataset.listings),
        "without_description": sum(not listing.description for listing in dataset.listings.values()),
        "queries": len(dataset.queries),
        "with_history": sum(bool(query.history) for query in dataset.queries),
        "splits": dict(sorted(Counter(query.split for query in dataset.queries).items())),
        "judgements": grades.total(),
        "grades": {str(grade): count for grade, count in sorted(grades.items())},
    }


def save_whole(dataset: Dataset, folder: Path) -> None:
    """Write a dataset folder completely or not at all; an old one is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_atomically(folder) as part:
        dataset.save(part)


if __name__ == "__main__":
    sys.exit(main())
