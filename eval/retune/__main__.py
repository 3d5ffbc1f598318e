"""Re-tune from feedback, and serve the result if it is not worse.

::

    python -m eval.retune --config eval/configs/retune/NAME.yaml [--out runs/retune/NAME] [--cache FOLDER | --no-cache]

One round: the feedback since the last one, corrected for position bias and mixed with older data, trains the version
that is served further; both rank the judged held-out queries; and the new version is promoted if it is not worse. The
report is ``round-0001/report.md`` (and ``.json``) in the output folder. A round that was killed goes on when the same
command is given again; two rounds never run at once.

Exit status: 0 promoted, 3 refused, 4 nothing to do (too little feedback, or another round is running), 1 a failed run,
2 a usage or configuration error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.cache import add_options, chosen_folder
from eval.retune.config import RetuneConfig
from eval.retune.rounds import Outcome, retune
from genrank.experiment.config import load_config
from genrank.experiment.program import exit_status, say

STATUS: dict[Outcome, int] = {"promoted": 0, "refused": 3, "waiting": 4, "busy": 4}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status; see the module's text.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.retune", description="Re-tune from feedback.")
    parser.add_argument("--config", type=Path, required=True, help="a file of eval/configs/retune")
    parser.add_argument("--out", type=Path, help="folder of the rounds (runs/retune/NAME)")
    add_options(parser)
    options = parser.parse_args(arguments)
    found: list[Outcome] = []

    def body() -> None:
        out = options.out or Path("runs") / "retune" / options.config.stem
        config = load_config(options.config, RetuneConfig)
        command = f"python -m eval.retune --config {options.config}"
        outcome, report = retune(config, out, cache=chosen_folder(options), command=command)
        found.append(outcome)
        for check in report.get("checks", ()):
            say(f"{'yes' if check['passed'] else 'no '}  {check['name']}: {check['words']}")
        words = {
            "promoted": f"{report.get('version')} is served now",
            "refused": f"refused; {report.get('parent')} is still served",
            "waiting": "too little feedback yet",
            "busy": f"another round is running on {config.adapters}",
        }
        say(words[outcome])
        keys = ("outcome", "round", "version", "parent", "queries")
        print(json.dumps({"outcome": outcome} | {key: report[key] for key in keys if key in report}))

    return exit_status(body) or STATUS[found[0]]


if __name__ == "__main__":
    sys.exit(main())
