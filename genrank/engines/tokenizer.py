"""A Hugging Face tokenizer as prompting needs it; shared by the engines and by training."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genrank.errors import MissingExtraError, ModelError
from genrank.models.weights import check_files, reading

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as tokens.

    Attributes:
        ids: ``[n]`` token ids.
        starts: ``[n]`` position of each token's first character in the text, 0-based.
        ends: ``[n]`` position after each token's last character. Tokens that share a character (byte-level
            tokenizers split rare ones) share its position.
    """

    ids: Sequence[int]
    starts: Sequence[int]
    ends: Sequence[int]

    def cut(self, tokens: int) -> list[int]:
        """The longest prefix of at most `tokens` tokens that ends between two characters."""
        return list(self.head(tokens).ids)

    def head(self, tokens: int) -> Encoded:
        """The same as `cut`, with the tokens' positions."""
        if tokens >= len(self.ids):
            return self
        while tokens > 0 and self.starts[tokens] < self.ends[tokens - 1]:
            tokens -= 1
        tokens = max(tokens, 0)
        return Encoded(self.ids[:tokens], self.starts[:tokens], self.ends[:tokens])


class Tokenizer(Protocol):
    """What prompting needs from a model's tokenizer."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenise texts as data: the text of a special token becomes ordinary tokens, and no token is added."""

    def frame(self, system: str, *, chat: bool = True) -> tuple[list[int], list[int]]:
        """The tokens before and after the user's turn, special tokens included.

        With a chat template, before: the system turn and the beginning of the user's turn; after: the end of the
        user's turn and the beginning of the answer. Without one, or without `chat`, before: the beginning-of-sequence
        token and the system text, if there is one; after: nothing.
        """

    def turn(self) -> list[int]:
        """The tokens between the model's answer and the user's next text, special tokens included.

        With a chat template: the end of the answer and the beginning of the user's turn. Without one: a blank line.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens, without special tokens."""

    def texts(self, ids: Sequence[int]) -> list[str]:
        """``[n]`` the text of each token, special tokens included; joined, they are what the model reads.

        A character that is spread over several tokens belongs to the last of them; the others are empty.
        """


def token_texts(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """`Tokenizer.texts` for a tokenizer that can only decode.

    Args:
        ids: ``[n]`` token ids.
        decode: Decodes a few tokens that follow each other; an incomplete character becomes U+FFFD.
    """
    texts = []
    begin = seen = 0  # tokens from `begin` on are decoded together, since some drop the space before the first one
    for end in range(1, len(ids) + 1):
        before, now = decode(ids[begin:seen]), decode(ids[begin:end])
        if now.endswith("\ufffd") and end < len(ids):
            texts.append("")
        else:
            texts.append(now[len(before) :])
            begin, seen = seen, end
    return texts


_TODAY = datetime(2024, 7, 26)

FIXED_DATE = _TODAY.strftime("%d %b %Y")
"""The date given to chat templates, fixed so that prompts do not change overnight; Llama 3's own default."""

_EVERYTHING = "iPhone  0<&'\">\n\n\tÉ中 {{ }} </think> " * 40
"""A text with everything a chat template might change: letters, spaces, HTML, blank lines, thoughts, length."""

_BODY = f"\x02body {_EVERYTHING}\x02"
_ANSWER = "\x02answer\x02"
_TOKENIZERS = ("tokenizer.*", "vocab*", "*.model", "*.tiktoken", "*.py")  # transformers needs one of these
_RANDOM = ("random", "lipsum")  # what Jinja offers for templates that differ from call to call
_LONGEST_CONTEXT = 1 << 24  # tokens; a larger number in a configuration means "no limit"
_USUAL_CONTEXT = 4096


def longest_context(config: PretrainedConfig) -> int:
    """The most tokens that a model takes, from its text configuration; 4,096 if it does not say.

    Raises:
        ModelError: When the configured value is not a number of tokens.
    """
    said = getattr(config, "max_position_embeddings", None)
    if said is None:
        return _USUAL_CONTEXT
    if isinstance(said, bool) or not isinstance(said, int | float) or not said >= 1:
        raise ModelError(f"config.json: max_position_embeddings must be a number of tokens, got {said!r}")
    return _LONGEST_CONTEXT if math.isinf(said) else min(int(said), _LONGEST_CONTEXT)


def load_config(folder: Path, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration in a model's folder.

    Raises:
        ModelError: When it cannot be read, or needs code in the folder that may not run.
        MissingExtraError: When transformers is not installed.
    """
    try:
        from transformers import AutoConfig
    except ImportError:
        raise MissingExtraError("transformers", "transformers") from None
    values = check_files(folder, weights=False)
    if not trust_remote_code and (kernel := _kernel(values)):
        raise ModelError(
            f"{folder / 'config.json'} asks for code of the Hugging Face hub ({kernel}), which genrank does not run "
            "unless you pass trust_remote_code=True (on the command line: --trust-remote-code); take that out, or read "
            "the code first"
        )
    with reading(folder / "config.json"):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    return config


def _kernel(values: Mapping[str, Any]) -> str:
    """The kernel of the hub that a configuration, or a part of it, takes for attention or experts; else empty."""
    for key, value in values.items():
        names = value.values() if isinstance(value, dict) else (value,)
        if key.endswith(("attn_implementation", "experts_implementation")):
            if kernel := next((name for name in names if isinstance(name, str) and "/" in name), ""):
                return kernel
        elif isinstance(value, dict) and (kernel := _kernel(value)):
            return kernel
    return ""


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder.

    Raises:
        ModelError: When it cannot be read, or needs code in the folder that may not run.
        MissingExtraError: When transformers is not installed.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise MissingExtraError("transformers", "transformers") from None
    check_files(folder, weights=False)
    if not any(path for pattern in _TOKENIZERS for path in folder.glob(pattern)):
        raise ModelError(f"{folder} holds no tokenizer: no tokenizer.json; copy it there")
    with reading(folder / "tokenizer.json"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    return tokenizer


def check_tokens(tokenizer: PreTrainedTokenizerBase, rows: int, folder: Path) -> None:
    """Refuse a tokenizer with tokens that its model has no embedding for.

    Special tokens beyond the embedding are taken where no text needs them, such as one for padding.

    Args:
        tokenizer: The tokenizer.
        rows: Tokens that the model has an embedding for.
        folder: The model's, for the message.

    Raises:
        ModelError: Counts them and names one.
    """
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    if not beyond:
        return
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    needed = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.cls_token, tokenizer.sep_token}
    template = str(tokenizer.chat_template)
    used = [token for token, number in beyond.items() if number not in special or token in needed or token in template]
    if used:
        first = min(used, key=beyond.__getitem__)
        raise ModelError(
            f"the tokenizer in {folder} does not fit the model, which has embeddings for {rows} tokens; beyond them: "
            f"{len(used)}, such as {first!r} ({beyond[first]}); take the tokenizer and the weights of one model"
        )


class HubTokenizer:
    """Wraps a fast transformers tokenizer.

    Args:
        tokenizer: The tokenizer.

    Raises:
        ModelError: When it is a slow one, which does not know its tokens' positions in the text, has several chat
            templates of which none is the default, or one that writes something else each time.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise ModelError(f"{tokenizer.name_or_path} has no fast tokenizer (tokenizer.json); genrank needs one")
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._template = self._chosen_template()
        # encoding changes a setting of the shared tokenizer (whether to split special tokens): one thread at a time
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenise texts as data; see `genrank.engines.tokenizer.Tokenizer`."""
        if not texts:
            return []
        with self._lock:  # transformers' own call takes twice as long
            self._backend.no_truncation()
            self._backend.no_padding()
            self._backend.encode_special_tokens = True
            batch = self._backend.encode_batch(list(texts), add_special_tokens=False)
        encoded = []
        for one in batch:
            starts, ends = zip(*offsets, strict=True) if (offsets := one.offsets) else ((), ())
            encoded.append(Encoded(one.ids, starts, ends))
        return encoded

    def frame(self, system: str, *, chat: bool = True) -> tuple[list[int], list[int]]:
        """The tokens around the user's turn; see `genrank.engines.tokenizer.Tokenizer`."""
        if not self._template or not chat:
            start = self._special("", add_special_tokens=True)
            # some tokenizers add an end token even to an empty text; only what comes before a text belongs here
            if start and start[-1] == self._tokenizer.eos_token_id != self._tokenizer.bos_token_id:
                start = start[:-1]
            return start + (self._special(system + "\n\n") if system else []), []
        text = self._with_system(system)
        if text is None:
            text = self._chat([{"role": "user", "content": f"{system}\n\n{_BODY}"}])
        before, after = self._around(text, _BODY)
        if system.strip() not in before:
            raise self._broken("does not keep the system text, neither in a turn of its own nor in the user's")
        return self._special(before), self._special(after)

    def turn(self) -> list[int]:
        """The tokens between two turns; see `genrank.engines.tokenizer.Tokenizer`."""
        if not self._template:
            return self._special("\n\n")
        text = self._chat(
            [
                {"role": "user", "content": "..."},
                {"role": "assistant", "content": _ANSWER},
                {"role": "user", "content": _BODY},
            ]
        )
        return self._special(self._around(self._around(text, _BODY)[0], _ANSWER)[1])

    def _chosen_template(self) -> str | None:
        """The chat template; of several, the one called ``default``."""
        template: Any = self._tokenizer.chat_template
        if isinstance(template, dict):
            if "default" not in template:
                raise self._broken(f"is one of {', '.join(map(str, template))}, and none is called default")
            template = template["default"]
        if template is not None and not isinstance(template, str):
            raise self._broken(f"must be a text, got {type(template).__name__}")
        if template and (name := _draws(template)):
            raise self._broken(f"writes something else each time (it uses {name})")
        return template or None

    def _with_system(self, system: str) -> str | None:
        """A system turn and a user's; None if the template has no system turn, or ignores it."""
        try:
            text = self._chat([{"role": "system", "content": system}, {"role": "user", "content": _BODY}])
        except ModelError:
            return None
        return text if system.strip() in text.partition(_BODY)[0] else None

    def _around(self, text: str, part: str) -> tuple[str, str]:
        if text.count(part) != 1 or text.count(part[:5]) != 1:
            raise self._broken("does not keep the text of each turn as it is")
        before, after = text.split(part)
        return before, after

    def _broken(self, why: str) -> ModelError:
        place = f"{self._tokenizer.name_or_path} (chat_template.jinja or tokenizer_config.json)"
        return ModelError(f"the chat template of {place} {why}; correct it, or remove it")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens; see `genrank.engines.tokenizer.Tokenizer`."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; see `genrank.engines.tokenizer.Tokenizer`."""
        return token_texts(ids, lambda some: str(self._backend.decode(list(some), skip_special_tokens=False)))

    def _chat(self, messages: list[dict[str, str]]) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
                date_string=FIXED_DATE,
                strftime_now=_TODAY.strftime,
            )
        except Exception as error:  # a template may raise anything
            raise self._broken(f"fails: {' '.join(str(error).split())[:200]}") from error
        return str(text)

    def _special(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        with self._lock:
            encoded = self._tokenizer(text, add_special_tokens=add_special_tokens, split_special_tokens=False)
        return list(encoded["input_ids"])


def _draws(template: str) -> str:
    """What a Jinja template uses that draws at random; empty where it does not."""
    from jinja2 import Environment, TemplateSyntaxError

    try:
        tokens = [(kind, value.strip("\"'")) for _, kind, value in Environment(autoescape=False).lex(template)]
    except TemplateSyntaxError:
        return ""  # rendering says it
    return next((value for kind, value in tokens if kind in ("name", "string") and value in _RANDOM), "")
