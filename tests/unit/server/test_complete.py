from __future__ import annotations

import shutil

import pytest

from tests.unit.server.conftest import Serve
from tests.unit.server.test_openapi import examine

pytest.importorskip("pypinyin")

from genrank.search.completion import Completion
from genrank.search.index import Index


@pytest.fixture(scope="module")
def suggesting(folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index of the sample shop, with suggestions."""
    path = tmp_path_factory.mktemp("suggesting") / "index"
    shutil.copytree(folder, path)
    with Index.open(path) as index:
        Completion.of(index, {"linen dress for summer": 5}).close()
    return str(path)


def test_queries_are_suggested(serve: Serve, suggesting: str) -> None:
    client = serve(search={"index": suggesting})
    answer = client.get("/v1/complete", params={"prefix": "linen dr", "count": 2})
    assert answer.status_code == 200
    assert answer.json()["prefix"] == "linen dr"
    first, *others = answer.json()["suggestions"]
    assert (first["text"], first["source"], first["match"]) == ("linen dress for summer", "query", "prefix")
    assert len(others) <= 1
    assert client.get("/v1/complete", params={"prefix": "lianyi"}).json()["suggestions"][0]["match"] == "sound"
    assert client.get("/v1/complete", params={"prefix": " "}).json()["suggestions"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "prefix"),
        (f"prefix={'x' * 1001}", "prefix"),
        ("prefix=a&count=0", "count"),
        ("prefix=a&count=51", "count"),
        ("prefix=a&count=many", "count"),
    ],
)
def test_what_is_wrong_is_named(serve: Serve, suggesting: str, query: str, field: str) -> None:
    answer = serve(search={"index": suggesting}).get(f"/v1/complete?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field)


def test_without_suggestions_the_path_says_how_to_make_them(serve: Serve, folder: str) -> None:
    client = serve(search={"index": folder})
    answer = client.get("/v1/complete", params={"prefix": "a"})
    assert answer.status_code == 404
    assert "genrank complete" in answer.json()["message"]
    assert "/v1/complete" not in client.get("/openapi.json").json()["paths"]


def test_a_key_guards_it(serve: Serve, suggesting: str) -> None:
    client = serve(search={"index": suggesting}, keys=["secret-key-1"])
    assert client.get("/v1/complete", params={"prefix": "lin"}).status_code == 401
    sent = {"Authorization": "Bearer secret-key-1"}
    assert client.get("/v1/complete", params={"prefix": "lin"}, headers=sent).json()["suggestions"]


def test_it_answers_as_described(serve: Serve, suggesting: str) -> None:
    examine(serve, "/v1/complete", "GET", 25, search={"index": suggesting})
