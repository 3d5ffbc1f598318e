from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest

from genrank.errors import InputError, OutputError
from genrank.permutation import Permutation, kendall_tau, mean_tau, parse


@pytest.mark.parametrize(
    ("order", "problem"),
    [((0, 0), "0 is repeated"), ((0, 2), "2 is outside 0..1"), ((-1, 0), "-1 is outside 0..1"), ((1,), "1 is outside")],
)
def test_only_a_bijection_is_a_permutation(order: tuple[int, ...], problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        Permutation(order)
    assert caught.value.field == "order"


def test_the_empty_permutation() -> None:
    assert len(Permutation(())) == 0
    assert Permutation(()).apply([]) == []


def test_identity() -> None:
    assert tuple(Permutation.identity(4)) == (0, 1, 2, 3)


def test_from_scores_sorts_by_falling_score_and_keeps_the_order_of_equal_ones() -> None:
    assert Permutation.from_scores([0.1, 0.9, 0.5]).order == (1, 2, 0)
    assert Permutation.from_scores([0.5, 0.9, 0.5, 0.9, 0.5]).order == (1, 3, 0, 2, 4)
    assert Permutation.from_scores([0.0, -0.0, -math.inf, math.inf]).order == (3, 0, 1, 2)


def test_apply_moves_items_and_inverse_moves_them_back() -> None:
    items = list("abcd")
    for order in itertools.permutations(range(len(items))):
        permutation = Permutation(order)
        moved = permutation.apply(items)
        assert moved == [items[old] for old in order]
        assert permutation.inverse().apply(moved) == items
        assert [moved.index(item) for item in items] == list(permutation.inverse())


@pytest.mark.parametrize("items", [["a"], ["a", "b", "c"]])
def test_apply_wants_one_item_a_place(items: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Permutation((1, 0)).apply(items)
    assert caught.value.field == "items"


A, B, C, D = range(4)


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("[B] > [A] > [D] > [C]", (B, A, D, C)),
        ("[B]>[A]>[D]>[C]", (B, A, D, C)),
        ("[ B ] > [ A ] > [ D ] > [ C ]", (B, A, D, C)),
        ("Sure! The order is [B] > [A] > [D] > [C]. A is last but one.", (B, A, D, C)),
        ("B > A > D > C", (B, A, D, C)),
        ("B, A, D, C", (B, A, D, C)),
        ("B -> A -> D -> C", (B, A, D, C)),
        ("B\nA\nD\nC\n", (B, A, D, C)),
        ("B\r\nA\r\nD\r\nC", (B, A, D, C)),
        ("［Ｂ］＞［Ａ］＞［Ｄ］＞［Ｃ］", (B, A, D, C)),
        ("Ｂ，Ａ，Ｄ，Ｃ", (B, A, D, C)),
        ("排序：[B] > [A] > [D] > [C]。", (B, A, D, C)),
        # of two chains the longer one is the answer
        ("Between A, B the order is D > C > B > A", (D, C, B, A)),
    ],
)
def test_parse_reads_a_complete_order(text: str, order: tuple[int, ...]) -> None:
    parsed = parse(text, "ABCD")
    assert parsed.permutation.order == order
    assert (parsed.repeated, parsed.missing, parsed.repaired) == (0, 0, False)


@pytest.mark.parametrize(
    ("text", "order", "repeated", "missing"),
    [
        ("[C] > [C] > [A] > [B] > [D]", (C, A, B, D), 1, 0),
        ("[C] > [A] > [C] > [A] > [C]", (C, A, B, D), 3, 2),
        ("[D] > [B]", (D, B, A, C), 0, 2),
        ("[D]", (D, A, B, C), 0, 3),
        ("D", (D, A, B, C), 0, 3),
        (" D\n", (D, A, B, C), 0, 3),
        ("[Z] > [D] > [X]", (D, A, B, C), 0, 3),
    ],
)
def test_parse_counts_what_it_mends(text: str, order: tuple[int, ...], repeated: int, missing: int) -> None:
    parsed = parse(text, "ABCD")
    assert parsed.permutation.order == order
    assert (parsed.repeated, parsed.missing, parsed.repaired) == (repeated, missing, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "A nice dress",
        "I think A is best",
        "Plan B",
        "[Z] > [Y]",
        "ABCD",
        "B2B > C4C",
        "None of these, ABBA, fits",
        "a > b > c",  # identifiers are taken as they are written
    ],
)
def test_parse_takes_no_letter_of_a_sentence_for_a_candidate(text: str) -> None:
    with pytest.raises(OutputError, match=r"no identifier of A\.\.D in the answer"):
        parse(text, "ABCD")


def test_parse_does_not_show_an_endless_answer() -> None:
    with pytest.raises(OutputError) as caught:
        parse("blah " * 10_000, "ABCD")
    assert len(str(caught.value)) < 200


def test_parse_identifiers_of_several_characters() -> None:
    names = [f"A{i}" for i in range(1, 12)]  # A1 is the beginning of A10 and of A11
    parsed = parse("[A11] > [A1] > [A10]", names)
    assert parsed.permutation.order[:3] == (10, 0, 9)
    assert parsed.missing == len(names) - 3
    assert parse("A11 > A1 > A10", names).permutation == parsed.permutation


def test_parse_takes_identifiers_literally() -> None:
    assert parse("[.] > [*]", ["*", "."]).permutation.order == (1, 0)


@pytest.mark.parametrize("identifiers", [[], ["A", "A"]])
def test_parse_wants_distinct_identifiers(identifiers: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        parse("[A]", identifiers)
    assert caught.value.field == "identifiers"


def _tau_by_pairs(one: Sequence[int], other: Sequence[int]) -> float:
    """``(concordant - discordant) / (n * (n - 1) / 2)``, pair by pair."""
    pairs = list(itertools.combinations(one, 2))
    agree = sum(1 if other.index(a) < other.index(b) else -1 for a, b in pairs)
    return agree / len(pairs)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_kendall_tau_is_that_of_its_definition(n: int) -> None:
    for one in itertools.islice(itertools.permutations(range(n)), 3):
        for other in itertools.permutations(range(n)):
            assert kendall_tau(one, other) == pytest.approx(_tau_by_pairs(one, other))


def test_kendall_tau_at_its_ends() -> None:
    assert kendall_tau([3, 1, 2], [3, 1, 2]) == 1
    assert kendall_tau([3, 1, 2], [2, 1, 3]) == -1
    assert kendall_tau([7], [7]) == kendall_tau([], []) == 1


def test_mean_tau_is_the_mean_over_pairs() -> None:
    orders = [(0, 1, 2), (0, 2, 1), (2, 1, 0)]
    expected = (_tau_by_pairs(orders[0], orders[1]) + _tau_by_pairs(*orders[1:]) + _tau_by_pairs(*orders[::2])) / 3
    assert mean_tau(orders) == pytest.approx(expected)
    assert mean_tau(orders[:1]) is None
    assert mean_tau([]) is None
