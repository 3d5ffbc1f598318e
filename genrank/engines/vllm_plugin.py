"""A logits processor for vLLM that allows only permutations as answers.

vLLM's own server loads it with ``--logits-processors genrank.engines.vllm_plugin:PermutationProcessor``. A request
switches it on with `IDENTIFIERS` and `BETWEEN` in ``SamplingParams.extra_args``, which is ``vllm_xargs`` over HTTP. It
is written for vLLM's V1 model runner; if vLLM would use V2 (on a GPU), start it with ``VLLM_USE_V2_MODEL_RUNNER=0``.

Each forced token costs a step of the server, so `genrank.engines.vllm.VLLMEngine` uses sessions instead.
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
    """Masks each step of a request by its `PermutationMask`; requests without one are left alone.

    After the last identifier, only the request's own end tokens are allowed, if it has any.
    """

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Check a request's mask before the model sees the request.

        Raises:
            InputError: When the arguments are not lists of token ids, or do not make a valid mask.
        """
        _mask(sampling_params)

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

        def apply(written: list[int], logits: torch.Tensor) -> torch.Tensor:
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
