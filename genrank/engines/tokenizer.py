"""A Hugging Face tokenizer as prompting needs it; shared by the engines and by training."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genrank.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as tokens.

    Attributes:
        ids: ``[n]`` token ids.
        starts: ``[n]`` place of each token's first character in the text, 0-based.
        ends: ``[n]`` place after each token's last character. Tokens that share a character (byte-level
            tokenizers split rare ones) share its place.
    """

    ids: Sequence[int]
    starts: Sequence[int]
    ends: Sequence[int]

    def cut(self, tokens: int) -> list[int]:
        """The longest prefix of at most `tokens` tokens that ends between two characters."""
        return list(self.head(tokens).ids)

    def head(self, tokens: int) -> Encoded:
        """The same as `cut`, with its places."""
        if tokens >= len(self.ids):
            return self
        while tokens > 0 and self.starts[tokens] < self.ends[tokens - 1]:
            tokens -= 1
        tokens = max(tokens, 0)
        return Encoded(self.ids[:tokens], self.starts[:tokens], self.ends[:tokens])


class Tokenizer(Protocol):
    """What prompting needs of a model's tokenizer."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenise texts as data: a special token's text becomes ordinary tokens, nothing is added."""

    def frame(self, system: str) -> tuple[list[int], list[int]]:
        """The tokens before and after the user's turn, special tokens included.

        With a chat template: the system turn and the user turn's opening; the user turn's end and the opening
        of the answer. Without one: beginning of sequence and the system text; nothing.
        """

    def turn(self) -> list[int]:
        """The tokens between the end of the model's answer and the next text of the user, special tokens included.

        With a chat template: the end of the answer and the opening of the user's turn; without one: a blank line.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens, special ones left out."""


_BODY = "\x02body\x02"
_ANSWER = "\x02answer\x02"


def longest_context(config: PretrainedConfig) -> int:
    """The most tokens that a model takes, by its text configuration; 4,096 where that says nothing."""
    return getattr(config, "max_position_embeddings", None) or 4096


class HubTokenizer:
    """Wraps a fast tokenizer of transformers.

    Args:
        tokenizer: The tokenizer.

    Raises:
        ModelError: When it is a slow one, which cannot say where its tokens lie in the text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise ModelError(f"{tokenizer.name_or_path} has no fast tokenizer (tokenizer.json); genrank needs one")
        self._tokenizer = tokenizer
        # encoding flips a switch of the shared tokenizer (special tokens split or not), so one thread at a time
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenise texts as data; see `genrank.engines.tokenizer.Tokenizer`."""
        if not texts:
            return []
        with self._lock:
            batch = self._tokenizer(
                list(texts),
                add_special_tokens=False,
                split_special_tokens=True,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )
        return [
            Encoded(ids, [start for start, _ in offsets], [end for _, end in offsets])
            for ids, offsets in zip(batch["input_ids"], batch["offset_mapping"], strict=True)
        ]

    def frame(self, system: str) -> tuple[list[int], list[int]]:
        """The tokens around the user's turn; see `genrank.engines.tokenizer.Tokenizer`."""
        if not self._tokenizer.chat_template:
            start = self._special("", add_special_tokens=True)
            # some tokenizers end even an empty text; only what stands before a text belongs here
            if start and start[-1] == self._tokenizer.eos_token_id != self._tokenizer.bos_token_id:
                start = start[:-1]
            return start + self._special(system + "\n\n"), []
        text = self._chat([{"role": "system", "content": system}, {"role": "user", "content": _BODY}])
        if text is None:  # the template knows no system turn
            text = self._chat([{"role": "user", "content": f"{system}\n\n{_BODY}"}])
        before, after = self._around(text, _BODY)
        return self._special(before), self._special(after)

    def turn(self) -> list[int]:
        """The tokens between two turns; see `genrank.engines.tokenizer.Tokenizer`."""
        if not self._tokenizer.chat_template:
            return self._special("\n\n")
        text = self._chat(
            [
                {"role": "user", "content": "..."},
                {"role": "assistant", "content": _ANSWER},
                {"role": "user", "content": _BODY},
            ]
        )
        return self._special(self._around(self._around(text, _BODY)[0], _ANSWER)[1])

    def _around(self, text: str | None, part: str) -> tuple[str, str]:
        if text is None or text.count(part) != 1:
            raise ModelError(f"the chat template of {self._tokenizer.name_or_path} does not keep the text of each turn")
        before, after = text.split(part)
        return before, after

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens; see `genrank.engines.tokenizer.Tokenizer`."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _chat(self, messages: list[dict[str, str]]) -> str | None:
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError:
            return None
        return str(text)

    def _special(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        with self._lock:
            encoded = self._tokenizer(text, add_special_tokens=add_special_tokens, split_special_tokens=False)
        return list(encoded["input_ids"])
