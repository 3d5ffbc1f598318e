"""The permutation mask: each identifier once, nothing but what is open is left to the model."""

from __future__ import annotations

import pytest

from genrank.engines.mask import PermutationMask
from genrank.errors import InputError

A, B, C = 11, 12, 13
CLOSE, OPEN = 7, 8
MASK = PermutationMask((A, B, C), (CLOSE, OPEN))


@pytest.mark.parametrize(
    ("written", "allowed", "forced", "order"),
    [
        ((), (A, B, C), (), ()),
        ((B,), (CLOSE,), (CLOSE, OPEN), (1,)),
        ((B, CLOSE), (OPEN,), (OPEN,), (1,)),
        ((B, CLOSE, OPEN), (A, C), (), (1,)),
        (
            (B, CLOSE, OPEN, C),
            (CLOSE,),
            (
                CLOSE,
                OPEN,
                A,
            ),
            (1, 2),
        ),
        ((B, CLOSE, OPEN, C, CLOSE, OPEN), (A,), (A,), (1, 2)),
        ((B, CLOSE, OPEN, C, CLOSE, OPEN, A), (), (), (1, 2, 0)),
    ],
)
def test_each_step(
    written: tuple[int, ...], allowed: tuple[int, ...], forced: tuple[int, ...], order: tuple[int, ...]
) -> None:
    assert MASK.allowed(written) == allowed
    assert MASK.forced(written) == forced
    assert MASK.order(written) == order


def test_nothing_between() -> None:
    mask = PermutationMask((A, B, C), ())
    assert mask.allowed([C]) == (A, B)
    assert mask.forced([C]) == ()
    assert mask.forced([C, A]) == (B,)
    assert mask.order([C, A, B]) == (2, 0, 1)


def test_a_single_identifier_is_forced() -> None:
    assert PermutationMask((A,), (CLOSE, OPEN)).forced([]) == (A,)


def test_between_may_hold_an_identifiers_token() -> None:
    mask = PermutationMask((A, B), (A, A))
    assert mask.forced([B]) == (A, A, A)
    assert mask.order([B, A, A, A]) == (1, 0)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ((CLOSE,), "written: token 7 at place 0"),
        ((A, OPEN), "written: token 8 at place 1"),
        ((A, CLOSE, OPEN, A), "written: token 11 at place 3"),
        ((A, CLOSE, OPEN, B, CLOSE, OPEN, C, CLOSE), "written: token 7 at place 7"),
    ],
)
def test_an_answer_outside_the_mask_is_refused(written: tuple[int, ...], message: str) -> None:
    for ask in (MASK.allowed, MASK.forced, MASK.order):
        with pytest.raises(InputError, match=message):
            ask(written)


@pytest.mark.parametrize("identifiers", [(), (A, B, A)])
def test_identifiers_must_name_candidates_apart(identifiers: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="identifiers: must"):
        PermutationMask(identifiers, ())
