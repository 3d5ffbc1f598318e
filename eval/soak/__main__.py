"""Load the gateway while everything around it fails, and check every answer.

::

    python -m eval.soak [--minutes 20] [--engine vllm|stand-in|URL] [--model M] [--clients N] [--candidates N]
                        [--pause S] [--least-model SHARE] [--deadline S] [--rest S] [--seed N] [--out FOLDER]

Starts an engine, a proxy in front of it, and ``genrank serve`` with a small queue. Steady clients ask all the time;
slow ones send and read byte by byte, others hang up. The proxy cuts the connections of 10% of the requests. On top of
that, in an order that the seed decides: the engine is killed and started again; it stalls for 5 s; its answers are
malformed; its port is closed; a crowd fills the gateway's queue.

Every answer is checked, and so are the gateway's recovery, memory and log. The model must have ranked often enough:
one that is too slow for the load proves nothing, since every answer falls back. Writes ``soak.json``, ``soak.md`` and
the logs into the folder (runs/soak), and prints the page. Exit status 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from eval.soak.page import page, report
from eval.soak.run import FOR_A_MODEL, Settings, run_soak, settings_of
from genrank.experiment.program import exit_status, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 when a promise was broken or something does not start, 2 for a usage error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m eval.soak", description="Load the gateway while everything around it fails."
    )
    parser.add_argument("--minutes", type=float, default=Settings.minutes, help="how long (%(default)g)")
    parser.add_argument(
        "--engine",
        default=Settings.engine,
        help="vllm, stand-in (a server without a model) or a server's address, which is not killed (%(default)s)",
    )
    parser.add_argument("--model", help="for vllm, or at the address (smollm2-135m; the server's only one)")
    load: Sequence[tuple[str, Callable[[str], float], str]] = (
        ("--clients", int, "steady clients"),
        ("--candidates", int, "the most documents of a request"),
        ("--pause", float, "the longest pause of a client, seconds"),
    )
    for flag, kind, words in load:
        name = flag.removeprefix("--")
        usual = f"{FOR_A_MODEL[name]:g}; with the stand-in {getattr(Settings, name):g}"
        parser.add_argument(flag, type=kind, help=f"{words} ({usual})")
    parser.add_argument(
        "--least-model",
        type=float,
        default=Settings.least_model,
        metavar="SHARE",
        help="of the new rankings, the share that must be the model's (%(default)g)",
    )
    parser.add_argument(
        "--deadline", type=float, default=Settings.deadline, help="the gateway's, seconds (%(default)g)"
    )
    parser.add_argument("--rest", type=float, default=Settings.rest, help="seconds between two faults (%(default)g)")
    parser.add_argument("--seed", type=int, default=Settings.seed, help="of requests, pauses and faults (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder for the results (%(default)s)")
    options = parser.parse_args(arguments)
    kept = True

    def body() -> None:
        nonlocal kept
        given = sys.argv[1:] if arguments is None else arguments
        found = report(
            run_soak(settings_of(vars(options)), options.out), shlex.join(["python", "-m", "eval.soak", *given])
        )
        text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
        (options.out / "soak.json").write_text(text + "\n", encoding="utf-8")
        written = page(found)
        (options.out / "soak.md").write_text(written, encoding="utf-8")
        sys.stdout.write(written)
        say(f"written: {options.out / 'soak.json'} and soak.md")
        kept = found["kept"]

    return exit_status(body) or int(not kept)


if __name__ == "__main__":
    sys.exit(main())
