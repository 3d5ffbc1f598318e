"""Batches without padding: the sequences of a step share rows, and none sees another.

Positions begin again at 0 with each sequence. Given no attention mask, transformers finds the sequences by that and
masks each from the others, in full and in sliding attention. `keeps_apart` tries whether it does for a model.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

_AS_MUCH = 4000  # tokens of a row at which attention, which is computed over the whole row, costs as much as the rest


def pack(lengths: Sequence[int]) -> list[list[int]]:
    """Sequences in rows of about equal length, the longest first into the shortest row (LPT).

    Of some numbers of rows the one that costs least is taken: short rows need less attention, but more padding.

    Args:
        lengths: ``[s]`` tokens of each sequence.

    Returns:
        The sequences of each row.
    """
    ordered = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    total, width = sum(lengths), max(lengths)
    counts = []
    while width <= max(lengths) + _AS_MUCH:
        counts.append(-(-total // width))
        width += -(-width // 5)
    best: list[list[int]] = []
    least = float("inf")
    for count in dict.fromkeys(counts):
        rows: list[list[int]] = [[] for _ in range(count)]
        filled = [(0, row) for row in range(count)]
        for i in ordered:
            tokens, row = filled[0]
            rows[row].append(i)
            heapq.heapreplace(filled, (tokens + lengths[i], row))
        width = max(tokens for tokens, _ in filled)
        if (cost := count * width * (1 + width / _AS_MUCH)) < least:
            best, least = rows, cost
    return best


def collate(examples: Sequence[Mapping[str, Any]], *, packed: bool = True) -> dict[str, Any]:
    """Rows of `finetune.data.Example` as one batch.

    Args:
        examples: ``[e]`` the examples of the batch.
        packed: Whether sequences share rows; otherwise each has a row of its own.

    Returns:
        ``input_ids`` and ``position_ids``, each ``[rows, width]``, padded on the right with token 0, which nothing
        reads; ``examples``, as given; ``where``, ``[p, 2]``: for each example, row and place of each of its reads, then
        of each of its answers.
    """
    bounds = [[*example["starts"], len(example["input_ids"])] for example in examples]
    sequences = [
        example["input_ids"][start:end]
        for example, of_it in zip(examples, bounds, strict=True)
        for start, end in itertools.pairwise(of_it)
    ]
    rows = pack([len(one) for one in sequences]) if packed else [[i] for i in range(len(sequences))]
    width = max(sum(len(sequences[i]) for i in row) for row in rows)
    ids, positions = torch.zeros(2, len(rows), width, dtype=torch.long)
    begins = [(0, 0)] * len(sequences)
    for number, row in enumerate(rows):
        end = 0
        for i in row:
            begins[i] = (number, end)
            ids[number, end : end + len(sequences[i])] = torch.tensor(sequences[i])
            positions[number, end:] = torch.arange(width - end)  # padding goes on with the last sequence
            end += len(sequences[i])
    where = []
    first = 0
    for example, of_it in zip(examples, bounds, strict=True):
        for place in (*example["reads"], *example["answers"]):
            i = bisect.bisect_right(of_it, place) - 1
            number, begin = begins[first + i]
            where.append((number, begin + place - of_it[i]))
        first += len(of_it) - 1
    return {
        "input_ids": ids,
        "position_ids": positions,
        "examples": list(examples),
        "where": torch.tensor(where),
    }


@torch.no_grad()
def keeps_apart(model: Any) -> bool:
    """Whether a model keeps sequences that share a row apart.

    Not all do: one with a recurrent state has it pass from one sequence to the next, and flash attention finds the
    sequences of only one row.

    Args:
        model: A causal language model of transformers, with or without adapters.
    """
    if "flash" in str(model.config._attn_implementation):
        return False
    training = model.training
    model.eval()
    first, second = torch.arange(1, 17, device=model.device).view(2, 8)
    ids = torch.stack([torch.cat([first, second]), torch.cat([second, first])])
    positions = torch.arange(8, device=model.device).repeat(2, 2)
    try:
        alone = _logits(model, input_ids=torch.stack([second, first]))
        mixed = _logits(model, input_ids=ids)[:, 8:]
        packed = _logits(model, input_ids=ids, position_ids=positions)[:, 8:]
    finally:
        model.train(training)
    # rounding changes the logits a little, another sequence changes them a lot
    return bool((packed - alone).norm() < (mixed - alone).norm() / 10)


def _logits(model: Any, **given: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, model(**given, use_cache=False).logits.float())
