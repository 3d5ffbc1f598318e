"""The playground in a real browser, over a real server: clicks, keys, both languages, hostile text, shared links."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from genrank.data.dataset import sample_shop
from genrank.engines.base import ScoreRequest, ScoreResult, Stop, never
from genrank.reranker import Reranker
from genrank.testing import OracleEngine
from genrank.types import Interaction, Listing, Tokens

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("fastapi")
pytest.importorskip("limits")
sync_api = pytest.importorskip("playwright.sync_api")

from genrank.server.config import Config  # noqa: E402
from genrank.server.run import make_server  # noqa: E402

KEY = "a-long-secret-key"
MARKUP = '<img src=x onerror="window.hacked=1"><b>bold</b></script><script>window.hacked=1</script>'
HOSTILE: dict[str, Any] = {
    "query": MARKUP,
    "history": [{"event": "click", "listing": {"listing_id": MARKUP[:4], "title": MARKUP}, "query": MARKUP}],
    "documents": [
        {"listing_id": "p1", "title": f"{MARKUP} coat", "brand": MARKUP, "attributes": {MARKUP: MARKUP}},
        {"listing_id": "p2", "title": f"red {MARKUP} dress", "price": {"amount": 9, "currency": MARKUP}},
        {"listing_id": "__proto__", "title": "javascript:alert(1) " + "unbroken" * 40, "__proto__": {"polluted": 1}},
    ],
}


class ReadingEngine(OracleEngine):
    """Finds all answers to a question about a query equally likely."""

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        if requests[0].listing_ids:
            return super().score(requests, stop=stop)
        return [ScoreResult([[0.0] * len(one.targets)] * len(one.reads), Tokens(1)) for one in requests]


@contextlib.contextmanager
def serving(*keys: str, search: dict[str, Any] | None = None) -> Iterator[str]:
    """The address of a gateway that knows the sample shop's grades."""
    shop = sample_shop()
    grades = {listing: float(grade) for judged in shop.qrels.values() for listing, grade in judged.items()}
    ranker = Reranker(engine=ReadingEngine(grades | {"p2": 3.0}), decoding="pointwise")
    server = make_server(ranker, Config.model_validate({"server": {"port": 0}, "search": search or {}}), keys)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gateway that searches the sample shop."""
    pytest.importorskip("symspellpy")
    from genrank.search.completion import Completion
    from genrank.search.index import Index
    from genrank.search.shoppers import Shoppers

    folder = tmp_path_factory.mktemp("shop")
    with Index.create(folder / "index") as index:
        index.add(sample_shop().listings.values())
        index.add([{"listing_id": "hostile", "title": f"zeppelin {MARKUP}", "brand": MARKUP}])
        Completion.of(index).close()
    with Shoppers(folder / "shoppers") as shoppers:
        shoppers.add("u1", [Interaction("purchase", Listing("h1", "Straw hat", brand="Ada"))])
    rules = {"in_stock": True, "pinned": {"en-bag-001": 1}}
    paths = {"index": str(folder / "index"), "shoppers": str(folder / "shoppers")}
    with serving(search=paths | {"understand": True, "rules": rules}) as found:
        yield found


@dataclass
class Opened:
    """A page, and everything that it complained of or asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def visit(self, address: str) -> None:
        """Open the playground, and wait until it is ready."""
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready]")

    def rank(self) -> None:
        """Rank, and wait for the order."""
        self.page.click("#rank")
        self.page.wait_for_selector(".column .score")

    def search(self, query: str) -> None:
        """Search, and wait for what is found."""
        self.page.click("[data-mode=search]")
        self.page.fill("#search-query", query)
        self.page.click("#search")
        self.page.wait_for_selector("#took-table table")

    def titles(self, column: int) -> list[str]:
        """The titles of a column, 0-based."""
        return self.page.locator(".column").nth(column).locator("h4").all_text_contents()

    def fill(self, request: dict[str, Any]) -> None:
        """Type a request of one's own."""
        self.page.fill("#query", request["query"])
        for name in ("history", "documents"):
            self.page.eval_on_selector(f"#{name}-box", "box => box.open = true")
            self.page.fill(f"#{name}", json.dumps(request[name]))


Open = Callable[..., Opened]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens a page; takes the options of a browser context."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Opened:
            context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 900}} | options)
            stack.callback(context.close)
            found = Opened(context.new_page())
            found.page.set_default_timeout(20_000)
            found.page.on("console", lambda message: found.complaints.append(message.text))
            found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
            found.page.on("request", lambda request: found.requests.append(request.url))
            return found

        yield start


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with a page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


def test_a_query_of_the_sample_shop_is_ranked(open_page: Open, address: str) -> None:
    opened = open_page()
    opened.visit(address)
    page = opened.page
    before = opened.titles(0)
    assert len(before) > 5
    assert page.locator("#past li").count() > 0, "the first query has a history"
    opened.rank()
    assert sorted(opened.titles(1)) == sorted(before) == sorted(opened.titles(0)), "nothing is lost"
    scores = [float(text.split()[-1]) for text in page.locator(".score").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    assert (
        page.text_content("#status")
        == f"Ranked {len(before)} listings in " + (page.text_content("#status") or "").partition(" in ")[2]
    )
    assert opened.titles(1)[0] in (page.text_content("#status") or "")
    assert page.locator(".reason").count() > 0
    assert page.locator("#provenance th").all_text_contents()[-4:] == [
        "Time in all", "Network and browser", "Gateway: queue, batch, cache", "Reranker",
    ]  # fmt: skip
    assert opened.complaints == []
    assert {url.startswith(address) for url in opened.requests} == {True}


def test_evidence_is_marked_in_the_fields(open_page: Open, address: str) -> None:
    opened = open_page()
    opened.visit(address)
    opened.rank()
    first = opened.page.locator(".column").nth(1).locator(".card").filter(has=opened.page.locator(".reason")).first
    first.locator("summary").click()
    shown = first.locator("mark").all_text_contents()
    assert shown
    listed = first.locator("details dd").count()
    marked = first.locator("details mark").all_text_contents()
    assert 0 < len(marked) < listed, "some fields, not all"
    assert set(marked) <= set(shown[: len(shown) - len(marked)]), "the same that stand beneath the reason"


def test_two_readings_stand_side_by_side(open_page: Open, address: str) -> None:
    opened = open_page()
    opened.visit(address)
    opened.page.select_option("#compare", "listwise/listwise")
    opened.rank()
    sync_api.expect(opened.page.locator(".column")).to_have_count(3)
    assert sorted(opened.titles(1)) == sorted(opened.titles(2))
    heads = opened.page.locator("#provenance thead th").all_text_contents()
    assert [head.rpartition("@")[0] for head in heads] == ["as served: pointwise, pointwise", "listwise, listwise"]
    place = opened.page.locator(".column").nth(2).locator(".card").first
    place.hover()
    assert opened.page.locator(".card.same").count() == 3, "the same listing in each column"


def test_the_prompt_is_shown_token_by_token(open_page: Open, address: str) -> None:
    opened = open_page()
    opened.visit(address)
    page = opened.page
    page.fill("#prompt-number", "2")
    page.click("#show-prompt")
    page.wait_for_selector("#prompt-text pre")
    text = "".join(page.locator("#prompt-text pre").all_text_contents())
    assert page.input_value("#query") in text
    assert opened.titles(0)[1] in text, "the second listing's"
    assert text.startswith("<system>")
    spans = page.locator("#prompt-text pre span").count()
    assert f" {spans} tokens" in (page.text_content("#prompt-status") or "")
    assert page.evaluate("getComputedStyle(document.querySelector('.odd')).backgroundColor") != "rgba(0, 0, 0, 0)"
    page.uncheck("#tokens")
    assert page.evaluate("getComputedStyle(document.querySelector('.odd')).backgroundColor") == "rgba(0, 0, 0, 0)"
    page.fill("#prompt-number", "999")
    page.click("#show-prompt")
    sync_api.expect(page.locator("#prompt-problem")).to_contain_text("prompt: the first batch has")


def test_hostile_text_stays_text(open_page: Open, address: str) -> None:
    opened = open_page()
    opened.visit(address)
    page = opened.page
    opened.fill(HOSTILE)
    opened.rank()
    page.click("#show-prompt")
    page.wait_for_selector("#prompt-text pre")
    page.eval_on_selector_all("details", "all => all.forEach(e => e.open = true)")
    assert opened.titles(1)[0] == HOSTILE["documents"][1]["title"]
    assert MARKUP in (page.locator(".column").first.text_content() or "")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("({}).polluted") is None
    assert page.locator("img, b, main script").count() == 0
    width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner
    assert opened.complaints == []


def test_the_policy_refuses_inline_scripts_and_markup(open_page: Open, address: str) -> None:
    opened = open_page()
    opened.visit(address)
    page = opened.page
    refused = page.evaluate("""() => {
        try { document.body.innerHTML = "<b>bold</b>"; } catch (error) { return error.name; }
        return "taken";
    }""")
    assert refused == "TypeError"
    page.evaluate("""() => {
        const img = document.createElement("img");
        img.setAttribute("src", "/nothing.png");
        try { img.setAttribute("onerror", "window.hacked = 1"); } catch { return; }
        document.body.append(img);
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None


def test_a_shared_link_restores_the_request_and_ranks_nothing(open_page: Open, address: str) -> None:
    first = open_page()
    first.visit(address)
    request = HOSTILE | {"query": "红色 dress"}
    first.fill(request)
    first.page.fill("#reasons", "1")
    first.page.select_option("#compare", "inline/inline")
    first.page.click("[data-language=zh]")
    first.page.click("#share")
    sync_api.expect(first.page.locator("#status")).to_contain_text("包含整个请求")
    link = first.page.url
    assert link.startswith(f"{address}#")

    second = open_page()
    second.visit(link)
    page = second.page
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.input_value("#query") == "红色 dress"
    assert json.loads(page.input_value("#documents")) == request["documents"]
    assert json.loads(page.input_value("#history")) == request["history"]
    assert (page.input_value("#reasons"), page.input_value("#compare")) == ("1", "inline/inline")
    assert not [url for url in second.requests if url.endswith("/rerank")], "only a click ranks"
    second.rank()
    assert len(second.titles(1)) == 3
    assert first.complaints == second.complaints == []


def test_a_link_to_a_sample_query_is_short(open_page: Open, address: str) -> None:
    first = open_page()
    first.visit(address)
    first.page.select_option("#sample", "q-zh-06")
    first.page.click("#share")
    first.page.wait_for_url("**/#*")
    assert len(first.page.url) < 200
    second = open_page()
    second.visit(first.page.url)
    assert second.page.input_value("#sample") == "q-zh-06"
    assert second.titles(0) == first.titles(0)


@pytest.mark.parametrize("fragment", ["#nonsense", "#%00", "#eJwDAAAAAAE", "#" + "A" * 5000])
def test_a_damaged_link_says_so(open_page: Open, address: str, fragment: str) -> None:
    opened = open_page()
    opened.visit(address + fragment)
    assert opened.page.text_content("#problem") == "The link is damaged, so its request cannot be shown."
    opened.rank()
    assert opened.complaints == []


def test_the_keyboard_is_enough(open_page: Open, address: str) -> None:
    opened = open_page()
    opened.visit(address)
    page = opened.page

    def reach(selector: str) -> None:
        for _ in range(40):
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {selector}")

    reach("#sample")
    page.keyboard.press("ArrowDown")
    reach("#query")
    page.keyboard.press("Control+A")
    page.keyboard.type("shoes")
    reach("#history-box summary")
    page.keyboard.press("Enter")
    reach("#history")
    page.keyboard.press("Control+A")
    page.keyboard.type("[]")
    reach("#documents-box summary")
    page.keyboard.press("Enter")
    reach("#documents")
    page.keyboard.press("Control+A")
    page.keyboard.type('["a hat", "running shoes"]')
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".score")
    assert sorted(opened.titles(1)) == ["a hat", "running shoes"]
    reach("#rank")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus is seen"
    reach("#show-prompt")
    page.keyboard.press("Space")
    page.wait_for_selector("#prompt-text pre")
    page.evaluate("document.activeElement.blur()")
    page.locator("#skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "results"
    assert opened.complaints == []


def test_what_is_wrong_is_said_where_it_is(open_page: Open, address: str) -> None:
    opened = open_page()
    opened.visit(address)
    page = opened.page
    page.eval_on_selector("#documents-box", "box => box.open = true")
    page.fill("#documents", "[1, 2")
    page.click("#rank")
    assert "not valid JSON" in (page.text_content("#documents-problem") or "")
    assert page.get_attribute("#documents", "aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == "documents"
    page.fill("#documents", '{"title": "A"}')
    assert page.text_content("#documents-problem") == "This must be a JSON list, in square brackets."
    page.fill("#documents", '[{"title": "A", "rating": 9}]')
    page.click("#rank")
    sync_api.expect(page.locator("#problem")).to_contain_text("documents[0].rating")
    page.fill("#documents", "[]")
    page.click("#rank")
    assert page.text_content("#problem") == "Give at least one listing."
    page.fill("#query", " ")
    page.click("#rank")
    assert page.text_content("#problem") == "Write a query first."
    assert [text for text in opened.complaints if "422" not in text] == [], "the browser itself logs the refusal"


def test_the_key_is_asked_for_and_kept_nowhere(open_page: Open) -> None:
    with serving(KEY) as address:
        opened = open_page()
        opened.visit(address)
        page = opened.page
        sync_api.expect(page.locator("#problem")).to_contain_text("wants a key")
        page.fill("#key", "wrong-key")
        page.keyboard.press("Enter")
        sync_api.expect(page.locator("#problem")).to_contain_text("this key is not known")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector(".card")
        opened.rank()
        page.click("#share")
        page.wait_for_url("**/#*")
        stored = page.evaluate("[JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie]")
        assert stored == ["{}", "{}", ""]
        assert KEY not in page.url
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert page.input_value("#key") == ""
        assert page.is_visible("#key")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("locale", "width"), [("en-US", 1280), ("zh-CN", 390)])
def test_axe_finds_nothing_and_it_fits_the_screen(
    open_page: Open, address: str, scheme: str, locale: str, width: int
) -> None:
    opened = open_page(color_scheme=scheme, locale=locale, viewport={"width": width, "height": 844})
    opened.visit(address)
    page = opened.page
    assert page.evaluate("document.documentElement.lang") == ("zh-CN" if locale == "zh-CN" else "en")
    page.select_option("#compare", "inline/inline")
    opened.rank()
    page.click("#show-prompt")
    page.wait_for_selector("#prompt-text pre")
    page.eval_on_selector_all("details", "all => all.slice(0, 12).forEach(e => e.open = true)")
    page.wait_for_timeout(400)  # colours change slowly
    wide, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inner
    assert violations(page) == []
    assert opened.complaints == []


def test_both_languages_say_everything(open_page: Open, address: str) -> None:
    opened = open_page()
    opened.visit(address)
    page = opened.page
    opened.rank()
    assert page.get_attribute("[data-language=en]", "aria-pressed") == "true"
    page.click("[data-language=zh]")
    assert page.title() == "genrank 试验台"
    assert page.text_content("#rank") == "排序"
    words = page.locator("h1, h2, h3, button, label, th[scope=row]").all_text_contents()
    left = [word for word in words if word.isascii() and word not in ("English", "")]
    assert left == []
    assert page.locator(".score").count() > 0, "what was ranked stays"
    page.click("[data-language=en]")
    assert page.text_content("#rank") == "Rank"
    assert "undefined" not in (page.text_content("body") or "")
    assert opened.complaints == []


def test_typing_stops_what_is_ranked(open_page: Open, address: str) -> None:
    opened = open_page()
    opened.visit(address)
    page = opened.page
    page.route("**/playground/rerank", lambda _: None)  # never answered
    page.click("#rank")
    sync_api.expect(page.locator("#status")).to_have_text("Ranking …")
    page.fill("#query", "hats")
    sync_api.expect(page.locator("#status")).to_have_text("")
    sync_api.expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    assert page.locator(".score").count() == 0


def test_without_an_index_there_is_no_search(open_page: Open, address: str) -> None:
    opened = open_page()
    opened.visit(address)
    assert not opened.page.is_visible("#modes")
    assert not opened.page.is_visible("#search-form")


def test_a_search_shows_each_stage(open_page: Open, searching: str) -> None:
    opened = open_page()
    opened.visit(searching)
    page = opened.page
    assert page.is_visible("#request")
    page.click("[data-mode=search]")
    assert not page.is_visible("#request")
    page.fill("#user", "u1")
    page.fill("#top-k", "4")
    page.fill("#variety", "0.3")
    opened.search("linen summer dress under 90")
    shown = page.locator("#found-items h4").all_text_contents()
    assert len(shown) == 4
    assert shown[0] in (page.text_content("#search-status") or "")
    heads = page.locator("#order-columns h3").all_text_contents()
    assert heads == ["Find candidates", "Rank", "Vary", "Apply rules"]
    columns = page.locator("#order-columns .column")
    orders = [columns.nth(i).locator("h4").all_text_contents() for i in range(4)]
    assert all(sorted(order) == sorted(orders[0]) for order in orders), "nothing is lost on the way"
    assert orders[3][:4] == shown
    assert orders[0] != orders[1]
    assert columns.nth(0).locator(".moved").count() == 0
    assert columns.nth(1).locator(".moved").count() == len(orders[1])
    stages = page.locator("#took-table th[scope=row]").all_text_contents()
    assert stages == [
        "Understand the query", "Find candidates", "Know the shopper", "Rank", "Vary", "Apply rules", "Write reasons",
        "Network and browser", "Time in all",
    ]  # fmt: skip
    assert "at most 90" in (page.text_content("#meaning") or "")
    assert page.locator("#found-items .reason").count() > 0
    first = page.locator("#found-items .card").filter(has=page.locator(".reason")).first
    first.locator("summary").click()
    assert first.locator("details mark").count() > 0, "the evidence is marked"
    columns.nth(0).locator(".card").first.hover()
    assert columns.locator(".card.same").count() == 4
    page.click("[data-mode=rerank]")
    assert page.is_visible("#request")
    assert not page.is_visible("#orders")
    assert opened.complaints == []


def test_queries_are_suggested_while_a_shopper_types(open_page: Open, searching: str) -> None:
    opened = open_page()
    opened.visit(searching)
    page = opened.page
    page.click("[data-mode=search]")
    page.locator("#search-query").press_sequentially("lin")
    page.wait_for_selector("#suggestions option", state="attached")
    suggested = page.eval_on_selector_all("#suggestions option", "all => all.map(one => one.value)")
    assert suggested
    assert all(text.lower().startswith("lin") for text in suggested)
    page.fill("#search-query", "")
    page.wait_for_selector("#suggestions option", state="detached")
    assert opened.complaints == []


def test_a_link_to_a_search_restores_it_and_searches_nothing(open_page: Open, searching: str) -> None:
    first = open_page()
    first.visit(searching)
    first.search("连衣裙 夏季")
    first.page.fill("#top-k", "3")
    first.page.fill("#variety", "0.45")
    first.page.click("[data-language=zh]")
    first.page.click("#search-share")
    sync_api.expect(first.page.locator("#search-status")).to_contain_text("包含整个请求")
    second = open_page()
    second.visit(first.page.url)
    page = second.page
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.is_visible("#search-form")
    values = [page.input_value(name) for name in ("#search-query", "#top-k", "#variety")]
    assert values == ["连衣裙 夏季", "3", "0.45"]
    assert not [url for url in second.requests if url.endswith("/playground/search")], "only a click searches"
    words = page.locator("h1, h2, h3, button, label").all_text_contents()
    assert [word for word in words if word.isascii() and word not in ("English", "")] == []
    page.click("#search")
    page.wait_for_selector("#found-items h4")
    assert page.locator("#found-items h4").count() == 3
    assert first.complaints == second.complaints == []


def test_a_search_says_what_is_wrong_and_what_is_not_found(open_page: Open, searching: str) -> None:
    opened = open_page()
    opened.visit(searching)
    page = opened.page
    page.click("[data-mode=search]")
    page.click("#search")
    assert page.text_content("#search-problem") == "Write a query first."
    opened.search("qqqq")
    sync_api.expect(page.locator("#found-items")).to_have_text("Nothing was found.")
    opened.search("zeppelin")
    sync_api.expect(page.locator("#found-items h4")).to_have_text([f"zeppelin {MARKUP}"])
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, b, main script").count() == 0
    assert opened.complaints == []
    page.fill("#top-k", "1.5")
    page.click("#search")
    sync_api.expect(page.locator("#search-problem")).to_contain_text("top_k")


def test_the_keyboard_is_enough_to_search(open_page: Open, searching: str) -> None:
    opened = open_page()
    opened.visit(searching)
    page = opened.page
    page.locator("[data-mode=search]").focus()
    page.keyboard.press("Space")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "search-query":
            break
    page.keyboard.type("dress")
    page.keyboard.press("Enter")
    page.wait_for_selector("#found-items h4")
    page.locator("#variety").focus()
    page.keyboard.press("ArrowRight")
    assert page.text_content("#variety-shown") == "0.05"
    page.locator("#skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "found"
    assert opened.complaints == []


@pytest.mark.parametrize(("locale", "width", "scheme"), [("en-US", 1280, "light"), ("zh-CN", 390, "dark")])
def test_axe_finds_nothing_in_a_search(open_page: Open, searching: str, locale: str, width: int, scheme: str) -> None:
    opened = open_page(color_scheme=scheme, locale=locale, viewport={"width": width, "height": 844})
    opened.visit(searching)
    opened.search("linen summer dress under 90")
    page = opened.page
    page.wait_for_timeout(400)  # colours change slowly
    wide, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inner
    assert violations(page) == []
    assert opened.complaints == []
