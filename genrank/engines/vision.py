"""Turns pictures into what a vision-language model of transformers reads: tokens that stand for them, and numbers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrank.engines.tokenizer import HubTokenizer
from genrank.errors import EngineError, MissingExtraError, ModelError
from genrank.models.weights import reading
from genrank.pictures.preparing import Picture, check_pillow
from genrank.progress import quiet_loading

try:
    import torch
    from transformers import AutoProcessor
except ImportError as _error:
    raise MissingExtraError(_error.name or "transformers", "transformers") from None

_BODY = "\x02body\x02"


@dataclass(frozen=True, slots=True)
class Seen:
    """A prompt with its picture, as its model reads it.

    Attributes:
        ids: ``[tokens]`` the prompt's tokens, with those that stand for the picture.
        added: How many of them stand for it.
        marks: Per-token inputs besides the ids, ``[tokens]`` each, by name.
        pixels: The picture's own inputs by name, ``[1 or patches, ...]``.
    """

    ids: list[int]
    added: int
    marks: dict[str, list[int]]
    pixels: dict[str, torch.Tensor]

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for prompts that can be read in one batch."""
        return tuple((name, *value.shape[1:]) for name, value in sorted(self.pixels.items()))


class SeeingTokenizer(HubTokenizer):
    """The tokenizer of a model that looks at pictures, whose chat template may want texts as parts of a message."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._in_parts = False
        if self._template:
            try:
                kept = _BODY in self._chat([{"role": "user", "content": _BODY}])
            except ModelError:
                kept = False
            self._in_parts = not kept

    def _chat(self, messages: Sequence[dict[str, Any]]) -> str:
        if self._in_parts:
            messages = [
                one | {"content": [{"type": "text", "text": one["content"]}]}
                if isinstance(one["content"], str)
                else one
                for one in messages
            ]
        return super()._chat(list(messages))

    def around_picture(self) -> str | None:
        """What the chat template writes for a picture that begins the user's turn; None without such a template."""
        if not self._template:
            return None
        text = [{"type": "text", "text": _BODY}]
        try:
            plain, seen = (
                self._chat([{"role": "user", "content": content}]).partition(_BODY)
                for content in (text, [{"type": "image"}, *text])
            )
        except ModelError:
            return None
        fits = plain[1] and seen[1] and seen[0].startswith(plain[0]) and seen[2] == plain[2]
        return seen[0][len(plain[0]) :] if fits and seen[0] != plain[0] else None


class PictureReader:
    """Reads pictures with the processor in a model's folder.

    Args:
        folder: The model's folder.
        tokenizer: The model's.
        trust_remote_code: Whether to run code in the folder.

    Raises:
        ModelError: When there is no processor for pictures, or it cannot be loaded.
        MissingExtraError: When Pillow is not installed.
    """

    def __init__(self, folder: Path, tokenizer: SeeingTokenizer, *, trust_remote_code: bool = False) -> None:
        check_pillow()
        self._lock = threading.Lock()  # the processor's tokenizer takes one call at a time
        kind: Any = AutoProcessor
        with quiet_loading(), reading(folder):
            try:
                self._processor: Any = kind.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=trust_remote_code
                )
            except (ImportError, ValueError) as error:
                if "torchvision" not in str(error).lower():
                    raise
                raise ModelError(
                    f"the processor of pictures in {folder} needs torchvision; install the one that fits your torch "
                    "(pip install torchvision), or serve the model with vLLM and pass its address as engine"
                ) from error
        if getattr(self._processor, "image_processor", None) is None:
            raise ModelError(f"{folder} holds no processor of pictures: no processor_config.json; copy it there")
        token = getattr(self._processor, "image_token", None)
        self._text = tokenizer.around_picture() or token
        if not isinstance(self._text, str):
            raise ModelError(f"neither the chat template nor the processor in {folder} says where a picture goes")

    def see(self, ids: Sequence[int], picture: Picture, at: int) -> Seen:
        """Put a picture into a prompt.

        Args:
            ids: ``[tokens]`` the prompt without it.
            picture: The picture.
            at: The place of the token that comes after it, 0-based.

        Raises:
            EngineError: When the processor fails.
        """
        image = picture.image()
        try:
            with self._lock:
                found = self._processor(
                    text=[self._text], images=[image], return_tensors="pt", add_special_tokens=False
                )
        except Exception as error:  # processors raise all kinds of errors
            raise EngineError(f"the picture cannot be read by the model's processor: {error}") from error
        read = dict(found)
        stand_in = read.pop("input_ids")
        read.pop("attention_mask", None)
        after = len(ids) - at
        marks = {
            name: [0] * at + value[0].tolist() + [0] * after
            for name, value in read.items()
            if value.shape == stand_in.shape
        }
        inside = stand_in[0].tolist()
        pixels = {name: value for name, value in read.items() if name not in marks}
        return Seen([*ids[:at], *inside, *ids[at:]], len(inside), marks, pixels)


def batch(prompts: Sequence[Seen], pad: int, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The inputs of a model for prompts of one `Seen.shape`, padded on the right.

    Args:
        prompts: ``[b]``.
        pad: A token for the padding.
        device: Where the model is.
        dtype: Of its weights.
    """
    width = max(len(one.ids) for one in prompts)

    def rows(values: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in values], device=device)

    inputs = {
        "input_ids": rows([one.ids for one in prompts], pad),
        "attention_mask": rows([[1] * len(one.ids) for one in prompts], 0),
    }
    for name in prompts[0].marks:
        inputs[name] = rows([one.marks[name] for one in prompts], 0)
    for name in prompts[0].pixels:
        value = torch.cat([one.pixels[name] for one in prompts]).to(device)
        inputs[name] = value.to(dtype) if value.is_floating_point() else value
    return inputs
