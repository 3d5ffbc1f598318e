"""Guesses at the next tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from genrank.engines.drafts import Draft

IDS = st.lists(st.integers(0, 4), max_size=30)


def test_what_followed_the_last_tokens_before_is_guessed() -> None:
    draft = Draft([1, 2, 3, 4, 9, 2, 5, 1, 2])
    assert draft.guess(3) == [3, 4, 9]  # after "1 2", although the last "2" was followed by 5
    assert draft.guess(0) == []
    draft.add([5])
    assert draft.guess(2) == [1, 2]
    draft.add([7])
    assert draft.guess(2) == []


def test_the_latest_place_counts() -> None:
    assert Draft([1, 2, 1, 3, 1]).guess(9) == [3, 1]


@given(IDS, IDS, st.integers(1, 5))
def test_a_guess_follows_the_last_token_somewhere_before(first: list[int], more: list[int], most: int) -> None:
    draft = Draft(first)
    draft.add(more)
    ids = [*first, *more]
    guess = draft.guess(most)
    assert len(guess) <= most
    if ids and ids[-1] in ids[:-1]:
        places = [place for place in range(len(ids) - 1) if ids[place] == ids[-1]]
        assert any(ids[place + 1 : place + 1 + len(guess)] == guess for place in places)
        assert guess
    else:
        assert not guess
