"""Runs the Python blocks of pages, each page's in one namespace, all pages in one folder and one process::

    GENRANK_HOME=FOLDER python -m tests.page_blocks

A page may take for granted what a reader has: see `given`. Earlier pages leave files that later ones open, such as
``shop.index``. The first block that fails ends the process with its error; a line is printed for each that ran.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from pathlib import Path
from typing import Any

from genrank import Listing, sample_shop
from genrank.data.jsonl import request_fields, write_jsonl
from tests.tutorial import ROOT, blocks

_NAMES = (
    "searching", "feedback", "completion", "pipeline", "variety", "python", "decodings", "kept-listings",
    "understanding", "words", "batch", "reference/server",
)  # fmt: skip
PAGES = (*(ROOT / "docs" / f"{name}.md" for name in _NAMES), ROOT / "README.md")
"""The pages, in an order in which each finds the files that it opens."""


def given() -> dict[str, Any]:
    """What pages speak of without making it: candidates, requests, a catalogue, a search engine."""
    shop = sample_shop()
    requests = [shop.request(query, 3) for query in shop.split("test")[:2]]
    return {
        "candidates": [
            {"listing_id": "a", "title": "Blue wool coat"},
            {"listing_id": "b", "title": "Red cotton dress"},
        ],
        "requests": requests,
        "listings": list(shop.listings.values())[:8],
        "my_search": lambda text: [Listing("a", text)][:0],
    }


def run(page: Path) -> int:
    """Run a page's blocks; the number of those that ran."""
    space: dict[str, Any] = {"__name__": "__main__"} | given()
    count = 0
    for block in blocks(page):
        if block.language != "python":
            continue
        code = compile(block.code, f"{page}:{block.line}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, space)
        if inspect.iscoroutine(result):
            asyncio.run(result)
        count += 1
    return count


def main() -> None:
    """Run all pages."""
    Path("serve.toml").write_text("[server]\nport = 8080\n", encoding="utf-8")  # the settings of a reader's gateway
    write_jsonl("requests.jsonl", map(request_fields, given()["requests"]))
    for page in PAGES:
        sys.stdout.write(f"{page.name}: {run(page)} blocks\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
