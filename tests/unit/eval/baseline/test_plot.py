from pathlib import Path

import pytest

from eval.baseline.plot import plot_importance
from genrank.rankers.features import NAMES

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("count", [0, 1, len(NAMES)])
def test_any_number_of_features(tmp_path: Path, count: int) -> None:
    shares = {name: (1 / count if i < count else 0.0) for i, name in enumerate(NAMES)}
    plot_importance(shares, tmp_path / "a.svg", "nothing $ < & 中文 $x_$")
    plot_importance(shares, tmp_path / "b.svg", "nothing $ < & 中文 $x_$")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
