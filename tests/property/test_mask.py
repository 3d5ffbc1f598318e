"""Whatever a model chooses under the mask, its answer is a permutation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from genrank.engines.mask import PermutationMask

masks = st.builds(
    PermutationMask,
    st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True).map(tuple),
    st.lists(st.integers(0, 30), max_size=4).map(tuple),
)


@given(masks, st.data())
def test_any_choice_gives_a_permutation(mask: PermutationMask, data: st.DataObject) -> None:
    written: list[int] = []
    choices = 0
    while allowed := mask.allowed(written):
        forced = mask.forced(written)
        if forced:
            assert allowed == forced[:1]
            written += forced
        else:
            choices += 1
            written.append(data.draw(st.sampled_from(allowed)))
    n = len(mask.identifiers)
    assert choices == n - 1
    assert len(written) == n + (n - 1) * len(mask.between)
    assert sorted(mask.order(written)) == list(range(n))


@given(masks, st.data())
def test_filling_in_step_by_step_is_filling_in_at_once(mask: PermutationMask, data: st.DataObject) -> None:
    written: list[int] = []
    while allowed := mask.allowed(written):
        written.append(data.draw(st.sampled_from(allowed)))
        run, stepwise = mask.forced(written), list[int]()
        while len(after := mask.allowed([*written, *stepwise])) == 1:
            stepwise += after
        assert run == tuple(stepwise)
