"""Clients that nobody changed, against a real server: order, scores, addresses, errors, extensions."""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from genrank.engines.base import ScoreRequest
from tests.clients import environment
from tests.clients.worker import RaisedError, Worker
from tests.unit.server.conftest import Serve, SlowEngine

httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'genrank[remote]'")

KEY = "key-of-the-shop"
MODEL = "rerank-v3.5"
TITLES = ["Blue coat", "Red hat", "Red dress"]
BODY: dict[str, Any] = {"model": MODEL, "query": "red dress", "documents": TITLES}
ROOT = Path(__file__).resolve().parents[3]

COHERE = ["cohere_v1", "cohere_v1_async", "cohere_v2", "cohere_v2_async"]
SUFFIXES = ("", "/", "/v1", "/v1/")
# of each function: what the client adds to the address, what it calls the length of the answer, what comes before the
# model's name
CLIENTS: dict[str, tuple[tuple[str, ...], str, str]] = {
    **dict.fromkeys(COHERE, (SUFFIXES, "top_n", "")),
    "voyage": (SUFFIXES, "top_k", ""),
    "voyage_async": (SUFFIXES, "top_k", ""),
    "langchain_cohere": (SUFFIXES, "top_n", ""),
    "langchain_cohere_async": (("",), "top_n", ""),
    "langchain_jina": (("/v1/rerank", "/v1/rerank/", "/rerank"), "top_n", ""),
    "llamaindex_cohere": (SUFFIXES, "top_n", ""),
    "llamaindex_jina": (SUFFIXES, "top_n", ""),
    "llamaindex_tei": (SUFFIXES, "top_n", ""),
    "haystack_cohere": (SUFFIXES, "top_k", ""),
    "haystack_cohere_async": (("",), "top_k", ""),
    **{
        f"{function} {provider}": (SUFFIXES, "top_n", f"{provider}/")
        for provider in ("hosted_vllm", "cohere", "jina_ai", "huggingface")
        for function in ("litellm_rerank", "litellm_arerank")
    },
}
each_client = pytest.mark.parametrize("name", CLIENTS)
each_cohere = pytest.mark.parametrize("major", [5, 7])


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The environment of the clients; its Cohere is 5."""
    python = environment.python()
    if python is None:
        pytest.skip("the clients are not installed, or out of date: make clients")
    with closing(Worker(python, tmp_path_factory.mktemp("clients") / "log")) as worker:
        yield worker


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """This environment, with Cohere's newest client."""
    pytest.importorskip("cohere", reason="cohere is not installed: pip install 'genrank[dev]'")
    with closing(Worker(Path(sys.executable), tmp_path_factory.mktemp("newest") / "log")) as worker:
        yield worker


@pytest.fixture
def cohere(major: int, request: pytest.FixtureRequest) -> Worker:
    """Cohere's client of a major version."""
    worker: Worker = request.getfixturevalue("newest" if major == 7 else "clients")
    assert worker("versions", names=["cohere"])[0].startswith(f"{major}.")
    return worker


@pytest.fixture
def base(listening: Serve) -> str:
    address: str = listening([KEY], model={"aliases": [MODEL]})
    return address


def call(
    worker: Worker, name: str, base: str, *, most: int | None, key: str = KEY, suffix: str = "", **change: Any
) -> Any:
    """A client's rows for BODY."""
    _, limit, prefix = CLIENTS[name]
    arguments = BODY | {limit: most} | change
    arguments["model"] = prefix + arguments["model"]
    return worker(name.split()[0], base=base + suffix, key=key, **arguments)


def assert_ranking(rows: Any, order: list[int]) -> None:
    assert [index for index, _ in rows] == order
    scores = [score for _, score in rows]
    assert all(isinstance(score, float) and 0 <= score <= 1 for score in scores)
    assert all(better > worse for better, worse in itertools.pairwise(scores)), "each of these fits worse"


def check_client(worker: Worker, name: str, base: str) -> None:
    """Everything that holds for every client."""
    suffixes, _, _ = CLIENTS[name]
    documents = ["Blue coat", "Red hat", "", "Red hat", "Red dress"]
    full = call(worker, name, base, suffix=suffixes[0], documents=documents, most=5)
    assert_ranking(full, [4, 3, 1, 0, 2])
    assert full[-1][1] == 0, "a document without text"
    for suffix in suffixes:
        assert_ranking(call(worker, name, base, suffix=suffix, most=2), [2, 1])
    assert_ranking(call(worker, name, base, suffix=suffixes[0], most=100), [2, 1, 0])
    assert_ranking(call(worker, name, base, suffix=suffixes[0], documents=["Red dress"], most=1), [0])


@each_cohere
@pytest.mark.parametrize("name", COHERE)
def test_cohere_ranks(cohere: Worker, base: str, name: str) -> None:
    check_client(cohere, name, base)


@pytest.mark.parametrize("name", [name for name in CLIENTS if name not in COHERE])
def test_each_client_ranks(clients: Worker, base: str, name: str) -> None:
    check_client(clients, name, base)


@pytest.mark.parametrize("name", ["cohere_v1", "cohere_v2", "voyage"])
def test_no_limit_and_a_limit_of_zero_mean_all(clients: Worker, base: str, name: str) -> None:
    for most in (None, 0):
        assert_ranking(call(clients, name, base, most=most), [2, 1, 0])


def test_langchain_sends_null_for_all(clients: Worker, base: str) -> None:
    for name, suffix in (("langchain_cohere", ""), ("langchain_jina", "/v1/rerank")):
        assert_ranking(call(clients, name, base, suffix=suffix, most=None), [2, 1, 0])


@each_cohere
def test_cohere_sends_objects(cohere: Worker, base: str) -> None:
    documents: list[Any] = [{"text": title, "sku": str(i)} for i, title in enumerate(TITLES)] + [{"name": "Red scarf"}]
    options: dict[str, Any] = {"query": "red", "documents": documents, "return_documents": True}
    plain = cohere("cohere_answer", base=base, key=KEY, version=1, **options)["results"]
    assert [row["index"] for row in plain] == [3, 2, 1, 0]
    assert plain[1]["document"]["text"] == "Red dress"
    fields = {"rank_fields": ["text", "sku"], "max_chunks_per_doc": 10, "top_n": 1}
    (best,) = cohere("cohere_answer", base=base, key=KEY, version=1, **options | fields)["results"]
    assert best["index"] in (2, 3)


@each_cohere
@pytest.mark.parametrize("version", [1, 2])
def test_extensions_go_through_cohere(cohere: Worker, base: str, engine: SlowEngine, version: int) -> None:
    extra = {
        "history": [{"event": "purchase", "listing": {"listing_id": "h1", "title": "Red shoes"}}],
        "reasons": 1,
    }
    options = {"request_options": {"additional_body_parameters": extra}}
    answer = cohere("cohere_answer", base=base, key=KEY, version=version, **BODY, **options)
    assert answer["results"][0]["reason"]
    assert answer["genrank"]["outcome"] == "model"
    assert answer["meta"]["api_version"]["version"] == str(version)
    assert answer["meta"]["tokens"]["input_tokens"] > 0
    asked = [engine.tokenizer.decode(one.ids) for one in engine.requests if isinstance(one, ScoreRequest)]
    assert len(asked) == len(TITLES)
    assert all("Red shoes" in prompt for prompt in asked)


@each_cohere
def test_cohere_knows_the_errors(cohere: Worker, base: str) -> None:
    def error(key: str = KEY, **change: Any) -> Any:
        return cohere("cohere_error", base=base, key=key, **BODY | change)

    assert error(key="another")["class"] == "UnauthorizedError"
    assert error(model="unknown")["class"] == "NotFoundError"
    for change, field in (({"query": " "}, "query"), ({"documents": []}, "documents"), ({"top_n": -1}, "top_n")):
        found = error(**change)
        assert (found["class"], found["body"]["error"]["param"]) == ("UnprocessableEntityError", field)


@pytest.mark.parametrize(
    ("name", "suffix", "raised"),
    [
        ("voyage", "/v1", ["AuthenticationError", "MalformedRequestError", "APIError"]),
        ("voyage_async", "/v1", ["AuthenticationError", "MalformedRequestError", "APIError"]),
        ("langchain_cohere", "", ["UnauthorizedError", "UnprocessableEntityError", "NotFoundError"]),
        ("langchain_jina", "/v1/rerank", ["RuntimeError"] * 3),
        ("llamaindex_cohere", "", ["UnauthorizedError", "UnprocessableEntityError", "NotFoundError"]),
        ("llamaindex_jina", "/v1", ["RuntimeError"] * 3),
        ("haystack_cohere", "", ["UnauthorizedError", "UnprocessableEntityError", "NotFoundError"]),
        ("litellm_rerank hosted_vllm", "", ["AuthenticationError", "BadRequestError", "NotFoundError"]),
        ("litellm_rerank cohere", "", ["AuthenticationError", "BadRequestError", "NotFoundError"]),
        ("litellm_rerank jina_ai", "", ["AuthenticationError", "BadRequestError", "NotFoundError"]),
    ],
)
def test_each_client_tells_what_is_wrong(clients: Worker, base: str, name: str, suffix: str, raised: list[str]) -> None:
    changes: list[dict[str, Any]] = [{"key": "another"}, {"query": " "}, {"model": "unknown"}]
    words = ["this key is not known", "query: ", "there is no 'unknown'"]
    for change, kind, message in zip(changes, raised, words, strict=True):
        with pytest.raises(RaisedError, match=rf"(?s)^{kind}: .*{re.escape(message)}"):
            call(clients, name, base, suffix=suffix, most=3, **change)


@pytest.mark.parametrize("name", ["llamaindex_tei", "litellm_rerank huggingface"])
def test_no_client_of_tei_takes_an_error_for_an_answer(clients: Worker, base: str, name: str) -> None:
    for change in ({"key": "another"}, {"query": " "}):
        with pytest.raises(RaisedError):
            call(clients, name, base, most=3, **change)


@pytest.mark.parametrize("provider", ["hosted_vllm", "cohere", "jina_ai", "huggingface"])
def test_litellm_asks_for_the_documents(clients: Worker, base: str, provider: str) -> None:
    answer = clients("litellm_answer", base=base, key=KEY, **BODY | {"model": f"{provider}/{MODEL}"})
    assert [row["document"]["text"] for row in answer["results"]] == TITLES[::-1]
    bare = {"model": f"{provider}/{MODEL}", "return_documents": False}
    answer = clients("litellm_answer", base=base, key=KEY, **BODY | bare)
    assert [row["index"] for row in answer["results"]] == [2, 1, 0]


@each_cohere
def test_cohere_waits_as_long_as_it_is_told(cohere: Worker, listening: Serve, engine: SlowEngine) -> None:
    address = listening([KEY], model={"aliases": [MODEL]}, auth={"rate_limit": "1/second"})
    started = time.monotonic()
    for query in ("red", "blue"):
        assert call(cohere, "cohere_v2", address, query=query, most=3)
    assert time.monotonic() - started > 0.8, "the second one was refused, and tried again"
    assert len(engine.sizes) == 2


def test_voyage_tries_again(clients: Worker, listening: Serve, engine: SlowEngine) -> None:
    patient, strict = (
        listening([KEY], model={"aliases": [MODEL]}, auth={"rate_limit": rate}) for rate in ("1/3 second", "1/minute")
    )
    assert call(clients, "voyage", strict, query="red", most=3)
    with pytest.raises(RaisedError, match=r"^RateLimitError: .*too many requests for this key"):
        call(clients, "voyage", strict, query="blue", most=3)
    started = time.monotonic()
    for query in ("red", "blue"):
        assert call(clients, "voyage", patient, query=query, most=3, retries=9)
    assert time.monotonic() - started > 2.5, "the second one was refused, and tried again"
    assert len(engine.sizes) == 3


def post(base: str, path: str, body: str) -> Any:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    answer = httpx.post(base + path, content=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def filled(template: str, **values: Any) -> str:
    """A template of a request body, with JSON in its places."""
    return re.sub(r"\$\{(?:parameters\.)?(\w+)\}", lambda place: json.dumps(values[place[1]]), template)


def found(path: str, body: Any) -> list[Any]:
    """What a JSON path such as ``$.results[*].index`` finds."""
    rows = [body]
    for name, every in re.findall(r"\.(\w+)(\[\*\])?", path):
        rows = [row[name] for row in rows]
        rows = [part for row in rows for part in row] if every else rows
    return rows


def test_elasticsearch_custom_service(base: str) -> None:
    """The request template, and the JSON paths of `json_parser`."""
    template = '{"documents": ${input}, "query": ${query}, "model": ${model_id}, "top_n": ${top_n}}'
    documents = ["Blue coat", 'A "red" hat', "", "Red dress"]
    body = post(base, "/v2/rerank", filled(template, input=documents, query="red", model_id=MODEL, top_n=4))
    scores, places = found("$.results[*].relevance_score", body), found("$.results[*].index", body)
    assert_ranking(list(zip(places, scores, strict=True)), [3, 1, 0, 2])
    assert found("$.results[*].document", {"results": [{"document": 1}]}) == [1]
    with pytest.raises(KeyError):
        found("$.results[*].document", body)


def test_opensearch_connector(base: str, engine: SlowEngine) -> None:
    """`connector.post_process.cohere.rerank` puts each score, a double, into the place that its index names."""
    template = (
        '{"documents": ${parameters.documents}, "query": ${parameters.query}, "model": ${parameters.model}, '
        '"top_n": ${parameters.top_n}}'
    )
    documents = ["Blue coat", "Red hat", "", "Red dress"]
    for failing in (False, True):  # a fallback scores every document too
        engine.failing = failing
        query = f"red {failing}"
        text = filled(template, documents=documents, query=query, model=MODEL, top_n=len(documents))
        rows = post(base, "/v1/rerank", text)["results"]
        scores: list[Any] = [None] * len(rows)
        for row in rows:
            scores[row["index"]] = row["relevance_score"]
        assert len(scores) == len(documents)
        assert all(type(score) is float for score in scores)


def test_the_docs_name_the_versions_that_are_tried() -> None:
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    clients = environment.REQUIREMENTS.read_text(encoding="utf-8").split("\n\n")[0]
    newest = re.findall(r"^cohere==.+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    lines = [line for line in clients.splitlines() if not line.startswith("#")]
    assert len(lines) == 9
    for line in lines + newest:
        name, version = line.split("==")
        assert re.search(rf"`{name}` [^|]*{re.escape(version)}", page), line
