from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")

from genrank.engines.caches import Exact, Int8, Layout  # noqa: E402
from genrank.engines.heads import Head, KeptHeads, key_of  # noqa: E402

ROW = 8 * 4  # bytes: of 8 numbers


def head(tokens: int, value: float = 1.0, opening: tuple[int, ...] = ()) -> Head:
    return Head(None, torch.full((tokens + len(opening), 8), value), tokens, opening)


def test_a_head_is_found_by_exactly_its_tokens() -> None:
    kept = KeptHeads(100 * ROW, Exact())
    first = head(3)
    kept.put((1, 2, 3), first)
    assert kept.find((1, 2, 3)) is first
    assert kept.find((1, 2)) is kept.find((1, 2, 4)) is kept.find((1, 2, 3, 4)) is None
    assert len({key_of(ids) for ids in ((), (0,), (0, 0), (256,), (1, 2), (2, 1))}) == 6


def test_the_least_recently_used_is_dropped_first() -> None:
    kept = KeptHeads(3 * ROW, Exact())
    for token in (1, 2, 3):
        kept.put((token,), head(1))
    kept.find((1,))
    kept.put((4, 4), head(2))
    assert [kept.find(ids) is not None for ids in ((1,), (2,), (3,), (4, 4))] == [True, False, False, True]
    assert kept.taken == 3 * ROW


def test_what_is_too_large_is_not_kept_and_pushes_nothing_out() -> None:
    kept = KeptHeads(3 * ROW, Exact())
    kept.put((1,), head(3))
    kept.put((2,), head(4))
    assert (kept.find((1,)) is not None, kept.find((2,))) == (True, None)
    kept.put((1,), head(4))  # the old one is no longer the prompt's
    assert (kept.find((1,)), kept.taken, len(kept)) == (None, 0, 0)


def test_a_head_is_replaced() -> None:
    kept = KeptHeads(4 * ROW, Exact())
    kept.put((1,), head(1))
    kept.put((1,), head(1, opening=(7, 8)))
    found = kept.find((1,))
    assert found
    assert kept.taken == 3 * ROW
    assert [found.known(ids) for ids in ((1,), (1, 7), (1, 7, 8, 9), (1, 9, 8), (1, 7, 9))] == [1, 2, 3, 1, 2]


def test_heads_share_their_lead() -> None:
    kept = KeptHeads(100 * ROW, Exact())
    rows = torch.arange(5 * 8).view(5, 8).float()
    one = kept.pack((1, 2, 3), rows[:3], lead=2)
    other = kept.pack((1, 2, 4, 5), rows, lead=2, opening=(9,))
    assert one.lead is other.lead is kept.find_lead((1, 2))
    assert (one.rest.shape, other.rest.shape, other.opening) == ((1, 8), (3, 8), (9,))
    rows[:] = 0
    assert one.rest.sum() > 0, "a copy"


@pytest.mark.parametrize("shapes", [((2, 8), (2, 8)), ((1, 4), (3, 2), (1, 4), (3, 2)), ((1, 6), (1, 2))])
def test_int8_keeps_each_vector_to_one_part_in_254_of_its_largest_number(shapes: tuple[tuple[int, int], ...]) -> None:
    layout = Layout(shapes)
    torch.manual_seed(0)
    rows = torch.randn(7, layout.width) * torch.logspace(-3, 2, layout.width)
    rows[3] = 0
    packing = Int8(layout)
    back = torch.empty_like(rows)
    packing.decode(packing.encode(rows), back)
    start = 0
    for width in layout.vectors:
        vector, kept = rows[:, start : start + width], back[:, start : start + width]
        assert ((vector - kept).abs() <= vector.abs().amax(1, keepdim=True) / 253).all()
        start += width


def test_many_threads() -> None:
    kept = KeptHeads(50 * ROW, Exact())

    def work(token: int) -> None:
        for i in range(300):
            kept.put((token, i % 20), head(3, float(i)))
            found = kept.find((token, i % 20))
            assert found is None or found.rest.max() <= 300

    threads = [threading.Thread(target=work, args=(token,)) for token in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept.taken == 3 * ROW * len(kept) <= 50 * ROW
