from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.arguments import GrpoArguments, parse_grpo
from finetune.data import Skipped, make_example
from finetune.grpo import AnswerForm, EpochRepeats, OrderMask, Question, make_questions, reward_functions
from finetune.windows import TrainingWindow, WindowOptions, draw_windows
from genrank.data.dataset import sample_shop
from genrank.engines.mask import PermutationMask
from genrank.errors import ConfigError, InputError
from genrank.prompting.renderer import Renderer
from genrank.prompting.template import load_template
from genrank.testing import WordTokenizer
from genrank.types import Candidate, Listing, Query

END = 9999


def window(*gains: float) -> TrainingWindow:
    brands = ["Lux", "Lux", "Nova", "Nova"]
    candidates = tuple(Candidate(Listing(f"l{i}", f"lamp {i}", brand=brands[i % 4])) for i in range(len(gains)))
    return TrainingWindow(Query("red lamp", "q1"), (), candidates, gains)


def renderer(*, chat: bool = True) -> Renderer:
    return Renderer(load_template("listwise"), WordTokenizer(chat=chat))


def test_a_prompt_has_the_tokens_of_training_and_serving() -> None:
    windows = list(draw_windows(sample_shop(), "train", WindowOptions(least=2, most=20, random_negatives=3)))[:20]
    own = renderer()
    questions = list(make_questions(windows, own, max_tokens=4000))
    assert len(questions) == len(windows)
    for question, drawn in zip(questions, windows, strict=True):
        example = make_example(drawn, "listwise", own, 4000, random.Random(0))
        assert list(question.ids) == list(example.input_ids[: example.reads[0] + 1])
        assert (question.window, question.reason_for) == (drawn, None)


@pytest.mark.parametrize("chat", [True, False])
def test_a_reason_is_asked_for_one_of_the_best_as_in_serving(chat: bool) -> None:
    own = renderer(chat=chat)
    windows = [window(0, 3, 3, 1)] * 40
    questions = list(make_questions(windows, own, max_tokens=4000, reasons=1.0))
    assert {question.reason_for for question in questions} == {1, 2}
    prepared = own.prepare(windows[0].query, windows[0].candidates)
    for question in questions:
        assert question.reason_for is not None
        assert question.ids == prepared.reason(question.reason_for, max_tokens=4000).ids


def test_a_share_asks_for_reasons_and_nothing_is_asked_of_a_window_without_a_fit() -> None:
    windows = [window(0, 3), window(-1, 0)] * 50
    questions = list(make_questions(windows, renderer(), max_tokens=4000, reasons=0.5))
    asked = [question.reason_for for question in questions if question.reason_for is not None]
    assert 15 < len(asked) < 35
    assert set(asked) == {1}


def test_what_does_not_fit_is_counted() -> None:
    skipped = Skipped()
    windows = [window(*range(20)), window(0, 1)]
    (left,) = make_questions(windows, renderer(), max_tokens=150, skipped=skipped)
    assert left.window is windows[1]
    assert skipped.why == {"order: more than 150 tokens": 1}


@pytest.mark.parametrize("chat", [True, False])
@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 12))
def test_under_the_mask_an_answer_is_a_whole_order_and_ends(chat: bool, seed: int, n: int) -> None:
    own = renderer(chat=chat)
    answer_form = AnswerForm(own, [END])
    mask = OrderMask(answer_form, [n, None])
    chance = random.Random(seed)
    written: list[int] = []
    vocabulary = len(own.tokenizer._ids) + 1  # type: ignore[attr-defined]
    while True:
        scores = mask(torch.tensor([[0, 1, *written], [2, 3, *written]]), torch.zeros(2, vocabulary))
        assert not scores[1].any()
        if not scores[0].any():
            break
        written.append(chance.choice(scores[0].isfinite().nonzero()[:, 0].tolist()))
    assert len(written) == answer_form.length(n)
    *said, end = written
    assert end in answer_form.ends
    text = answer_form.written(own.tokenizer.decode(said))
    functions, _ = reward_functions(GrpoArguments(format_weight=1.0), [Question((), window(*range(n)))], answer_form)
    _, form = (function([text[1:]], [0]) for function in functions)
    assert form == [1.0]
    own_choice = answer_form.choices(n, len(written))
    permutation = PermutationMask(own.answer.identifiers[:n], own.answer.between)
    free = [int(len(permutation.allowed(written[:at])) > 1) for at in range(n + (n - 1) * len(own.answer.between))]
    assert own_choice == [*free, *[0] * len(answer_form.closing)]


def test_rewards_stand_only_where_they_apply() -> None:
    questions = [Question((), window(0, 3, 1, 0)), Question((), window(0, 3), 1)]
    grpo = GrpoArguments(reasons=0.5, ndcg_weight=2.0, diversity_weight=0.5, diversity_depth=2)
    functions, weights = reward_functions(grpo, questions, AnswerForm(renderer(), [END]))
    assert [function.__name__ for function in functions] == ["ndcg", "diversity", "grounding"]
    assert weights == [2.0, 0.5, 1.0]
    texts = ["B] > [C] > [A] > [D]", "It is lamp 1 by Lux."]
    assert [function(completions=texts, number=[0, 1], prompts=[]) for function in functions] == [
        [1.0, None],
        [1.0, None],
        [None, 1.0],
    ]


def test_without_reasons_none_is_rewarded() -> None:
    functions, weights = reward_functions(GrpoArguments(), [Question((), window(0, 1))], AnswerForm(renderer(), [END]))
    assert ([function.__name__ for function in functions], weights) == (["ndcg"], [1.0])


def test_the_order_of_prompts_hangs_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochRepeats(range(10), mini_repeat_count=2, batch_size=2, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 0) != order(1, 0)
    assert sorted(order(0, 1)) == sorted([*range(10)] * 2)


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "field", "words"),
        [
            ({"datasets": []}, "datasets", "must not be empty"),
            ({"share": 0.0}, "share", "must be above 0"),
            ({"max_tokens": 0}, "max_tokens", "must be at least 1, got 0"),
            ({"reasons": 1.5}, "reasons", "must be a chance, 0 to 1, got 1.5"),
            ({"ndcg_weight": -1.0}, "ndcg_weight", "must not be negative, got -1.0"),
            ({"grounding_weight": float("nan")}, "grounding_weight", "must not be negative, got nan"),
            ({"diversity_depth": 0}, "diversity_depth", "must be at least 1, got 0"),
            ({"ndcg_weight": 0.0}, "ndcg_weight", "must not be 0"),
            ({"reasons": 0.5, "grounding_weight": 0.0}, "grounding_weight", "reasons: 0"),
        ],
    )
    def test_a_wrong_option_is_named_with_its_value(self, options: dict[str, Any], field: str, words: str) -> None:
        with pytest.raises(InputError) as caught:
            GrpoArguments(**options)
        assert caught.value.field == field
        assert words in str(caught.value)

    def test_the_command_line_goes_before_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "my.yaml"
        file.write_text("reasons: 0.5\nuse_cpu: true\nbf16: false\nnum_generations: 2\nbeta: 0.1\n")
        grpo, training, model = parse_grpo(["--config", str(file), "--beta", "0.2"], "prog")
        assert (grpo.reasons, training.beta, training.num_generations, model.use_peft) == (0.5, 0.2, 2, True)
        assert not training.remove_unused_columns
        assert training.disable_dropout

    def test_what_trl_refuses_is_a_wrong_call(self) -> None:
        with pytest.raises(ConfigError, match="num_generations"):
            parse_grpo(["--num_generations", "3", "--per_device_train_batch_size", "4", "--bf16", "false"], "prog")
