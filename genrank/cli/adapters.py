"""``genrank adapters``: the versions of an adapter, and which of them is served."""

from __future__ import annotations

import argparse
import sys

from genrank.cli.console import Cell, Table, print_table, say


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank adapters`` to the command line."""
    adapters = commands.add_parser("adapters", help="versions of an adapter: list, promote, go back").add_subparsers(
        required=True, metavar="ACTION"
    )
    listed = adapters.add_parser("list", help="the versions, and how each came to be served")
    added = adapters.add_parser("add", help="copy an adapter into the folder as a new version")
    promoted = adapters.add_parser("promote", help="serve a version from now on")
    rolled_back = adapters.add_parser("rollback", help="serve the version that was served before")
    for parser, command in ((listed, _list), (added, _add), (promoted, _promote), (rolled_back, _rollback)):
        parser.add_argument("folder", metavar="FOLDER", help="where the versions are")
        parser.set_defaults(command=command)
    added.add_argument("adapter", metavar="ADAPTER", help="an adapter's folder")
    promoted.add_argument("version", metavar="VERSION", help="its name or number")
    for parser in (promoted, rolled_back):
        parser.add_argument("--why", default="", metavar="WORDS", help="for the history")


def _list(arguments: argparse.Namespace) -> int:
    from genrank.models.versions import AdapterVersions

    versions = AdapterVersions(arguments.folder)
    current = versions.current()
    served = {one.version: one for one in versions.history()}  # the last line of each
    rows = []
    for version in versions.all():
        line = served.get(version.name)
        how = f"{line.time} {line.action}{f': {line.why}' if line.why else ''}" if line else "never served"
        mark = "current" if current is not None and version.name == current.name else ""
        rows.append([Cell(text) for text in (version.name, mark, version.parent or "", version.made, how)])
    print_table(Table(("version", "", "from", "added", "served"), rows, whole=frozenset({"version"})), sys.stdout)
    return 0


def _add(arguments: argparse.Namespace) -> int:
    from genrank.models.versions import AdapterVersions

    versions = AdapterVersions(arguments.folder)
    version = versions.add(arguments.adapter)
    print(version.name)
    if versions.current() is None:
        say(f"nothing is served yet; serve it with: genrank adapters promote {arguments.folder} {version.name}")
    return 0


def _promote(arguments: argparse.Namespace) -> int:
    from genrank.models.versions import AdapterVersions

    print(AdapterVersions(arguments.folder).promote(arguments.version, why=arguments.why).name)
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    from genrank.models.versions import AdapterVersions

    print(AdapterVersions(arguments.folder).rollback(why=arguments.why).name)
    return 0
