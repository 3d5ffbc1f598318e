"""``python -m eval.report``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.report.results import read_results
from eval.report.write import write_report
from genrank.errors import ConfigError
from genrank.experiment.datasets import load_dataset
from genrank.experiment.program import exit_status, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a broken file, 2 for a usage error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.report", description="Write the report of a results folder.")
    parser.add_argument("folder", type=Path, help="what python -m eval.run wrote")
    parser.add_argument("--dataset", help="the dataset, for texts and grades (the one that the results name)")
    parser.add_argument("--system", help="whose worst and best queries are shown (the best genrank system)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _report(options.folder, options.dataset, options.system))


def _report(folder: Path, dataset: str | None, system: str | None) -> None:
    loaded = None
    try:
        loaded = load_dataset(dataset or str(read_results(folder).settings.get("dataset", "")))
    except ConfigError:
        if dataset is not None:
            raise
        say("the dataset is not there: the report shows ids in place of texts; name its folder with --dataset")
    path = write_report(folder, loaded, system)
    say(f"{path} ({path.stat().st_size / 1e6:.1f} MB), report.md and report.json beside it")


if __name__ == "__main__":
    sys.exit(main())
