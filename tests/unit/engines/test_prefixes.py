"""Which prompts share how many tokens: the groups that save most, and what is kept for prompts that follow."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrank.engines.prefixes import Group, common_prefix, share

FAR = 10_000


def prompt(*parts: tuple[int, int]) -> list[int]:
    """Parts of ``(token, times)``."""
    return [token for token, times in parts for _ in range(times)]


@pytest.mark.parametrize(
    ("a", "b", "shared"), [((), (1,), 0), ((1, 2), (1, 2, 3), 2), ((1, 2, 3), (1, 4, 3), 1), ((5, 6), (5, 6), 2)]
)
def test_common_prefix(a: tuple[int, ...], b: tuple[int, ...], shared: int) -> None:
    assert common_prefix(a, b) == common_prefix(b, a) == shared


def groups(prompts: list[list[int]], limit: int = FAR, least: int = 1) -> set[Group]:
    found = share(prompts, [limit] * len(prompts), least)
    return {Group(tuple(sorted(group.members)), group.prefix) for group in found}


def test_one_prefix_for_all() -> None:
    assert groups([prompt((1, 30), (tail, 5)) for tail in (2, 3, 4)]) == {Group((0, 1, 2), 30)}


def test_windows_of_one_query_stay_together() -> None:
    """The system text is shared by all four (10 tokens), the history by two and two (100 tokens)."""
    prompts = [prompt((1, 10), (query, 90), (tail, 5)) for query in (2, 3) for tail in (4, 5)]
    assert groups(prompts) == {Group((0, 1), 100), Group((2, 3), 100)}  # 2 * 100 saved, over 3 * 10


def test_a_short_prefix_of_many_is_worth_more_than_a_longer_one_of_two() -> None:
    prompts = [prompt((1, 50), (2, 10), (tail, 5)) for tail in (3, 4)] + [prompt((1, 50), (tail, 9)) for tail in (5, 6)]
    assert groups(prompts) == {Group((0, 1, 2, 3), 50)}  # 3 * 50 saved, over 60


def test_what_saves_too_little_stays_alone() -> None:
    prompts = [prompt((1, 30), (tail, 5)) for tail in (2, 3)]
    assert groups(prompts, least=30) == {Group((0, 1), 30)}
    assert groups(prompts, least=31) == {Group((0, 1), 0)}


def test_tokens_behind_a_prefix_cost_more() -> None:
    prompts = [prompt((1, 100), (tail, 200)) for tail in (2, 3)]
    spared = 100 - 0.2 * 2 * 200
    assert share(prompts, [FAR] * 2, int(spared), 0.2) == [Group((0, 1), 100)]
    assert share(prompts, [FAR] * 2, int(spared) + 1, 0.2) == [Group((0, 1), 0)]


def test_no_prefix_goes_beyond_what_is_read() -> None:
    same = prompt((1, 30))
    assert groups([same, same], limit=20) == {Group((0, 1), 20)}
    assert share([same, same], [29, 7], 1) == [Group((0, 1), 7)]


def test_nothing_to_share() -> None:
    assert share([], [], 1) == []
    assert share([[1, 2]], [1], 1) == [Group((0,), 0)]
    assert share([[1, 2], [3]], [1, 0], 1) == [Group((0, 1), 0)]


@settings(max_examples=300)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), max_size=9), st.integers(1, 5))
def test_groups_hold_each_prompt_once_and_share_what_they_say(prompts: list[list[int]], least: int) -> None:
    limits = [len(ids) - 1 for ids in prompts]
    found = share(prompts, limits, least)
    assert sorted(i for group in found for i in group.members) == list(range(len(prompts)))
    for group in found:
        assert len({tuple(prompts[i][: group.prefix]) for i in group.members}) == 1
        assert all(group.prefix <= limits[i] for i in group.members)
        assert not group.prefix or (len(group.members) - 1) * group.prefix >= least
