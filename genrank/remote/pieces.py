"""A tokenizer for models whose own is not known: it counts pieces of text, and keeps turns apart."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from genrank.engines.tokenizer import Encoded

_PIECE = re.compile(r" ?[A-Za-z][a-z]{0,5}| ?[0-9]{1,3}| ?[^A-Za-z0-9\s]|\s", re.DOTALL)
_BITS = 21  # of a code point
_SYSTEM, _USER, _ASSISTANT = -1, -2, -3
_ROLES = {_SYSTEM: "system", _USER: "user", _ASSISTANT: "assistant"}


class PieceTokenizer:
    """Cuts a text into pieces of up to six letters, three digits or one other character, with the space before it.

    A capital letter begins a piece. That makes about as many pieces as models have tokens. A piece's id is its
    characters, so nothing has to be kept. Turns begin with ids of their own, from which `messages` makes the messages
    of a chat request.
    """

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """See `genrank.engines.tokenizer.Tokenizer`."""
        encoded = []
        for text in texts:
            pieces = _PIECE.findall(text)
            ends = list(itertools.accumulate(map(len, pieces)))
            encoded.append(Encoded([_pack(piece) for piece in pieces], [0, *ends[:-1]] if ends else [], ends))
        return encoded

    def frame(self, system: str, *, chat: bool = True) -> tuple[list[int], list[int]]:
        """See `genrank.engines.tokenizer.Tokenizer`."""
        if not chat:
            (before,) = self.encode([f"{system}\n\n" if system else ""])
            return [_USER, *before.ids], []
        (before,) = self.encode([system])
        return [*((_SYSTEM, *before.ids) if system else ()), _USER], [_ASSISTANT]

    def turn(self) -> list[int]:
        """See `genrank.engines.tokenizer.Tokenizer`."""
        return [_USER]

    def decode(self, ids: Sequence[int]) -> str:
        """See `genrank.engines.tokenizer.Tokenizer`."""
        return "".join(_unpack(piece) for piece in ids if piece >= 0)

    def texts(self, ids: Sequence[int]) -> list[str]:
        """See `genrank.engines.tokenizer.Tokenizer`; a turn begins with its role in angle brackets."""
        return [_unpack(piece) if piece >= 0 else f"<{_ROLES[piece]}>" for piece in ids]

    def begun(self, ids: Sequence[int]) -> str:
        """The answer that has begun at the end of a prompt; empty if none has."""
        last = max((at for at, piece in enumerate(ids) if piece < 0), default=-1)
        return self.decode(ids[last:]) if last >= 0 and ids[last] == _ASSISTANT else ""

    def messages(self, ids: Sequence[int]) -> list[dict[str, str]]:
        """The messages of a chat request; an answer that has only begun, or not at all, is left out."""
        turns: list[tuple[int, list[int]]] = []
        for piece in ids:
            if piece < 0:
                turns.append((piece, []))
            else:
                turns[-1][1].append(piece)
        if turns and turns[-1][0] == _ASSISTANT:
            turns.pop()
        return [{"role": _ROLES[role], "content": self.decode(said).strip("\n")} for role, said in turns]


def _pack(piece: str) -> int:
    packed = 0
    for character in reversed(piece):
        packed = packed << _BITS | (ord(character) + 1)
    return packed


def _unpack(packed: int) -> str:
    characters = []
    while packed:
        characters.append(chr((packed & ((1 << _BITS) - 1)) - 1))
        packed >>= _BITS
    return "".join(characters)
