"""A logits processor for vLLM that allows only permutations as answers.

vLLM's own server loads it with ``--logits-processors genrank.engines.vllm_plugin:PermutationProcessor``, as
``genrank vllm`` does. A request switches it on with `genrank.engines.mask.IDENTIFIERS` and
`genrank.engines.mask.BETWEEN` in ``SamplingParams.extra_args``, which is ``vllm_xargs`` over HTTP.

vLLM has two model runners with an interface each, and only knows at its start which one it takes: V2 where there is a
GPU, otherwise V1. `PermutationProcessor` is a class of both, and makes the processor for the runner that asks.

Each forced token costs a step of the server, so `genrank.engines.vllm.VLLMEngine` uses sessions instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from genrank.engines.mask import BETWEEN, IDENTIFIERS, PermutationMask
from genrank.errors import InputError, MissingExtraError

try:
    import torch
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor import AdapterLogitsProcessor
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor
except ImportError as _error:
    raise MissingExtraError(_error.name or "vllm", "vllm") from None

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState


class PermutationProcessor(AdapterLogitsProcessor, LogitsProcessor):  # type: ignore[misc,unused-ignore]
    """Masks each step of a request by its `PermutationMask`; requests without one are left alone.

    After the last identifier, only the request's own end tokens are allowed, if it has any.
    """

    def __new__(cls, vllm_config: Any, *state: Any) -> Any:
        """The processor for the runner that asks: V1 gives a device and whether memory is pinned, V2 its requests."""
        return PermutationV1(vllm_config, *state) if len(state) == 2 else PermutationV2(vllm_config, *state)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Check a request's mask before the model sees the request.

        Raises:
            InputError: When the arguments are not lists of token ids, or do not make a valid mask.
        """
        _mask(sampling_params)


class PermutationV1(AdapterLogitsProcessor):  # type: ignore[misc,unused-ignore]
    """`PermutationProcessor` for the V1 model runner."""

    def is_argmax_invariant(self) -> bool:
        """False: the likeliest token may be masked."""
        return False

    def new_req_logits_processor(
        self, params: SamplingParams
    ) -> Callable[[list[int], torch.Tensor], torch.Tensor] | None:
        """The function that masks one request's logits, ``[vocabulary]``; None without a mask."""
        mask = _mask(params)
        if mask is None:
            return None
        ends = tuple(params.all_stop_token_ids)
        return lambda written, logits: _masked(mask, ends, written, logits)


class PermutationV2(LogitsProcessor):  # type: ignore[misc,unused-ignore]
    """`PermutationProcessor` for the V2 model runner.

    What a request has written is read from the runner's own state, in each step with a mask in it. The drafts of
    speculative decoding have a row each.
    """

    def __init__(self, vllm_config: Any, req_states: LogitsProcRequestState) -> None:
        super().__init__(vllm_config, req_states)
        self._states = req_states
        self._masks: dict[int, tuple[PermutationMask, tuple[int, ...]]] = {}  # by the request's slot

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """See `PermutationProcessor.validate_params`."""
        _mask(sampling_params)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Set the mask of a slot, which may have been another request's; returns whether it has one."""
        mask = _mask(sampling_params)
        self._masks.pop(req_idx, None)
        if mask is not None:
            self._masks[req_idx] = mask, tuple(sampling_params.all_stop_token_ids)
        return mask is not None

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """Mask the rows ``[rows, vocabulary]`` of requests with a mask, in place."""
        if not any(slot in self._masks for slot in ctx.idx_mapping_np.tolist()):
            return logits
        slots, drafts = ctx.expanded_idx_mapping.tolist(), ctx.expanded_local_pos.tolist()
        places, fed = ctx.pos.tolist(), ctx.input_ids.tolist()
        for row, slot in enumerate(slots):
            if slot not in self._masks:
                continue
            begin = int(self._states.prompt_len.np[slot])
            # this row's drafts stand in the rows before it, and are not among the tokens yet
            end = places[row] + 1 - drafts[row]
            written = self._states.all_token_ids.gpu[slot, begin : max(begin, end)].tolist()
            written += fed[row + 1 - drafts[row] : row + 1]
            mask, ends = self._masks[slot]
            logits[row] = _masked(mask, ends, written, logits[row])
        return logits


def _masked(mask: PermutationMask, ends: tuple[int, ...], written: list[int], logits: torch.Tensor) -> torch.Tensor:
    """The logits ``[vocabulary]`` of the tokens that may follow `written`; those of all others are minus infinity."""
    try:
        allowed = mask.allowed(written) or ends
    except InputError:  # another parameter of the request overrode the mask
        return logits
    # an error here would stop the server, and only here can a token outside the vocabulary be detected
    known = [token for token in allowed if token < logits.shape[-1]]
    if not known:
        return logits
    masked = torch.full_like(logits, -torch.inf)
    masked[known] = logits[known]
    return masked


def _mask(params: SamplingParams) -> PermutationMask | None:
    extra: dict[str, Any] = params.extra_args or {}
    if IDENTIFIERS not in extra:
        if BETWEEN in extra:
            raise InputError(f"must come with {IDENTIFIERS}", field=BETWEEN)
        return None
    return PermutationMask(_tokens(extra[IDENTIFIERS], IDENTIFIERS), _tokens(extra.get(BETWEEN, []), BETWEEN))


def _tokens(value: object, field: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or any(type(token) is not int or token < 0 for token in value):
        raise InputError(f"must be a list of token ids, got {value!r}", field=field)
    return tuple(value)
