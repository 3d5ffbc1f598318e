from __future__ import annotations

from contextlib import closing

import httpx
import pytest

from genrank.errors import EngineError, InputError, ModelNotFoundError
from genrank.pictures import Pictures
from genrank.remote import connect as module
from genrank.remote.chat_engine import ChatEngine
from genrank.remote.connect import connect
from genrank.remote.vllm_server import VLLMServer
from genrank.reranker import Reranker
from tests.chat_double import ChatDouble
from tests.vllm_double import VLLMDouble, double

URL = "http://host:8000/v1"


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> VLLMDouble:
    """vLLM's server, whose model's tokenizer is on this machine."""
    server = double({"1": 2.0, "2": 1.0})
    monkeypatch.setattr("genrank.remote.vllm_server.resolve", lambda name: name)
    monkeypatch.setattr("genrank.remote.vllm_server.load_tokenizer", lambda folder, **_: folder)
    monkeypatch.setattr("genrank.remote.vllm_server.HubTokenizer", lambda _: server.oracle.tokenizer)
    return server


def test_vllms_server_is_asked_by_tokens(vllm: VLLMDouble) -> None:
    with closing(connect(URL, transport=vllm.transport)) as made:
        assert isinstance(made, VLLMServer)
        assert made.model == "m"


def test_a_vllm_that_scores_no_chosen_tokens_is_asked_as_a_chat(vllm: VLLMDouble) -> None:
    vllm.ignored = frozenset(["logprob_token_ids"])
    chat = ChatDouble({})
    tokens = vllm._serve

    async def handler(request: httpx.Request) -> httpx.Response:
        return chat._serve(request) if request.url.path.endswith("/chat/completions") else await tokens(request)

    with closing(connect(URL, transport=httpx.MockTransport(handler))) as made:
        assert isinstance(made, ChatEngine)


@pytest.mark.parametrize("models", [None, [{"id": "m", "owned_by": "library"}]])
def test_any_other_server_is_asked_as_a_chat(models: list[dict[str, str]] | None) -> None:
    with closing(connect(URL, "m", transport=ChatDouble({}, models=models).transport)) as made:
        assert isinstance(made, ChatEngine)


def test_vllm_is_asked_as_a_chat_where_the_model_is_to_see_pictures() -> None:
    listed = [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]
    with closing(connect(URL, pictures=True, transport=ChatDouble({}, models=listed, top=20).transport)) as made:
        assert isinstance(made, ChatEngine)
        assert made.context == 4096


def test_tokens_hold_no_pictures(vllm: VLLMDouble) -> None:
    with (
        closing(connect(URL, transport=vllm.transport)) as made,
        pytest.raises(InputError, match="chat messages") as why,
    ):
        Reranker(engine=made, pictures=Pictures(data_urls=True))
    assert why.value.field == "pictures"


def test_a_model_that_vllm_does_not_serve_is_an_error_and_no_chat(vllm: VLLMDouble) -> None:
    with pytest.raises(ModelNotFoundError, match="does not serve other"):
        connect(URL, "other", transport=vllm.transport)


def test_a_reranker_takes_an_address_and_closes_what_it_opened(
    vllm: VLLMDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def through_the_double(url: str, *args: object, **options: object) -> VLLMServer | ChatEngine:
        opened.append(connect(url, *args, **options, transport=vllm.transport))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr(module, "connect", through_the_double)
    with Reranker(engine="http://host:8000") as reranker:
        ranking = reranker.rerank("q", ["title 0", "title 1", "title 2"])
    assert [item.listing_id for item in ranking] == ["1", "2", "0"]
    assert (ranking.provenance.model, ranking.provenance.engine) == ("m", "vllm-server (one pass, masked)")
    assert not opened[0]._http.close.alive
    with pytest.raises(InputError, match="passes"):
        Reranker(engine="http://host:8000", decoding="inline", passes=0)
    assert not opened[1]._http.close.alive, "closed, because the reranker was not made"


def test_no_server_is_an_engine_error() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(EngineError, match=r"^http://host:8000/v1/models failed 4 times.*connection refused"):
        connect(URL, transport=httpx.MockTransport(refuse))
