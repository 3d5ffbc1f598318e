"""Keeps the keys and values of prompts' heads (`genrank.engines.base.ScoreRequest.head`), each looked up exactly.

What all prompts of a template begin with, the lead, is stored once, and each head holds only what comes after it.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genrank.engines.prefixes import common_prefix

if TYPE_CHECKING:
    from torch import Tensor

    from genrank.engines.caches import Buffer, Packing
    from genrank.engines.snapshots import Snapshot


@dataclass(frozen=True, slots=True)
class Head:
    """The keys and values of a prompt's first tokens.

    Attributes:
        lead: ``[lead_tokens, row]`` those of the lead, as they are; None without one.
        rest: Those of the tokens after it, as the store's `Packing` keeps them.
        tokens: How many tokens the head has, lead included.
        opening: Tokens after the head whose keys and values are kept too.
    """

    lead: Tensor | None
    rest: Tensor
    tokens: int
    opening: tuple[int, ...] = ()

    def known(self, ids: Sequence[int]) -> int:
        """How many first tokens of a prompt that has this head are kept."""
        return self.tokens + common_prefix(self.opening, ids[self.tokens : self.tokens + len(self.opening)])

    def fill(self, buffer: Buffer, row: int, known: int, packing: Packing) -> None:
        """Write the first `known` tokens into a row of a buffer."""
        start = 0
        if self.lead is not None:
            start = len(self.lead)
            buffer.of(row, 0, start).copy_(self.lead)
        packing.decode(self.rest[: known - start], buffer.of(row, start, known))


class KeptHeads:
    """A least-recently-used store of heads. May be used from several threads.

    Args:
        room: The most bytes of keys and values to hold.
        packing: How to hold them.

    Attributes:
        room: See above.
        packing: See above.
        taken: Bytes of keys and values that are held.
        snapshot: Holds more heads, in a file, which do not count; None without one.
    """

    def __init__(self, room: int, packing: Packing) -> None:
        self.packing = packing
        self.taken: int = 0
        self.snapshot: Snapshot | None = None
        self.room = room
        self._heads: OrderedDict[bytes, Head] = OrderedDict()  # the latest used last
        self._leads: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._heads)

    def find(self, ids: Sequence[int]) -> Head | None:
        """The head that consists of exactly these tokens; None if it is not kept.

        Raises:
            EngineError: When it is in the snapshot, and that is damaged.
        """
        key = key_of(ids)
        with self._lock:
            if (head := self._heads.get(key)) is not None:
                self._heads.move_to_end(key)
                return head
            snapshot = self.snapshot
        return snapshot.find(key) if snapshot is not None else None

    def find_lead(self, ids: Sequence[int]) -> Tensor | None:
        """``[tokens, row]`` keys and values of a lead; None if it is not kept."""
        key = key_of(ids)
        with self._lock:
            if (rows := self._leads.get(key)) is None and self.snapshot is not None:
                rows = self.snapshot.leads().get(key)
            return rows

    def pack(self, ids: Sequence[int], rows: Tensor, *, lead: int, opening: Sequence[int] = ()) -> Head:
        """Copy a head out of a batch, as this store holds heads; `put` keeps it.

        Args:
            ids: ``[tokens]`` the head, lead included.
            rows: ``[tokens + opening, row]`` its keys and values, and those of the opening.
            lead: How many of its first tokens are the lead.
            opening: The tokens after it.
        """
        shared = self.put_lead(ids[:lead], rows[:lead]) if lead else None
        return Head(shared, self.packing.encode(rows[lead:]), len(ids), tuple(opening))

    def put(self, ids: Sequence[int], head: Head) -> None:
        """Keep a head, dropping the least recently used ones; one that is too large is not kept."""
        key, size = key_of(ids), head.rest.nbytes
        with self._lock:
            if (old := self._heads.pop(key, None)) is not None:
                self.taken -= old.rest.nbytes
            if size > self.room:
                return
            while self.taken + size > self.room:
                _, oldest = self._heads.popitem(last=False)
                self.taken -= oldest.rest.nbytes
            self._heads[key] = head
            self.taken += size

    def put_lead(self, ids: Sequence[int], rows: Tensor) -> Tensor:
        """Keep a lead, and return its keys and values, which all heads that begin with it share."""
        key = key_of(ids)
        with self._lock:
            if key not in self._leads:
                if len(self._leads) == _MOST_LEADS:
                    self._leads.popitem(last=False)
                self._leads[key] = rows.clone()
            return self._leads[key]


_MOST_LEADS = 64  # templates and languages in use at once; few, so that they need no budget


def key_of(ids: Sequence[int]) -> bytes:
    """Tokens as a key of a dictionary that takes little memory."""
    return array("i", ids).tobytes()
