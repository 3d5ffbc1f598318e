"""The leaderboard in a real browser: it reads without JavaScript, sorts with it, asks for nothing and fits a phone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eval.leaderboard import write_leaderboard
from eval.report import write_report
from tests.results_folder import make_dataset, write_results

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("plotly")
pytest.importorskip("jinja2")
pytest.importorskip("playwright.sync_api")

SYSTEMS = {"bm25": 0.4, "a-system-with-a-rather-long-name": 0.6, "zero": 0.5}
OTHER = {"name": "another shop", "gains": {"0": 0.0, "1": 1.0}, "fingerprint": "feedfeedfeedfeed"}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    first = write_results(folder / "first", make_dataset(30), SYSTEMS, reference="bm25")
    few = {name: SYSTEMS[name] for name in ("bm25", "zero")}
    second = write_results(folder / "second", make_dataset(20), few, changes={"dataset": OTHER})
    write_report(first, None)
    return write_leaderboard([first, second], folder / "out")


def names(page: Page) -> list[str]:
    return [text.split()[0] for text in page.locator("#board tbody.rows th").all_text_contents()]


@pytest.mark.parametrize("width", [1280, 390], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_sorts_asks_for_nothing_and_fits(width: int, scheme: Any, browser: Browser, board: Path) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page, said, requests = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(board.as_uri())
    assert names(page) == ["zero", "bm25", "a-system-with-a-rather-long-name"]
    heading = page.locator("#board thead th").nth(1)
    heading.get_by_role("button").click()
    assert names(page) == ["a-system-with-a-rather-long-name", "zero", "bm25"]
    assert heading.get_attribute("aria-sort") == "descending"
    assert "made up, test" in (page.text_content("#sorted") or "")
    heading.get_by_role("button").press("Enter")
    assert names(page) == ["bm25", "zero", "a-system-with-a-rather-long-name"]
    page.locator("#board thead th").nth(2).get_by_role("button").click()
    assert names(page) == ["zero", "bm25", "a-system-with-a-rather-long-name"]  # what was not measured stays last
    overflow, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert overflow <= inner
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    assert [found["id"] for found in axe.run(page).response["violations"]] == []
    assert [line for line in said if "axe" not in line] == []
    assert requests == [board.as_uri()]
    page.get_by_role("link", name="first").click()
    assert page.url.endswith("/first/report.html")
    context.close()


def test_reads_without_javascript(browser: Browser, board: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(board.as_uri())
    assert names(page) == ["zero", "bm25", "a-system-with-a-rather-long-name"]
    assert page.locator("button").count() == 0
    context.close()
