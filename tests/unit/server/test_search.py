"""The gateway's own search: over an index of the sample shop, with engine doubles."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("symspellpy")
pytest.importorskip("duckdb")

from genrank.engines.base import ScoreRequest, ScoreResult, Stop, never
from genrank.errors import EngineError
from genrank.search.feedback.estimates import ClickEstimates, Looks
from genrank.search.feedback.log import FeedbackLog
from genrank.search.index import Index
from genrank.search.shoppers import Shoppers
from genrank.types import Interaction, Listing, Tokens
from tests.unit.server.conftest import Serve, Shop, SlowEngine, event, hang_up

KEY = "a-long-secret-key"
QUERY = "linen dress"


@pytest.fixture
def grades() -> dict[str, float]:
    """What the engine knows of listings; without a grade they keep their order."""
    return {}


@pytest.fixture
def engine(grades: dict[str, float]) -> SlowEngine:
    return SlowEngine(grades=grades)


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["listing_id"] for item in answer.json()["items"]]


def stages(answer: Any) -> dict[str, Any]:
    return {stage["name"]: stage for stage in answer.json()["stages"]}


def samples(client: Any, name: str) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)}


def test_what_is_found_is_ranked_by_the_model(serve: Serve, grades: dict[str, float], folder: str) -> None:
    client = serve(search={"index": folder, "candidates": 12})
    found = client.post("/v1/search", json={"query": QUERY})
    grades[ids(found)[-1]] = 5.0
    answer = client.post("/v1/search", json={"query": f"{QUERY} x", "top_k": 3}, headers={"X-Request-Id": "r-1"})
    body = answer.json()
    assert ids(answer)[0] == ids(found)[-1]
    assert len(body["items"]) == 3
    assert body["items"][0]["listing"]["title"]
    assert body["items"][0]["source_rank"] > 1
    assert (body["request_id"], body["found"], body["tier"]) == ("r-1", 12, "model")
    assert list(stages(answer)) == ["match", "rank"]
    assert sorted(stages(answer)["rank"]["order"]) == sorted(stages(answer)["match"]["order"])
    assert body["provenance"]["model"] == "oracle"
    assert body["provenance"]["windows"] == 12
    assert answer.headers["x-genrank-tier"] == "model"
    assert answer.headers["x-request-id"] == "r-1"


def test_filters_hold_and_nothing_found_is_an_empty_list(serve: Serve, folder: str) -> None:
    client = serve(search={"index": folder})
    body = {"query": QUERY, "filters": {"in_stock": True, "price_max": 60, "category": ["Women"]}}
    for item in client.post("/v1/search", json=body).json()["items"]:
        assert item["listing"]["price"]["amount"] <= 60
        assert item["listing"]["category"][0] == "Women"
    empty = client.post("/v1/search", json={"query": QUERY, "filters": {"brand": "none such"}})
    assert (ids(empty), empty.json()["found"]) == ([], 0)


def test_it_needs_the_key_and_counts_towards_the_rate(serve: Serve, folder: str) -> None:
    client = serve([KEY], search={"index": folder}, auth={"rate_limit": "1/minute"})
    assert client.post("/v1/search", json={"query": QUERY}).status_code == 401
    answers = [client.post("/v1/search", json={"query": QUERY}, headers={"Authorization": KEY}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert int(answers[1].headers["retry-after"]) >= 1


def test_rankings_are_kept_and_counted_once(serve: Serve, engine: SlowEngine, folder: str) -> None:
    client = serve(search={"index": folder, "candidates": 12})
    first, second = (client.post("/v1/search", json={"query": QUERY}) for _ in range(2))
    assert ids(first) == ids(second)
    assert engine.sizes == [first.json()["found"]]
    found = samples(client, "genrank_")
    assert found['genrank_cache_lookups_total{result="hit"}'] == 1
    assert found['genrank_tiers_total{tier="model"}'] == 2
    assert found['genrank_search_stage_seconds_count{stage="match"}'] == 2
    assert found['genrank_search_stage_seconds_count{stage="rank"}'] == 2


def test_when_the_model_fails_the_order_is_that_of_the_index(serve: Serve, engine: SlowEngine, folder: str) -> None:
    engine.failing = True
    client = serve(search={"index": folder}, breaker={"failures": 1, "cool_down": 60})
    answer = client.post("/v1/search", json={"query": QUERY, "reasons": 2})
    assert ids(answer) == stages(answer)["match"]["order"]
    assert answer.json()["tier"] == answer.headers["x-genrank-tier"] == "first-stage"
    assert answer.json()["provenance"]["cause"] == "engine-error"
    assert stages(answer)["rank"]["note"] == "the engine failed"
    assert client.get("/ready").json()["breaker"] == "open"
    calls = len(engine.sizes)
    assert client.post("/v1/search", json={"query": "mug"}).json()["tier"] == "first-stage"
    assert len(engine.sizes) == calls, "the engine is left alone"
    assert "/secret" not in answer.text
    client = serve(search={"index": folder}, server={"when_down": "refuse"})
    assert client.post("/v1/search", json={"query": QUERY}).status_code == 503


def test_a_searchs_own_deadline_counts(serve: Serve, engine: SlowEngine, folder: str) -> None:
    engine.seconds = 5.0
    client = serve(search={"index": folder})
    started = time.monotonic()
    answer = client.post("/v1/search", json={"query": QUERY, "deadline": 0.5})
    assert time.monotonic() - started < 2
    assert (answer.json()["tier"], answer.json()["provenance"]["cause"]) == ("first-stage", "deadline")
    assert engine.started.is_set(), "the model had its try"


def test_too_many_at_once_are_told_when_to_try_again(serve: Serve, engine: SlowEngine, folder: str) -> None:
    engine.seconds = 1.0
    client = serve(search={"index": folder}, batching={"queue": 1, "size": 1})
    answers: list[Any] = []

    def ask(i: int) -> None:
        answers.append(client.post("/v1/search", json={"query": f"{QUERY} {i}"}))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 200
    assert statuses[-1] == 429
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1


def test_what_was_clicked_comes_higher(serve: Serve, section: dict[str, Any], tmp_path: Path) -> None:
    before = ids(serve(search=section).post("/v1/search", json={"query": QUERY}))
    looks = {before[0]: Looks(100, 1), before[-1]: Looks(100, 60)}
    ClickEstimates({QUERY: looks}).save(tmp_path / "clicks.json")
    client = serve(search=section | {"estimates": str(tmp_path / "clicks.json"), "weight": 0.1})
    answer = client.post("/v1/search", json={"query": QUERY})
    assert "blend" in stages(answer)
    assert ids(answer)[0] == before[-1]
    assert answer.json()["provenance"]["estimates"] == 0.1


def test_variety_rules_and_reasons_written_after_them(
    serve: Serve, engine: SlowEngine, section: dict[str, Any]
) -> None:
    last = ids(serve(search=section).post("/v1/search", json={"query": QUERY}))[-1]
    client = serve(search=section | {"variety": 0.5, "rules": {"in_stock": True, "pinned": {last: 1}}})
    answer = client.post("/v1/search", json={"query": QUERY, "reasons": 2, "top_k": 5})
    assert list(stages(answer)) == ["match", "rank", "vary", "rules", "explain", "log"]
    assert ids(answer)[0] == last
    assert answer.json()["provenance"]["rules"] == ["pinned", "in_stock"]
    assert answer.json()["tier"] in ("reasons", "model")
    found = samples(client, "genrank_tiers_total")
    assert sum(found.values()) == 1, "one search"
    plain = client.post("/v1/search", json={"query": QUERY, "variety": 0})
    assert "vary" not in stages(plain)


def test_reasons_that_fail_after_the_ranking_do_not_cost_it(
    serve: Serve, engine: SlowEngine, section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "score", _failing_after(engine, calls=1))
    client = serve(search=section | {"variety": 0.5}, server={"when_down": "refuse"})
    answer = client.post("/v1/search", json={"query": QUERY, "reasons": 2})
    assert (answer.status_code, answer.json()["tier"]) == (200, "model")
    assert not any("reason" in item for item in answer.json()["items"])


def _failing_after(engine: SlowEngine, calls: int) -> Any:
    score = engine.score

    def failing(requests: Sequence[Any], *, stop: Any = never) -> Any:
        engine.failing = len(engine.sizes) >= calls
        return score(requests, stop=stop)

    return failing


def test_a_known_shoppers_history_reaches_the_model_masked(
    serve: Serve, engine: SlowEngine, section: dict[str, Any]
) -> None:
    with Shoppers(section["shoppers"]) as shoppers:
        shoppers.add("u1", [Interaction("purchase", Listing("h1", "Straw hat", brand="Hush"), query="secret wish")])
    client = serve(search=section, privacy={"mask": ["query", "listing.brand"]})
    answer = client.post("/v1/search", json={"query": QUERY, "user_id": "u1"})
    assert "personalise" in stages(answer)
    prompts = [engine.tokenizer.decode(request.ids) for request in engine.requests]
    assert any("Straw hat" in prompt for prompt in prompts)
    assert not any("Hush" in prompt or "secret wish" in prompt for prompt in prompts)
    own = {"event": "click", "listing": {"listing_id": "h2", "title": "Felt boots"}}
    answer = client.post("/v1/search", json={"query": QUERY, "user_id": "u1", "history": [own]})
    assert "personalise" not in stages(answer), "its own history counts"


class ReadingEngine(SlowEngine):
    """Finds all answers of a question equally likely."""

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        if not requests[0].listing_ids:
            self.requests += requests
            if self.failing:
                raise EngineError("/secret/path is gone")
            return [ScoreResult([[0.0] * len(one.targets)] * len(one.reads), Tokens(1)) for one in requests]
        return super().score(requests, stop=stop)


def test_the_query_is_understood(serve: Serve, folder: str) -> None:
    engine = ReadingEngine()
    client = serve(search={"index": folder, "understand": True}, reranker={"engine": engine})
    answer = client.post("/v1/search", json={"query": "linen dress under 60"})
    assert answer.json()["intent"]["source"] == "model"
    assert answer.json()["intent"]["price"]["most"] == 60
    assert next(iter(stages(answer))) == "understand"
    engine.failing = True
    answer = client.post("/v1/search", json={"query": "cotton dress under 60"})
    assert answer.json()["intent"]["source"] == "literal"
    assert "/secret" not in answer.text
    assert stages(answer)["understand"]["note"] == "the model could not be asked, or not in time"


def test_an_engine_that_is_left_alone_is_not_asked_what_a_query_means(serve: Serve, folder: str) -> None:
    engine = ReadingEngine()
    search, breaker = {"index": folder, "understand": True}, {"failures": 1, "cool_down": 60}
    client = serve(search=search, breaker=breaker, reranker={"engine": engine})
    engine.failing = True
    client.post("/v2/rerank", json={"query": "x", "documents": ["a", "b"]})
    answer = client.post("/v1/search", json={"query": QUERY})
    assert answer.json()["intent"]["source"] == "literal"
    assert engine.requests == []


def test_an_engine_that_breaks_while_it_reads_costs_no_search(
    serve: Serve, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(ReadingEngine):
        def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
            if not requests[0].listing_ids:
                raise ZeroDivisionError("/secret/path")
            return super().score(requests, stop=stop)

    client = serve(search={"index": folder, "understand": True}, reranker={"engine": Broken()})
    answer = client.post("/v1/search", json={"query": QUERY})
    assert ids(answer)
    assert answer.json()["tier"] == "model"
    assert answer.json()["intent"]["source"] == "literal"
    assert "/secret" not in answer.text + caplog.text


def test_a_failing_log_costs_no_search_and_its_path_stays_inside(
    serve: Serve, section: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(search=section)
    monkeypatch.setattr(FeedbackLog, "_add", _no_space)
    with caplog.at_level(logging.INFO, "genrank.server"):
        answer = client.post("/v1/search", json={"query": QUERY})
    assert ids(answer)
    assert stages(answer)["log"]["note"] == "failed"
    assert "a stage of a search failed" in [record.getMessage() for record in caplog.records]
    assert "/secret" not in answer.text + caplog.text


def _no_space(*_: object) -> None:
    raise OSError("/secret/log: no space")


def test_the_log_line_and_the_trace_hold_no_text(
    serve: Serve, section: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    client = serve([KEY], search=section)
    past = {"event": "click", "listing": {"listing_id": "h", "title": "secret past"}}
    with caplog.at_level(logging.INFO, "genrank.server"):
        headers = {"Authorization": KEY}
        client.post(
            "/v1/search", json={"query": "secret dress", "user_id": "secret-u", "history": [past]}, headers=headers
        )
        client.request("DELETE", "/v1/shoppers/secret-u", headers=headers)
    records = [record for record in caplog.records if record.name == "genrank.server"]
    lines = [record.genrank_fields for record in records]  # type: ignore[attr-defined]
    expected = {"path": "/v1/search", "history": 1, "tier": "model", "outcome": "model", "cached": False}
    assert {key: lines[0][key] for key in expected} == expected
    assert lines[0]["documents"] > 1
    assert lines[1]["path"] == "/v1/shoppers/{user_id:path}"
    assert lines[1]["method"] == "DELETE"
    assert "secret" not in json.dumps(lines)


def test_a_client_that_hangs_up_stops_the_models_work(engine: SlowEngine, folder: str) -> None:
    from genrank.reranker import Reranker
    from genrank.server.app import create_app
    from genrank.server.config import Config
    from genrank.server.gateway import Gateway

    engine.seconds = 5.0
    config = Config.model_validate({"search": {"index": folder, "understand": True}})
    app = create_app(Gateway(Reranker(engine=engine, decoding="pointwise"), config))
    seconds, sent = hang_up(app, engine, "/v1/search", {"query": QUERY})
    assert seconds < 2
    assert engine.stopped.wait(2)
    assert sent[0]["status"] == 499


def test_the_event_loop_goes_on_while_the_index_is_read(
    serve: Serve, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go = threading.Event(), threading.Event()
    search = Index.search

    def slow(self: Index, *args: Any, **options: Any) -> Any:
        inside.set()
        go.wait(10)
        return search(self, *args, **options)

    monkeypatch.setattr(Index, "search", slow)
    client = serve(search={"index": folder})
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(client.post("/v1/search", json={"query": QUERY})))
    thread.start()
    assert inside.wait(5)
    assert client.get("/health").status_code == 200
    assert not answers
    go.set()
    thread.join(10)
    assert ids(answers[0])


def test_events_are_logged_once(shop: Shop, section: dict[str, Any]) -> None:
    client, answer = shop
    moment = "2026-05-01T12:00:00+02:00"
    for _ in range(2):
        told = client.post("/v1/events", json=event(answer, time=moment))
        assert told.status_code == 200, told.text
        assert told.json()["time"] == "2026-05-01T10:00:00Z"
    client.post("/v1/events", json=event(answer, event="purchase", event_id="e1"))
    client.post("/v1/events", json=event(answer, event="purchase", event_id="e1"))
    log = FeedbackLog(section["log"])
    rows = log.query("SELECT kind, count(*) AS n FROM events GROUP BY kind ORDER BY kind").to_pylist()
    assert rows == [{"kind": "click", "n": 1}, {"kind": "purchase", "n": 1}]
    shown = log.query("SELECT listing_id, clicks, purchases FROM feedback ORDER BY rank").to_pylist()
    assert [row["listing_id"] for row in shown] == [item["listing_id"] for item in answer["items"]]
    assert [(row["clicks"], row["purchases"]) for row in shown] == [(0, 0), (1, 1), (0, 0)]


def test_an_event_of_a_known_user_counts_in_the_next_search(shop: Shop, engine: SlowEngine) -> None:
    client, answer = shop
    for _ in range(2):
        client.post("/v1/events", json=event(answer, user_id="u1", time="2026-05-01T10:00:00Z"))
    title = answer["items"][1]["listing"]["title"]
    engine.requests.clear()
    client.post("/v1/search", json={"query": "summer dress", "user_id": "u1"})
    past = [engine.tokenizer.decode(request.ids) for request in engine.requests]
    assert past
    assert all(title in prompt for prompt in past)


def test_another_process_knows_the_search(shop: Shop, serve: Serve, section: dict[str, Any]) -> None:
    _, answer = shop
    other = serve(search=section)
    assert other.post("/v1/events", json=event(answer)).status_code == 200


@pytest.mark.parametrize("user", ["u1", "a/b", "a//b/", "用户 1"])
def test_a_shopper_is_forgotten_everywhere(serve: Serve, section: dict[str, Any], user: str) -> None:
    from urllib.parse import quote

    client = serve(search=section)
    for name in (user, "a", "other"):
        answer = client.post("/v1/search", json={"query": QUERY, "user_id": name, "top_k": 3}).json()
        assert client.post("/v1/events", json=event(answer, user_id=name)).status_code == 200
    gone = client.request("DELETE", f"/v1/shoppers/{quote(user, safe='')}")
    assert (gone.status_code, gone.json()) == (200, {"interactions": 1, "impressions": 3, "events": 1})
    with Shoppers(section["shoppers"]) as shoppers:
        assert [len(shoppers.history(name)) for name in (user, "a", "other")] == [0, 1, 1]
    again = client.request("DELETE", f"/v1/shoppers/{quote(user, safe='')}")
    assert again.json() == {"interactions": 0, "impressions": 0, "events": 0}


def test_what_is_not_kept_is_null(serve: Serve, section: dict[str, Any]) -> None:
    del section["log"]
    client = serve(search=section)
    assert client.request("DELETE", "/v1/shoppers/u1").json() == {
        "interactions": 0,
        "impressions": None,
        "events": None,
    }


def test_the_playgrounds_search_is_not_logged_and_names_all_candidates(serve: Serve, section: dict[str, Any]) -> None:
    client = serve(search=section)
    answer = client.post("/playground/search", json={"query": QUERY, "top_k": 2})
    body = answer.json()
    assert len(body["items"]) == 2
    assert set(body["titles"]) == set(stages(answer)["match"]["order"])
    assert len(FeedbackLog(section["log"]).query("SELECT * FROM impressions")) == 0
    offer = client.get("/playground/setup").json()["search"]
    assert offer == {"users": True, "reasons": True, "completion": False, "variety": 0.0, "candidates": 12}
    assert serve().get("/playground/setup").json()["search"] is None
