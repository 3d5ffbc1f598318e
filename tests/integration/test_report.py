"""The report in a real browser: it draws, asks for nothing, runs nothing that came as data, and fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eval.report import write_report
from genrank.data.dataset import DatasetQuery
from genrank.types import Listing, Query
from tests.results_folder import make_dataset, write_results

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("plotly")
pytest.importorskip("jinja2")
sync_api = pytest.importorskip("playwright.sync_api")

HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>bold</b> %{y} {{x}} ' + "unbroken" * 30
SYSTEMS = {
    "bm25": 0.6,
    "bert": 0.7,
    "zero-shot-with-a-rather-long-name": 0.5,
    '<img src=x onerror="window.hacked=1">'.replace("/", ""): 0.65,
    **{f"more-{i}": 0.4 + i / 50 for i in range(6)},
}
RERANKER = next(name for name in SYSTEMS if name.startswith("<"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = make_dataset(queries=61)
    dataset = replace(
        dataset,
        name=HOSTILE,
        listings={key: Listing(key, f"{key} {HOSTILE}") for key in dataset.listings},
        queries=[
            DatasetQuery(Query(f"{HOSTILE} {i}", q.query.query_id), "test") for i, q in enumerate(dataset.queries)
        ],
    )
    folder = tmp_path_factory.mktemp("report")
    write_results(folder, dataset, SYSTEMS, reference="bm25", rerankers=[RERANKER], reason=HOSTILE)
    return write_report(folder, dataset)


@dataclass
class Opened:
    """A page and everything it complained of or asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(params=[1280, 390], ids=["desk", "phone"])
def opened(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": request.param, "height": 844}, has_touch=request.param == 390)
    found = Opened(context.new_page())

    def route(handle: Any) -> None:
        found.requests.append(handle.request.url)
        if handle.request.url == report.as_uri():
            handle.continue_()
        else:
            handle.abort()

    context.route("**/*", route)
    found.page.on("console", lambda message: found.complaints.append(message.text))
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.goto(report.as_uri())
    found.page.wait_for_selector("#place-rank .scatterlayer .trace")
    yield found
    context.close()


def heights(page: Page) -> list[float]:
    return list(page.eval_on_selector_all("#per-query .point path", "all => all.map(e => e.getBBox().height)"))


def test_draws_all_plots_without_a_request_or_complaint(opened: Opened, report: Path) -> None:
    page = opened.page
    assert page.locator("#per-query .point path").count() == 61
    assert max(heights(page)) > 20
    assert page.locator("#quality-latency .errorbar").count() == len(SYSTEMS)
    assert page.locator("#place-rank .js-line").count() == len(SYSTEMS) + 1
    assert opened.complaints == []
    assert opened.requests == [report.as_uri()]


def test_fits_the_screen(opened: Opened) -> None:
    page = opened.page
    for _ in range(2):
        width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= inner
        page.eval_on_selector_all("details", "all => all.forEach(e => e.open = true)")
    small = page.evaluate("""() => {
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
        while (walker.nextNode()) {
            const parent = walker.currentNode.parentElement;
            if (!walker.currentNode.data.trim() || parent.closest("script, style")) continue;
            if (parseFloat(getComputedStyle(parent).fontSize) < 14) found.push(walker.currentNode.data);
        }
        return found;
    }""")
    assert small == []
    for plot in ("per-query", "quality-latency", "place-rank"):
        cut_off = page.eval_on_selector_all(
            f"#{plot} svg.main-svg text",
            """all => all.filter(e => {
                const box = e.getBoundingClientRect(), plot = e.closest(".plot").getBoundingClientRect();
                return box.left < plot.left - 1 || box.right > plot.right + 1 || box.bottom > plot.bottom + 1;
            }).map(e => e.textContent)""",
        )
        assert cut_off == []


def test_data_runs_nothing(opened: Opened) -> None:
    page = opened.page
    page.hover("#per-query .point:first-child path", force=True)
    page.wait_for_selector("#per-query .hovertext text")
    hover = page.text_content("#per-query .hovertext text") or ""
    assert '<img src=x onerror="window.hacked=1">' in hover.replace("\n", " ")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("b").count() == 0
    assert opened.complaints == []


def test_the_choice_of_system(opened: Opened) -> None:
    page = opened.page
    before = heights(page)
    assert page.input_value("#system") == "0"
    page.select_option("#system", label="more-0")
    after = heights(page)
    assert after != before
    words = page.text_content("#per-query-words") or ""
    assert words.startswith("more-0 is above bm25 on ")
    page.select_option("#measure", "value")
    assert heights(page) != after
    page.select_option("#system", label="bm25")  # the reference has no difference from itself
    page.select_option("#measure", "difference")
    assert page.text_content("#per-query-words") == "nDCG@10 of bm25."
    assert opened.complaints == []


def test_dark_mode_redraws(opened: Opened) -> None:
    page = opened.page
    colour = "getComputedStyle(document.querySelector('#per-query .point path')).fill"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    sync_api.expect(page.locator("#per-query .point path").first).not_to_have_css("fill", light)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 27)"
    assert opened.complaints == []
