"""llama.cpp's own server and llama-cpp-python's, started here with a real model, as plain chat endpoints."""

from __future__ import annotations

import itertools
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from genrank import Reranker, sample_shop
from genrank.errors import EngineError
from tests import llama_cpp
from tests.servers import started

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(1200)]
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'genrank[remote]'")

from genrank.remote.chat_engine import ChatEngine  # noqa: E402 - after the skip
from genrank.remote.grammar import OrderForm  # noqa: E402
from genrank.remote.http import RefusedError  # noqa: E402

KEY = "key-of-the-test"
LEVELS = {
    "llama.cpp": "chat (grammar, top 20 log-probabilities)",
    "llama-cpp-python": "chat (grammar, top 20 log-probabilities)",
}


@contextmanager
def llama(server: str, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A running server's address and its process; the key is in the environment."""
    if reason := llama_cpp.missing(server):
        pytest.skip(reason)

    def command(port: int) -> list[str]:
        return llama_cpp.command(server, port, KEY)

    threads = {"OMP_NUM_THREADS": "1"}
    with (
        pytest.MonkeyPatch.context() as patch,
        started(command, "/v1/models", log, environment=threads, key=KEY) as (url, process),
    ):
        patch.setenv("GENRANK_API_KEY", KEY)
        yield f"{url}/v1", process


@pytest.fixture(scope="module", params=list(LEVELS))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server's name and its address."""
    with llama(request.param, tmp_path_factory.mktemp("llama") / "log") as (url, _):
        yield request.param, url


@pytest.fixture(scope="module")
def remote(served: tuple[str, str]) -> Iterator[ChatEngine]:
    with closing(ChatEngine(served[1], timeout=600.0)) as made:
        yield made


def titles(count: int, start: int = 0) -> list[str]:
    listings = [listing.title for listing in sample_shop().listings.values()]
    return list(itertools.islice(itertools.cycle(listings), start, start + count))


def test_the_level_is_found(served: tuple[str, str], remote: ChatEngine) -> None:
    assert remote.name == LEVELS[served[0]]
    assert remote.model == llama_cpp.MODEL
    assert remote.decodings == ("pointwise", "listwise")


def test_every_order_is_a_permutation_without_repairs(served: tuple[str, str], remote: ChatEngine) -> None:
    reranker = Reranker(engine=remote, decoding="listwise")
    sizes = [2, 3, 4, 5] * 4 + [9, 9, 12, 20]
    orders = [reranker.rerank("warm winter coat", titles(n, 3 * i)) for i, n in enumerate(sizes)]
    for n, ranking in zip(sizes, orders, strict=True):
        provenance = ranking.provenance
        assert (provenance.engine, provenance.outcome) == (LEVELS[served[0]], "model")
        assert provenance.repairs == ()
        assert sorted(int(item.listing_id) for item in ranking) == list(range(n))
        assert provenance.tokens.completion >= 2 * n - 1


def test_an_order_goes_on_from_where_it_was_cut(served: tuple[str, str]) -> None:
    form = OrderForm("ABCDEF", "[", "] > [")
    body: dict[str, Any] = {
        "model": llama_cpp.MODEL,
        "messages": [{"role": "user", "content": "Write the letters A to F in any order: [B] > [A] > [F]"}],
        "temperature": 0.0,
        "repeat_penalty": 1.0,
        "max_tokens": 64,
    }

    headers = {"Authorization": f"Bearer {KEY}"}

    def written(places: list[int]) -> list[int]:
        asked = body | {"grammar": form.grammar(places)}
        answer = httpx.post(f"{served[1]}/chat/completions", json=asked, headers=headers, timeout=600)
        return form.read(answer.json()["choices"][0]["message"]["content"])

    whole = written([])
    assert sorted(whole) == [0, 1, 2, 3, 4, 5]
    for cut in (1, 4):
        assert written(whole[:cut]) == whole


def test_scores_are_those_of_the_likeliest_tokens(remote: ChatEngine) -> None:
    ranking = Reranker(engine=remote).rerank("warm winter coat", titles(3))
    provenance = ranking.provenance
    assert (provenance.decoding, provenance.outcome) == ("pointwise", "model")
    scores = [item.score for item in ranking]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    assert all(0 < score < 1 for score in scores)


def test_another_key_is_refused_with_the_fix(served: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRANK_API_KEY", "wrong")
    with pytest.raises(RefusedError, match=r"HTTP 401 .*GENRANK_API_KEY") as caught:
        ChatEngine(served[1], llama_cpp.MODEL)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("server", list(LEVELS))
def test_a_server_that_is_killed_leaves_a_complete_ranking(server: str, tmp_path: Path) -> None:
    with (
        llama(server, tmp_path / "log") as (url, process),
        closing(ChatEngine(url, llama_cpp.MODEL, attempts=1, timeout=600.0)) as engine,
    ):
        reranker = Reranker(engine=engine, decoding="listwise")
        threading.Timer(1.0, process.kill).start()  # an order of 40 takes longer than that
        ranking = reranker.rerank("warm winter coat", titles(40))
        provenance = ranking.provenance
        assert process.wait() < 0
        assert (provenance.outcome, provenance.cause) == ("fallback", "engine-error")
        assert "check that the server is running" in provenance.why
        assert [int(item.listing_id) for item in ranking] == list(range(40))
        with pytest.raises(EngineError, match="check that the server is running"):
            ChatEngine(url, llama_cpp.MODEL, attempts=1)
