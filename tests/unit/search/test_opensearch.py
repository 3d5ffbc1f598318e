"""What the official client sends to OpenSearch, and what becomes of its answers.

The answers of the server have the form of OpenSearch 2's; the server itself is not run here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

pytest.importorskip("opensearchpy")
pytest.importorskip("bm25s")
pytest.importorskip("symspellpy")

import opensearchpy

from genrank.errors import ConfigError, EngineError, InputError
from genrank.search.dense import Vectors
from genrank.search.filters import Filters
from genrank.search.opensearch import OpenSearchIndex, document, index_body
from genrank.search.pipeline import Pipeline
from genrank.search.understanding import Guess, Intent
from genrank.types import Listing, Price, Query

FIELDS = ["title", "brand", "category", "attributes", "description"]
DRESS = Listing(
    "p1",
    "Red dress",
    description="For summer",
    brand="Ada",
    category=("Women", "Dresses"),
    price=Price(49.5, "EUR"),
    attributes={"colour": "red, white"},
    in_stock=False,
    seller_id="s1",
)
COAT = Listing("p2", "Coat")
HAT = Listing("p3", "Hat")

Answer = tuple[int, Any]


class Server:
    """Answers requests by method and path from `answers`, and keeps them."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[Any], Answer]] = {}
        self.requests: list[tuple[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                lines = [json.loads(line) for line in text.splitlines() if line]
                body = lines if "ndjson" in self.headers.get("Content-Type", "") or len(lines) > 1 else lines[:1]
                where = f"{self.command} {self.path.split('?')[0]}"
                server.requests.append((where, body))
                answer = server.answers[where]
                status, told = answer(body) if callable(answer) else answer
                sent = told.encode() if isinstance(told, str) else json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json; charset=UTF-8")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            do_GET = do_PUT = do_POST = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    client = opensearchpy.OpenSearch([server.address], max_retries=0)
    yield client
    client.close()


def mapped(encoder: str = "", dimension: int | None = None) -> Answer:
    """What GET shop/_mapping answers after `OpenSearchIndex.create`."""
    return 200, {"shop": {"mappings": index_body(dimension, encoder)["mappings"]}}


def error(kind: str, reason: str, status: int) -> Answer:
    cause = {"type": kind, "reason": reason, "index": "shop", "index_uuid": "_na_"}
    return status, {"error": {"root_cause": [cause], **cause}, "status": status}


def hits(*found: tuple[Listing, float]) -> dict[str, Any]:
    return {
        "took": 3,
        "timed_out": False,
        "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
        "hits": {
            "max_score": max((score for _, score in found), default=None),
            "hits": [
                {"_index": "shop", "_id": one.listing_id, "_score": score, "_source": {"listing": one.to_dict()}}
                for one, score in found
            ],
        },
        "status": 200,
    }


def searched(*answers: dict[str, Any]) -> Answer:
    return 200, {"took": 5, "responses": list(answers)}


def opened(server: Server, client: Any, encoder: Any = None, fingerprint: str = "") -> OpenSearchIndex:
    server.answers["GET /shop/_mapping"] = mapped(fingerprint, 3 if fingerprint else None)
    index = OpenSearchIndex.open(client, "shop", encoder=encoder)
    server.requests.clear()
    return index


class Lengths:
    """An encoder by the lengths of texts."""

    name = "lengths"
    fingerprint = "lengths"

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Vectors:
        return np.array([[len(text), 1.0, float(queries)] for text in texts], dtype=np.float32)


def words(text: str, operator: str = "or") -> dict[str, Any]:
    return {"multi_match": {"query": text, "type": "cross_fields", "operator": operator, "fields": FIELDS}}


def test_an_index_is_made_with_its_mapping(server: Server, client: Any) -> None:
    server.answers["PUT /shop"] = 200, {"acknowledged": True, "shards_acknowledged": True, "index": "shop"}
    OpenSearchIndex.create(client, "shop", encoder=Lengths(), shards=3, replicas=0)
    ((where, (body,)),) = server.requests
    assert where == "PUT /shop"
    assert body["settings"]["index"] == {"number_of_shards": 3, "number_of_replicas": 0, "knn": True}
    properties = body["mappings"]["properties"]
    assert properties["title"] == {"type": "text", "analyzer": "genrank", "search_analyzer": "genrank_query"}
    assert set(FIELDS) < set(properties)
    assert properties["brand"]["fields"]["exact"]["type"] == "keyword"
    assert properties["price"] == {"type": "double"}
    assert properties["in_stock"] == {"type": "boolean"}
    assert (properties["vector"]["type"], properties["vector"]["dimension"]) == ("knn_vector", 3)
    assert body["mappings"]["_meta"] == {"genrank": {"format": 1, "encoder": "lengths", "dimension": 3}}
    analysis = body["settings"]["analysis"]
    for analyzer in analysis["analyzer"].values():
        own = {name for name in analyzer["filter"] if name.startswith("genrank")}
        assert own <= set(analysis["filter"])
    OpenSearchIndex.create(client, "shop")
    assert "vector" not in server.requests[-1][1][0]["mappings"]["properties"]


def test_a_document_holds_what_filters_ask_for() -> None:
    assert document(DRESS) == {
        "title": "Red dress",
        "description": "For summer",
        "brand": "Ada",
        "category": "Women / Dresses",
        "category_path": ['["Women"]', '["Women", "Dresses"]'],
        "attributes": "colour red, white",
        "attribute_value": ['["colour", "red, white"]', '["colour", "red"]', '["colour", "white"]'],
        "price": 49.5,
        "currency": "EUR",
        "in_stock": False,
        "seller_id": "s1",
        "listing": DRESS.to_dict(),
    }
    assert document(COAT) == {"title": "Coat", "listing": COAT.to_dict()}
    assert "vector" not in document(COAT, np.zeros(3))
    known = set(index_body(3)["mappings"]["properties"])
    assert set(document(DRESS, np.ones(3))) == known, "the mapping is strict"


def test_listings_are_sent_in_bulk(server: Server, client: Any) -> None:
    index = opened(server, client, Lengths(), "lengths")
    server.answers["POST /_bulk"] = lambda lines: (
        200,
        {
            "took": 7,
            "errors": False,
            "items": [
                {"index": {"_index": "shop", "_id": line["index"]["_id"], "result": "created", "status": 201}}
                for line in lines[::2]
            ],
        },
    )
    assert index.add([DRESS, COAT]) == 2
    ((_, lines),) = server.requests
    assert lines[0] == {"index": {"_id": "p1", "_index": "shop"}}
    assert lines[1]["title"] == "Red dress"
    assert np.linalg.norm(lines[1]["vector"]) == pytest.approx(1)
    server.requests.clear()
    assert index.add([Listing(str(i), "Mug") for i in range(1001)]) == 1001
    assert [len(lines) // 2 for _, lines in server.requests] == [500, 500, 1]
    assert index.add([]) == 0
    with pytest.raises(InputError, match=r"listings\[1\]: must be a Listing or dict"):
        index.add([DRESS, "Mug"])  # type: ignore[list-item]


def test_a_refused_listing_is_named(server: Server, client: Any) -> None:
    index = opened(server, client)
    reason = "mapping set to strict, dynamic introduction of [title] within [_doc] is not allowed"
    refused = {"type": "strict_dynamic_mapping_exception", "reason": reason}
    items = [
        {"index": {"_index": "shop", "_id": "p1", "status": 201, "result": "created"}},
        {"index": {"_index": "shop", "_id": "p2", "status": 400, "error": refused}},
    ]
    server.answers["POST /_bulk"] = 200, {"took": 1, "errors": True, "items": items}
    with pytest.raises(ConfigError, match=r"refuses shop/p2: mapping set to strict.*OpenSearchIndex.create"):
        index.add([DRESS, COAT])


def test_listings_are_removed(server: Server, client: Any) -> None:
    index = opened(server, client)
    items = [
        {"delete": {"_index": "shop", "_id": "p1", "result": "deleted", "status": 200}},
        {"delete": {"_index": "shop", "_id": "no", "result": "not_found", "status": 404}},
    ]
    server.answers["POST /_bulk"] = 200, {"took": 1, "errors": False, "items": items}
    index.remove(["p1", "no"])
    assert [line["delete"]["_id"] for line in server.requests[0][1]] == ["p1", "no"]
    with pytest.raises(InputError, match="listing_ids"):
        index.remove("p1")


def test_a_query_of_words(server: Server, client: Any) -> None:
    index = opened(server, client)
    server.answers["POST /shop/_msearch"] = searched(hits((DRESS, 4.5), (COAT, 1.25)))
    found = index(Query("red dress"), count=20)
    assert [(one.listing, one.score, one.rank) for one in found] == [(DRESS, 4.5, 1), (COAT, 1.25, 2)]
    assert server.requests == [
        (
            "POST /shop/_msearch",
            [
                {"allow_partial_search_results": False},
                {
                    "query": {"bool": {"must": [words("red dress")]}},
                    "size": 20,
                    "_source": ["listing"],
                    "track_total_hits": False,
                },
            ],
        )
    ]


def test_every_filter_becomes_a_condition(server: Server, client: Any) -> None:
    index = opened(server, client)
    server.answers["POST /shop/_msearch"] = searched(hits())
    filters = Filters(
        price_min=0,
        price_max=50,
        currency="EUR",
        category=("Women", "Dresses"),
        brand="Ada",
        in_stock=False,
        attributes={"colour": "red"},
        seller_id="s1",
        without_words=("leather", "faux fur"),
        without_ids=frozenset({"p9", "p8"}),
    )
    assert index("dress", None, filters, 5) == []
    asked = server.requests[0][1][1]["query"]["bool"]
    assert asked["must"] == [words("dress")]
    assert asked["filter"] == [
        {"range": {"price": {"gte": 0.0, "lte": 50.0}}},
        {"term": {"currency": "EUR"}},
        {"term": {"brand.exact": "Ada"}},
        {"term": {"in_stock": False}},
        {"term": {"seller_id": "s1"}},
        {"term": {"category_path": '["Women", "Dresses"]'}},
        {"term": {"attribute_value": '["colour", "red"]'}},
    ]
    assert asked["must_not"] == [words("leather", "and"), words("faux fur", "and"), {"ids": {"values": ["p8", "p9"]}}]
    held = document(DRESS)
    assert '["Women", "Dresses"]' in held["category_path"]
    assert '["colour", "red"]' in held["attribute_value"]


def test_words_and_vectors_are_fused(server: Server, client: Any) -> None:
    index = opened(server, client, Lengths(), "lengths")
    server.answers["POST /shop/_msearch"] = searched(hits((DRESS, 4.5), (COAT, 1.0)), hits((COAT, 0.9), (HAT, 0.8)))
    found = index("dress", filters=Filters(brand="Ada"), count=2)
    assert [one.listing for one in found] == [COAT, DRESS]
    lines = server.requests[0][1]
    near = lines[3]["query"]["knn"]["vector"]
    assert near["k"] == lines[1]["size"] == lines[3]["size"] == 100
    assert near["filter"] == {"bool": {"filter": [{"term": {"brand.exact": "Ada"}}]}}
    assert near["vector"] == pytest.approx(np.array([5, 1, 1]) / np.sqrt(27))


INTENT = Intent(
    query="red dress by Ada",
    language="en",
    corrected="red dress by Ada",
    categories=(Guess(("Women", "Dresses"), 0.9),),
    brand=Guess("Ada", 1.0),
    attributes={"colour": Guess("red", 0.8)},
    excluded=("fur",),
)


def test_an_intent_filters_and_raises(server: Server, client: Any) -> None:
    index = opened(server, client)
    server.answers["POST /shop/_msearch"] = searched(hits((COAT, 3), (DRESS, 2)), hits((DRESS, 2)), hits((DRESS, 2)))
    assert [one.listing for one in index("red dress", INTENT, count=5)] == [DRESS, COAT]
    bodies = [line["query"]["bool"] for line in server.requests[0][1][1::2]]
    brand = {"term": {"brand.exact": "Ada"}}
    assert [one["filter"] for one in bodies] == [
        [brand],
        [brand, {"term": {"category_path": '["Women", "Dresses"]'}}],
        [brand, {"term": {"attribute_value": '["colour", "red"]'}}],
    ]
    assert all(one["must_not"] == [words("fur", "and")] for one in bodies)


def test_the_words_of_a_price_are_not_searched_for(server: Server, client: Any) -> None:
    server.answers["POST /shop/_msearch"] = searched(hits((DRESS, 3)))
    intent = Intent(query="dress under 60", language="en", corrected="dress under 60", most_price=60.0)
    opened(server, client)("dress under 60", intent)
    assert server.requests[0][1][1]["query"]["bool"]["must"] == [words("dress")]


def test_what_nothing_meets_is_given_up_but_not_the_callers_filters(server: Server, client: Any) -> None:
    index = opened(server, client)

    def answer(lines: Any) -> Answer:
        strict = "brand.exact" in json.dumps(lines)
        return searched(*(hits() if strict else hits((COAT, 1)) for _ in lines[1::2]))

    server.answers["POST /shop/_msearch"] = answer
    found = index("red dress", INTENT, Filters(in_stock=True), 5)
    assert [one.listing for one in found] == [COAT]
    first, second = (lines[1]["query"]["bool"] for _, lines in server.requests)
    assert len(first["filter"]) == 2
    assert second == {"must": [words("red dress")], "filter": [{"term": {"in_stock": True}}]}


def test_a_pipeline_takes_it_as_its_first_stage(server: Server, client: Any) -> None:
    server.answers["POST /shop/_msearch"] = searched(hits((DRESS, 4.5), (COAT, 1.25)))
    result = Pipeline(opened(server, client)).search("red dress", top_k=1)
    assert [item.listing for item in result.ranking] == [DRESS]
    assert result.found == 2


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (error("index_not_found_exception", "no such index [shop]", 404), InputError, "no index shop in OpenSearch"),
        (
            error("search_phase_execution_exception", "all shards failed", 503),
            EngineError,
            r"\(503\): all shards failed",
        ),
        (error("parsing_exception", "no field [brand.exact]", 400), ConfigError, "no field .*OpenSearchIndex.create"),
        ((401, "Unauthorized"), ConfigError, "refuses the client .401."),
        ((200, "<html>"), EngineError, "cannot be read"),
    ],
)
def test_errors_of_a_search_are_clear(
    server: Server, client: Any, answer: Answer, kind: type[Exception], said: str
) -> None:
    index = opened(server, client)
    server.answers["POST /shop/_msearch"] = answer
    with pytest.raises(kind, match=said):
        index("dress")
    if isinstance(answer[1], dict):  # of one search among several
        server.answers["POST /shop/_msearch"] = searched({"error": answer[1]["error"], "status": answer[0]})
        with pytest.raises(kind, match=said):
            index("dress")


def test_a_server_that_is_gone_is_named(server: Server, client: Any) -> None:
    index = opened(server, client)
    server.http.shutdown()
    server.http.server_close()
    for call in (lambda: index("dress"), lambda: index.add([DRESS]), index.refresh):
        with pytest.raises(EngineError, match="OpenSearch cannot be reached"):
            call()


def test_a_missing_a_foreign_and_an_existing_index_are_named(server: Server, client: Any) -> None:
    server.answers["GET /shop/_mapping"] = error("index_not_found_exception", "no such index [shop]", 404)
    with pytest.raises(InputError, match=r"no index shop in OpenSearch; make it with OpenSearchIndex\.create"):
        OpenSearchIndex.open(client, "shop")
    server.answers["GET /shop/_mapping"] = 200, {"shop": {"mappings": {"properties": {"title": {"type": "text"}}}}}
    with pytest.raises(ConfigError, match="does not have genrank's mapping"):
        OpenSearchIndex.open(client, "shop")
    server.answers["PUT /shop"] = error("resource_already_exists_exception", "index [shop/x] already exists", 400)
    with pytest.raises(InputError, match="has an index shop already"):
        OpenSearchIndex.create(client, "shop")


def test_vectors_of_another_encoder_are_refused(server: Server, client: Any) -> None:
    server.answers["GET /shop/_mapping"] = mapped("other", 3)
    with pytest.raises(ConfigError, match="holds the vectors of other, and the encoder is lengths"):
        OpenSearchIndex.open(client, "shop", encoder=Lengths())
    with pytest.raises(ConfigError, match="holds vectors of other"):
        OpenSearchIndex.open(client, "shop").add([DRESS])
    server.answers["GET /shop/_mapping"] = mapped()
    with pytest.raises(ConfigError, match="holds no vectors"):
        OpenSearchIndex.open(client, "shop", encoder=Lengths())


def test_a_document_without_a_listing_is_named(server: Server, client: Any) -> None:
    index = opened(server, client)
    strange = hits((DRESS, 1.0))
    strange["hits"]["hits"][0]["_source"] = {"title": "Red dress"}
    server.answers["POST /shop/_msearch"] = searched(strange)
    with pytest.raises(ConfigError, match="shop/p1 holds no listing"):
        index("dress")


@pytest.mark.parametrize("count", [0, 10_001, "8"])
def test_wrong_counts_are_named(server: Server, client: Any, count: int) -> None:
    with pytest.raises(InputError, match="count"):
        opened(server, client)("dress", count=count)
