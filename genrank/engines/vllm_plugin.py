"""A logits processor for vLLM that lets an answer be nothing but a permutation.

vLLM's own server loads it, ``--logits-processors genrank.engines.vllm_plugin:PermutationProcessor``; a request switches
it on by `IDENTIFIERS` and `BETWEEN` in ``SamplingParams.extra_args``, which is ``vllm_xargs`` over HTTP. It is written
for vLLM's V1 model runner; where vLLM takes the V2 one (a GPU), start it with ``VLLM_USE_V2_MODEL_RUNNER=0``.

Each forced token costs a step of the server, so `genrank.engines.vllm.VLLMEngine` goes another way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genrank.engines.mask import PermutationMask
from genrank.errors import InputError, MissingExtraError

try:
    import torch
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor import AdapterLogitsProcessor
except ImportError as error:
    raise MissingExtraError(error.name or "vllm", "vllm") from None

IDENTIFIERS = "genrank_identifiers"
"""Key of the candidates' tokens, ``[n]``."""

BETWEEN = "genrank_between"
"""Key of the tokens between two identifiers; may be left out."""


class PermutationProcessor(AdapterLogitsProcessor):  # type: ignore[misc,unused-ignore]
    """Masks each step of a request by its `PermutationMask`; other requests it leaves alone.

    After the last identifier only the request's own end tokens may come, where it has any.
    """

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request whose mask is wrong, before the model sees it.

        Raises:
            InputError: When the arguments are no lists of token ids, or make no mask.
        """
        _mask(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """False: the likeliest token may be masked."""
        return False

    def new_req_logits_processor(
        self, params: SamplingParams
    ) -> Callable[[list[int], torch.Tensor], torch.Tensor] | None:
        """What masks the logits ``[vocabulary]`` of one request; None without a mask."""
        mask = _mask(params)
        if mask is None:
            return None
        ends = tuple(params.all_stop_token_ids)

        def apply(written: list[int], logits: torch.Tensor) -> torch.Tensor:
            try:
                allowed = mask.allowed(written) or ends
            except InputError:  # another parameter of the request overruled the mask
                return logits
            # an error here would end the server, and a token outside the vocabulary is seen here only
            known = [token for token in allowed if token < logits.shape[-1]]
            if not known:
                return logits
            masked = torch.full_like(logits, -torch.inf)
            masked[known] = logits[known]
            return masked

        return apply


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
