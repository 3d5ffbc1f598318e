import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from genrank.blending import Blend, blended, is_weight, save_blend, scaled, standardised, stored_blend
from genrank.calibration import Calibration
from genrank.errors import ConfigError
from genrank.types import Decoding

FITTED = Blend("pointwise", 0.6, "crowd, dev: 30 queries beside bm25", "m", "0123456789abcdef")
USE = {"decoding": "pointwise", "prompt_hash": "0123456789abcdef", "model": "m"}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_both_are_standardised_and_added() -> None:
    odds, first = [2.0, 0.0, -1.0], [1.0, 5.0, 3.0]
    mean, deviation = statistics.fmean(odds), statistics.pstdev(odds)
    sums = [
        0.7 * (x - mean) / deviation + 0.3 * (y - 3) / statistics.pstdev(first)
        for x, y in zip(odds, first, strict=True)
    ]
    found = blended([sigmoid(x) for x in odds], first, 0.7, "inline")
    assert found.order == sorted(range(3), key=lambda i: -sums[i])
    # the blend keeps the mean and the spread of the model's log-odds
    assert found.scores == pytest.approx([sigmoid(mean + deviation * x) for x in sums])


def test_each_decoding_has_a_scale() -> None:
    chances = [0.7, 0.2, 0.1]
    assert scaled(chances, "pointwise") == pytest.approx([math.log(x / (1 - x)) for x in chances])
    assert scaled(chances, "first-token") == pytest.approx([math.log(x) for x in chances])
    assert scaled(chances, "listwise") == chances
    assert sum(blended(chances, [1.0, 2.0, 4.0], 0.5, "first-token").scores) == pytest.approx(1)


def test_equal_scores_leave_the_order_to_the_other_side() -> None:
    assert blended([0.5] * 3, [1.0, 3.0, 2.0], 0.9, "inline") == ([1, 2, 0], [0.5] * 3)
    assert blended([0.2, 0.4, 0.3], [7.0] * 3, 0.1, "inline").order == [1, 2, 0]
    assert blended([0.5] * 3, [7.0] * 3, 0.5, "inline").order == [0, 1, 2]


def test_a_calibration_has_no_influence_on_the_order() -> None:
    scores, first = [0.9, 0.6, 0.55, 0.1], [1.0, 9.0, 2.0, 8.0]
    bent = Calibration("inline", 3.0, bias=-1.0).apply(scores)
    assert blended(bent, first, 0.5, "inline").order == blended(scores, first, 0.5, "inline").order


DECODINGS = st.sampled_from(["pointwise", "inline", "first-token", "listwise"])
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@example([0.0, 1.0], [1.7e308, -1.7e308], 0.5, "inline")
@example([1.0, 1.0], [5e-324, 0.0], 0.0, "first-token")
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.lists(NUMBERS, min_size=12, max_size=12),
    st.floats(0, 1),
    DECODINGS,
)
def test_blended_scores_are_scores_and_never_rise(
    scores: list[float], first: list[float], weight: float, decoding: Decoding
) -> None:
    first = first[: len(scores)]
    found = blended(scores, first, weight, decoding)
    assert sorted(found.order) == list(range(len(scores)))
    assert all(0 <= score <= 1 for score in found.scores)
    falling = [found.scores[i] for i in found.order]
    assert falling == sorted(falling, reverse=True)
    ranked = [scores[i] for i in blended(scores, first, 1.0, decoding).order]
    assert scaled(ranked, decoding) == pytest.approx(sorted(scaled(scores, decoding), reverse=True), abs=1e-12)
    proposed = [first[i] for i in blended(scores, first, 0.0, decoding).order]
    top = max(map(abs, first)) or 1.0
    assert [x / top for x in proposed] == pytest.approx(sorted((x / top for x in first), reverse=True), abs=1e-12)


@given(st.lists(st.integers(-(10**6), 10**6), max_size=12), st.integers(1, 1000), st.integers(-1000, 1000))
def test_standard_scores_do_not_depend_on_scale_and_shift(values: list[int], factor: int, shift: int) -> None:
    found = standardised(values)
    assert standardised([factor * value + shift for value in values]) == pytest.approx(found, abs=1e-6)
    if len(set(values)) > 1:
        assert statistics.fmean(found) == pytest.approx(0, abs=1e-9)
        assert statistics.pstdev(found) == pytest.approx(1)
    else:
        assert found == [0.0] * len(values)


def test_a_weight_is_a_number_from_0_to_1() -> None:
    assert all(map(is_weight, (0, 1, 0.5)))
    assert not any(map(is_weight, (True, "0.5", -0.1, 1.1, math.nan, None)))


def test_an_adapters_own_is_taken_only_where_it_fits(tmp_path: Path) -> None:
    assert stored_blend(tmp_path, **USE) is None
    (tmp_path / "genrank.json").write_text('{"trained_on": "x"}', encoding="utf-8")
    assert stored_blend(tmp_path, **USE) is None
    other = Blend("inline", 0.3)
    for blend in (other, FITTED):
        assert save_blend(blend, tmp_path) == tmp_path / "genrank.json"
    assert stored_blend(tmp_path, **USE) == FITTED
    assert stored_blend(tmp_path, **USE | {"decoding": "inline"}) == other
    for changed in ({"decoding": "listwise"}, {"prompt_hash": "ff"}, {"model": "n"}):
        assert stored_blend(tmp_path, **USE | changed) is None
    assert json.loads((tmp_path / "genrank.json").read_text(encoding="utf-8"))["trained_on"] == "x"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "blend.pointwise.weight: is missing"),
        ({"weight": 2}, "blend.weight: must be a number within 0..1, got 2"),
        ({"weight": True}, "blend.weight: must be a number within 0..1, got True"),
        ({"weight": 0.5, "model": 3}, "blend.model: must be a text, got 3"),
        ({"weight": 0.5, "wait": 1}, "blend.pointwise.wait: unknown key; the known keys are weight, fitted_on"),
    ],
)
def test_a_broken_blend_is_named(tmp_path: Path, values: Any, words: str) -> None:
    (tmp_path / "genrank.json").write_text(json.dumps({"blend": {"pointwise": values}}), encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(words)):
        stored_blend(tmp_path, **USE)


def test_a_blend_is_of_a_decoding() -> None:
    with pytest.raises(ConfigError, match=r"blend\.decoding: must be one of .*, got 'inlin'"):
        Blend("inlin", 0.5)  # type: ignore[arg-type]
