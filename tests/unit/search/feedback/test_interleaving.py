import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.errors import InputError
from genrank.search.feedback.interleaving import team_draft

rankings = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(rankings, rankings, st.integers(1, 10), st.integers())
def test_every_listing_comes_once_in_its_teams_order(a: list[str], b: list[str], size: int, seed: int) -> None:
    shown = team_draft(a, b, size, random.Random(seed))
    ids = [key for key, _ in shown]
    assert len(ids) == len(set(ids)) == min(size, len({*a, *b}))
    for team, order in enumerate((a, b)):
        own = [key for key, of in shown if of == team]
        assert own == [key for key in order if key in own]


def test_both_teams_come_first_equally_often() -> None:
    first = Counter(team_draft("ab", "ba", 2, random.Random(seed))[0] for seed in range(1000))
    assert set(first) == {("a", 0), ("b", 1)}
    assert abs(first["a", 0] - 500) < 80


def test_teams_take_turns() -> None:
    for seed in range(20):
        teams = [team for _, team in team_draft("abcd", "wxyz", 8, random.Random(seed))]
        assert all(sum(teams[i : i + 2]) == 1 for i in range(0, 8, 2))


def test_a_size_is_checked() -> None:
    with pytest.raises(InputError, match="size: must be 1 or more, got 0"):
        team_draft("a", "b", 0)
