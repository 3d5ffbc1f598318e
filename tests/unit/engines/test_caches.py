"""What the transformers engine computes once instead of again changes no answer; tiny models with random weights."""

from __future__ import annotations

import itertools
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from genrank.engines.base import PermuteRequest, ScoreRequest, Stop, TextRequest
from genrank.engines.drafts import Draft
from genrank.engines.mask import PermutationMask
from genrank.errors import EngineError, InputError

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
transformers = pytest.importorskip("transformers", reason="get it with: pip install 'genrank[transformers]'")

WORDS = 90
END = 2
WINDOW = 8  # of the sliding layers
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": 0,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "full": lambda: transformers.LlamaConfig(**SIZES),
    "sliding": lambda: transformers.Gemma3TextConfig(
        **SIZES,
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
    "recurrent": lambda: transformers.Lfm2Config(**SIZES, layer_types=["conv", "full_attention", "conv"]),
}


def save_tiny(folder: Path, kind: str) -> str:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    torch.manual_seed(1)
    config = CONFIGS[kind]()
    config.initializer_range = 0.3  # so that answers differ
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token=f"w{END}").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: save_tiny(tmp_path_factory.mktemp(kind), kind) for kind in CONFIGS}


def make_engine(folder: str, **options: Any) -> Any:
    from genrank.engines.transformers import TransformersEngine

    return TransformersEngine(folder, **{"dtype": "float32"} | options)


@pytest.fixture(params=list(CONFIGS))
def engine(request: pytest.FixtureRequest, folders: dict[str, str]) -> Any:
    return make_engine(folders[request.param])


def tokens(count: int, seed: int) -> tuple[int, ...]:
    chance = random.Random(seed)
    return tuple(chance.randrange(3, WORDS) for _ in range(count))


def logits(engine: Any, ids: Sequence[int]) -> Any:
    with torch.inference_mode():
        return engine._lm(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


def assert_exact(engine: Any, requests: Sequence[ScoreRequest], results: Sequence[Any]) -> None:
    for request, result in zip(requests, results, strict=True):
        expected = logits(engine, request.ids)[list(request.reads)][:, list(request.targets)]
        torch.testing.assert_close(torch.tensor(result.scores), expected, atol=1e-4, rtol=0)
        assert result.tokens.prompt == len(request.ids)


def score_request(before: Sequence[int], tail: int, seed: int, **options: Any) -> ScoreRequest:
    ids = (*before, *tokens(tail, seed))
    return ScoreRequest(ids, [len(before), len(ids) - 1], [3, 4, 5], **options)


def forward_passes(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes ``(rows, tokens)`` of the forward passes from now on."""
    passes: list[tuple[int, ...]] = []
    forward = engine._forward

    def count(**inputs: Any) -> Any:
        passes.append(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    monkeypatch.setattr(engine, "_forward", count)
    return passes


def test_a_shared_prefix_is_computed_once(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head = tokens(100, 0)
    requests = [score_request(head, tail, seed) for seed, tail in enumerate((30, 9, 17), 1)] + [
        score_request((), 40, 9)
    ]
    passes = forward_passes(engine, monkeypatch)
    results = engine.score(requests)
    assert_exact(engine, requests, results)
    if engine._layout:
        assert sorted(result.tokens.cached for result in results) == [0, 0, 100, 100]  # the first one pays
        assert sorted(passes) == [(1, 40), (1, 100), (3, 30)]
    else:
        assert [result.tokens.cached for result in results] == [0] * 4


def test_a_state_that_is_read_is_computed(folders: dict[str, str]) -> None:
    """Two prompts that are the same up to their last token, read at places within."""
    engine = make_engine(folders["full"])
    head = tokens(150, 0)
    requests = [ScoreRequest((*head, last), [90, 120], [3, 4]) for last in (5, 6)]
    results = engine.score(requests)
    assert_exact(engine, requests, results)
    assert [result.tokens.cached for result in results] == [0, 90]


def test_few_shared_tokens_are_not_worth_a_pass(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(folders["full"])
    passes = forward_passes(engine, monkeypatch)
    engine.score([score_request(tokens(20, 0), 10, seed) for seed in (1, 2)])
    assert passes == [(2, 30)]


def read_behind(head: Sequence[int], tail: int, seed: int, **options: Any) -> ScoreRequest:
    """A prompt that begins with a head and is read at its end."""
    ids = (*head, *tokens(tail, seed))
    return ScoreRequest(ids, [len(ids) - 1], [3, 4, 5], head=len(head), **options)


def test_a_head_that_was_kept_is_not_computed_again(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of different lengths, tails of different lengths, a new head and a prompt without one: each exact."""
    heads = [tokens(count, seed) for seed, count in enumerate((30, 9, 17))]
    cold = [read_behind(head, 6, seed) for seed, head in enumerate(heads, 10)]
    results = engine.score(cold)
    assert_exact(engine, cold, results)
    assert [result.found for result in results] == [False] * 3
    passes = forward_passes(engine, monkeypatch)
    warm = [read_behind(head, 3 + seed % 2, seed) for seed, head in enumerate(heads, 20)]
    warm += [read_behind(tokens(12, 8), 5, 30), score_request((), 8, 31)]
    results = engine.score(warm)
    assert_exact(engine, warm, results)
    keeps = engine._layout is not None
    assert [result.found for result in results] == [keeps] * 3 + [False] * 2
    assert [result.tokens.cached for result in results] == ([30, 9, 17, 0, 0] if keeps else [0] * 5)
    assert sorted(passes) == ([(2, 17), (3, 4)] if keeps else [(5, 33)])


def test_a_head_is_read_once_for_prompts_of_one_call(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(folders["sliding"])
    passes = forward_passes(engine, monkeypatch)
    head = tokens(30, 0)
    requests = [read_behind(head, 4, seed) for seed in range(1, 4)]
    results = engine.score([*requests, requests[0]])
    assert_exact(engine, [*requests, requests[0]], results)
    assert passes == [(1, 34), (3, 4)]
    assert [result.found for result in results] == [False, True, True, True]


def test_the_opening_is_kept_with_its_head(folders: dict[str, str]) -> None:
    engine = make_engine(folders["full"])
    head, opening = tokens(20, 0), tokens(3, 1)

    def behind(more: tuple[int, ...], opens: int) -> ScoreRequest:
        ids = (*head, *more)
        return ScoreRequest(ids, [len(ids) - 1], [3, 4], lead=4, head=20, opening=opens)

    other = (opening[0], WORDS - 1, *opening)
    asked = [
        (behind((5, 6), 0), 0),
        (behind((*opening, 7), 3), 20),  # found without an opening, and kept again with it
        (behind((*opening, 8, 9), 3), 23),
        (behind(other, 0), 21),  # a history, say, comes after the head
        (behind((*opening, 9), 3), 23),
        (behind(opening, 3), 22),  # what is read is computed
    ]
    for request, known in asked:
        (result,) = engine.score([request])
        assert_exact(engine, [request], [result])
        assert result.tokens.cached == known


def test_a_lead_is_stored_once(folders: dict[str, str]) -> None:
    engine = make_engine(folders["full"])
    lead = tokens(40, 0)
    prompts = [read_behind((*lead, *tokens(10, seed)), 4, seed, lead=40) for seed in (1, 2, 3)]
    assert_exact(engine, prompts, engine.score(prompts))
    row = engine._layout.width * 4
    assert engine._kept.taken == 3 * 10 * row
    for request in ([read_behind((*lead, *tokens(9, 7)), 4, 7, lead=40)], [TextRequest((*lead, 5, 6), 3, lead=40)]):
        (result,) = (engine.write if isinstance(request[0], TextRequest) else engine.score)(request)
        assert result.tokens.cached == 40


def test_heads_are_kept_as_far_as_there_is_room(folders: dict[str, str]) -> None:
    layers, heads, width, numbers, four_bytes = 3, 2, 8, 2, 4
    room = 100 * layers * heads * width * numbers * four_bytes
    prompts = [read_behind(tokens(100, seed), 3, seed) for seed in range(3)]
    for kept_bytes, expected in ((room, [0, 0, 100]), (2 * room, [0, 100, 100]), (room - 1, [0] * 3), (0, [0] * 3)):
        engine = make_engine(folders["full"], kept_bytes=kept_bytes)
        for prompt in prompts:
            engine.score([prompt])
        assert engine._kept.taken <= kept_bytes
        results = [engine.score([read_behind(prompt.ids[:100], 5, 9)])[0] for prompt in reversed(prompts)]
        assert [result.tokens.cached for result in reversed(results)] == expected


def test_kept_as_int8_takes_less_memory_and_changes_little(folders: dict[str, str]) -> None:
    exact, small = (make_engine(folders["sliding"], kept_dtype=kind) for kind in ("auto", "int8"))
    prompts = [read_behind(tokens(40, seed), 3, seed, lead=4) for seed in range(3)]
    warm = [read_behind(prompt.ids[:40], 5, 9, lead=4) for prompt in prompts]
    scores = []
    for engine in (exact, small):
        engine.score(prompts)
        results = engine.score(warm)
        assert all(result.found for result in results)
        scores.append(torch.tensor([result.scores for result in results]))
    assert small._kept.taken < exact._kept.taken / 2
    assert 0 < (scores[0] - scores[1]).abs().max() < 0.2
    with pytest.raises(InputError, match="kept_dtype: must be auto or int8, got 'int4'"):
        make_engine(folders["full"], kept_dtype="int4")


def test_heads_can_be_read_without_scores(engine: Any) -> None:
    heads = [tokens(count, seed) for seed, count in enumerate((30, 9, 30))]
    requests = [ScoreRequest(head, (), (), lead=2, head=len(head) - 3, opening=3) for head in heads]
    if engine._layout is None:
        with pytest.raises(EngineError, match="nothing can be kept"):
            engine.keep(requests)
        return
    assert [result.found for result in engine.keep([*requests, requests[0]])] == [False] * 4
    assert [result.found for result in engine.keep(requests)] == [True] * 3
    warm = [ScoreRequest((*head, 5, 6), [len(head) + 1], [3], lead=2, head=len(head) - 3) for head in heads]
    results = engine.score(warm)
    assert_exact(engine, warm, results)
    assert [result.tokens.cached for result in results] == [30, 9, 30]
    assert engine.keep([ScoreRequest(tokens(8, 9), (), (), head=8)], stop=After(0)) == [None]


def greedy(engine: Any, request: TextRequest) -> list[int]:
    """Token by token, without a cache; the end included."""
    written: list[int] = []
    while len(written) < request.max_tokens and not ({*request.ends, END} & set(written)):
        written.append(int(logits(engine, [*request.ids, *written])[-1].argmax()))
    return written


def assert_greedy(engine: Any, requests: Sequence[TextRequest], results: Sequence[Any]) -> None:
    for request, result in zip(requests, results, strict=True):
        expected = greedy(engine, request)
        text = expected[:-1] if expected and expected[-1] in (*request.ends, END) else expected
        assert result.text == engine.tokenizer.decode(text)
        assert result.tokens.completion == len(expected)


def test_texts_behind_one_lead(engine: Any) -> None:
    """Several reasons of two queries, of different lengths, beside a text of its own: all written together."""
    lead, query = tokens(60, 0), tokens(70, 1)
    engine.write([TextRequest((*lead, 5), 1, lead=60)])
    asked = [(*lead, *tokens(10, 2)), (*lead, *query, *tokens(21, 3)), (*lead, *query, *tokens(7, 6))]
    requests = [*(TextRequest(ids, 12, lead=60) for ids in asked), TextRequest(tokens(12, 5), 12)]
    results = engine.write(requests)
    assert_greedy(engine, requests, results)
    known = [60, 60, 130, 0] if engine._layout else [0] * 4  # the first of a query pays
    assert sorted(result.tokens.cached for result in results) == sorted(known)


@pytest.mark.parametrize("seed", range(3))
def test_guessed_tokens_change_no_text(engine: Any, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Several rows at once, each as far as its guesses are right; one in four is wrong."""
    requests = [TextRequest(tokens(size, seed + size), most) for size, most in ((30, 25), (9, 18), (21, 3))]
    texts = {request.ids: greedy(engine, request) for request in requests}
    chance = random.Random(seed)

    class Told(Draft):
        def __init__(self, ids: Iterable[int]) -> None:
            self.left = [*texts.get(tuple(ids), ())]

        def add(self, ids: Iterable[int]) -> None:
            del self.left[: len(list(ids))]

        def guess(self, most: int) -> list[int]:
            return [token if chance.random() < 0.75 else 3 for token in self.left[:most]]

    monkeypatch.setattr("genrank.engines.transformers.Draft", Told)
    passes = forward_passes(engine, monkeypatch)
    results = engine.write(requests)
    together = [shape for shape in passes if shape[0] == len(requests)]
    assert_greedy(engine, requests, results)
    longest = max(map(len, texts.values()))
    assert (len(together) < longest * 2 // 3) == (engine._layout is not None)


def test_a_large_batch_takes_no_guesses(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(folders["full"])
    requests = [TextRequest((5, 6) * 9, 4)] * 9
    passes = forward_passes(engine, monkeypatch)
    results = engine.write(requests)
    assert {tokens for rows, tokens in passes[1:] if rows == 9} == {1}
    monkeypatch.undo()
    assert_greedy(engine, requests, results)


def test_a_text_ends_at_an_end_that_is_no_part_of_it(folders: dict[str, str]) -> None:
    engine = make_engine(folders["full"])
    ids = tokens(20, 3)
    written = greedy(engine, TextRequest(ids, 8))
    end = next(token for token in written[1:] if token != written[0])
    requests = [TextRequest(ids, 8, ends=[end]), TextRequest(ids, 8), TextRequest(ids, 3), TextRequest(ids, 0)]
    results = engine.write(requests)
    assert_greedy(engine, requests, results)
    assert results[0].tokens.completion == written.index(end) + 1
    assert results[3].text == ""


def orders_by_generate(engine: Any, request: PermuteRequest) -> tuple[int, ...]:
    from genrank.engines.transformers import PermutationLogitsProcessor

    mask = PermutationMask(tuple(request.identifiers), tuple(request.between))
    n = len(mask.identifiers)
    out = engine._lm.generate(
        torch.tensor([list(request.ids)]),
        attention_mask=torch.ones(1, len(request.ids), dtype=torch.long),
        max_new_tokens=n + (n - 1) * len(mask.between),
        eos_token_id=None,
        do_sample=False,
        logits_processor=[PermutationLogitsProcessor(mask, len(request.ids))],
    )
    return mask.order(out[0, len(request.ids) :].tolist())


def test_orders_are_those_of_generate_under_the_logits_processor(engine: Any) -> None:
    head = tokens(80, 0)
    requests = [
        PermuteRequest((*head, *tokens(9, 1)), (10, 11, 12, 13, 14), (7, 8)),
        PermuteRequest((*head, *tokens(4, 2)), (20, 21, 22), (7, 8)),
        PermuteRequest(tokens(31, 3), (20, 21), (7,)),
        PermuteRequest(tokens(11, 4), (20, 10, 21, 11), ()),
        PermuteRequest(tokens(11, 4), (20,), (7, 8)),
    ]
    for request, result in zip(requests, engine.permute(requests), strict=True):
        n = len(request.identifiers)
        assert result.order == (orders_by_generate(engine, request) if n > 1 else (0,))
        assert result.tokens.completion == n + (n - 1) * len(request.between)


def test_only_choices_cost_a_forward_pass(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(folders["full"])
    passes = forward_passes(engine, monkeypatch)
    engine.permute(
        [PermuteRequest(tokens(12, 0), (10, 11, 12, 13), (7, 8)), PermuteRequest(tokens(9, 1), (10,), (7, 8))]
    )
    assert passes == [(1, 12), (1, 3), (1, 3)]  # three choices of four identifiers: the prompt, then [identifier, 7, 8]


class After(Stop):
    """Says stop from the question `count` on, 0-based."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._asked = itertools.count()
        self._count = count

    def __call__(self) -> bool:
        return next(self._asked) >= self._count


def test_a_stopped_call_answers_what_is_done(folders: dict[str, str]) -> None:
    engine = make_engine(folders["full"], batch_tokens=1)
    scores = [score_request((), size, size) for size in (30, 20, 10)]
    orders = [PermuteRequest(tokens(size, size), (10, 11, 12), (7,)) for size in (30, 20)]
    texts = [TextRequest(tokens(size, size), 4) for size in (30, 20)]
    for ask, requests in ((engine.score, scores), (engine.permute, orders), (engine.write, texts)):
        whole = ask(requests)
        assert None not in whole
        seen = set()
        for count in range(80):
            stopped = ask(requests, stop=After(count))
            assert all(answer in (None, full) for answer, full in zip(stopped, whole, strict=True))
            seen.add(sum(answer is not None for answer in stopped))
        assert {0, len(requests)} <= seen
        assert ask(requests) == whole  # nothing is left behind


def test_a_pass_is_given_up_between_two_layers(folders: dict[str, str]) -> None:
    engine = make_engine(folders["full"])
    kept = read_behind(tokens(90, 0), 1, 0)
    engine.score([kept])
    follow = ScoreRequest([*kept.ids[:90], 5, 6, 7], [92], [3], head=90)
    assert engine.score([follow], stop=After(2)) == [None], "asked before the pass and before its first layer"
    (again,) = engine.score([kept])
    (after,) = engine.score([follow])
    assert_exact(engine, [kept, follow], [again, after])
    assert after.tokens.cached == 90


def test_what_is_finished_is_published_under_its_request(folders: dict[str, str]) -> None:
    engine = make_engine(folders["full"], batch_tokens=1)
    scores = [score_request((), size, size) for size in (30, 20)]
    orders = [PermuteRequest(tokens(size, size), (10, 11, 12)[:n], (7,)) for size, n in ((30, 3), (20, 2))]
    texts = [TextRequest(tokens(size, size), most) for size, most in ((30, 4), (20, 2))]
    for ask, requests in ((engine.score, scores), (engine.permute, orders), (engine.write, texts)):
        stop = Stop()
        answers = ask(requests, stop=stop)
        assert [stop.finished(request) for request in requests] == answers


def test_before_a_deadline_prompts_are_read_in_smaller_batches(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(folders["full"])
    requests = [score_request((), 50, seed) for seed in range(4)]
    passes = forward_passes(engine, monkeypatch)
    engine._seconds_a_token = 0.0
    engine.score(requests, stop=Stop(time.monotonic() + 100))
    assert passes == [(1, 50)] * 4, "it has read no long prompt yet, and cannot tell how long one takes"
    passes.clear()
    engine._seconds_a_token = 1.0
    answers = engine.score([*requests, score_request((), 400, 9)], stop=Stop(time.monotonic() + 210))
    assert passes[0] == (2, 50), "two take half of the time left; one of 400 tokens cannot end in time"
    assert [answer is not None for answer in answers] == [True] * 4 + [False]
    passes.clear()
    engine.score(requests)
    assert passes == [(4, 50)]


def test_a_closed_engine_holds_no_model(folders: dict[str, str]) -> None:
    with make_engine(folders["full"]) as engine:
        model = weakref.ref(engine._lm)
        assert engine.score([score_request((), 10, 0, head=10)])[0]
    engine.close()
    assert model() is None
    for ask, request in (
        (engine.score, score_request((), 10, 0)),
        (engine.permute, PermuteRequest((1, 2), (10, 11), (7,))),
        (engine.write, TextRequest((1, 2), 3)),
    ):
        with pytest.raises(EngineError, match="is closed"):
            ask([request])


def test_a_call_that_waits_for_another_can_be_stopped(folders: dict[str, str]) -> None:
    engine = make_engine(folders["full"])
    with engine._lock:
        assert engine.score([score_request((), 10, 0)], stop=After(2)) == [None]


def test_threads_get_their_own_answers(folders: dict[str, str]) -> None:
    engine = make_engine(folders["sliding"], kept_bytes=200_000)
    head = tokens(80, 0)
    requests = [read_behind(head[: 30 + 7 * (seed % 4)], 5 + seed, seed, lead=seed % 3) for seed in range(6)]
    failures: list[BaseException] = []

    def work(mine: Sequence[ScoreRequest]) -> None:
        try:
            for _ in range(3):
                assert_exact(engine, mine, engine.score(mine))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(requests[i : i + 3],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_an_error_leaves_the_engine_usable(folders: dict[str, str]) -> None:
    engine = make_engine(folders["full"])
    with pytest.raises(EngineError, match="failed"):
        engine.score([ScoreRequest([1, 2, WORDS + 5], [0], [3])])
    request = score_request((), 10, 0)
    assert_exact(engine, [request], engine.score([request]))
    with pytest.raises(InputError, match="kept_bytes: must be at least 0, got -1"):
        make_engine(folders["full"], kept_bytes=-1)


def test_packed_weights_give_the_same_scores(folders: dict[str, str]) -> None:
    engine = make_engine(folders["full"], dtype="bfloat16")
    plain = transformers.AutoModelForCausalLM.from_pretrained(folders["full"], dtype=torch.bfloat16).eval()
    request = score_request((), 40, 0)
    (result,) = engine.score([request])
    with torch.inference_mode():
        expected = plain(input_ids=torch.tensor([request.ids])).logits[0, list(request.reads)][:, list(request.targets)]
    torch.testing.assert_close(torch.tensor(result.scores), expected.float(), atol=0.1, rtol=0.05)
