"""Grammars that let a model write nothing but an order."""

from __future__ import annotations

import itertools

import pytest

from genrank.permutation import IDENTIFIERS
from genrank.remote.grammar import OrderForm
from tests.gbnf import Grammar


def form(n: int) -> OrderForm:
    return OrderForm(IDENTIFIERS[:n], "[", "] > [")


def test_the_grammar_of_three_names() -> None:
    assert form(3).grammar() == "\n".join(
        [
            'root ::= "[" s',
            'b ::= "] > ["',
            's ::= "A" b sA | "B" b sB | "C" b sC',
            'sA ::= "B" b sAB | "C" b sAC',
            'sB ::= "A" b sAB | "C" b sBC',
            'sC ::= "A" b sAC | "B" b sBC',
            "sAB ::= [C]",
            "sAC ::= [B]",
            "sBC ::= [A]",
        ]
    )


@pytest.mark.parametrize("n", [2, 3, 6])
def test_it_allows_each_permutation_once_and_nothing_else(n: int) -> None:
    texts = list(Grammar(form(n).grammar()).language())
    orders = ["] > [".join(order) for order in itertools.permutations(IDENTIFIERS[:n])]
    assert sorted(texts) == sorted(f"[{order}" for order in orders)


def test_it_goes_on_from_what_was_written() -> None:
    texts = set(Grammar(form(5).grammar([3, 0])).language())
    assert texts == {f"[D] > [A] > [{'] > ['.join(rest)}" for rest in itertools.permutations("BCE")}


@pytest.mark.parametrize(("n", "distinct"), [(8, 8), (9, 5), (12, 3), (20, 3), (22, 3), (23, 2), (52, 2)])
def test_the_first_names_are_distinct_however_many_there_are(n: int, distinct: int) -> None:
    text = Grammar(form(n).grammar()).write(lambda _, options: options[0])
    assert len(form(n).read(text)) == distinct
    assert text.count(">") == n - 1  # and there are n of them in any case
    assert len(form(n).grammar()) < 24_000


def test_texts_of_the_template_are_quoted() -> None:
    odd = OrderForm("AB", '"', '\\"\n比')
    assert odd.grammar().splitlines()[:2] == [r'root ::= "\"" s', r'b ::= "\\\"\n比"']
    assert set(Grammar(odd.grammar()).language()) == {'"A\\"\n比B', '"B\\"\n比A'}


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("[B] > [A] > [C", [1, 0, 2]),
        (" [B] > [A] > [C]\n", [1, 0, 2]),
        ("[B] > [A] > [B", [1, 0]),
        ("[B] > [A], [C]", [1, 0]),
        ("[D] > [A", []),
        ("B > A", []),
        ("", []),
        ("[", []),
    ],
)
def test_an_answer_is_read_up_to_where_it_leaves_the_form(text: str, places: list[int]) -> None:
    assert form(3).read(text) == places
