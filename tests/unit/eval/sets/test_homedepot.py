from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.sets import homedepot
from genrank.errors import DataFormatError

HEAD = "id,product_uid,product_title,search_term,relevance\n"


def read(tmp_path: Path, rows: str) -> Any:
    (tmp_path / "train.csv").write_text(HEAD + rows, encoding="utf-8")
    notes: Counter[str] = Counter()
    return homedepot.read(tmp_path / "train.csv", notes), notes


@pytest.mark.parametrize(
    ("mean", "grade"),
    [("1", 0), ("1.25", 1), ("1.33", 1), ("1.5", 2), ("1.67", 2), ("2.00", 3), ("2.33", 4), ("2.5", 5), ("3.0", 6)],
)
def test_grades(tmp_path: Path, mean: str, grade: int) -> None:
    dataset, notes = read(tmp_path, f"1,7,Lamp,lamp,{mean}\n")
    assert list(dataset.qrels.values()) == [{"7": grade}]
    assert notes["means_that_are_no_thirds"] == (mean in ("1.25", "1.5", "2.5"))


def test_gain_is_exponential_on_the_raters_scale() -> None:
    assert [homedepot.GRADES[grade].gain for grade in (0, 3, 6)] == pytest.approx([2**0 - 1, 2**1 - 1, 2**2 - 1])


def test_first_title_is_kept(tmp_path: Path) -> None:
    dataset, notes = read(tmp_path, "1,7,Lamp,lamp,3\n2,7,The lamp,light,2\n")
    assert dataset.listings["7"].title == "Lamp"
    assert notes["other_titles"] == 1


@pytest.mark.parametrize("row", ["1,7,Lamp,lamp,3.5\n", "1,7,Lamp,lamp,nan\n", "1,x,Lamp,lamp,3\n", "1,7,Lamp,,3\n"])
def test_wrong_rows(tmp_path: Path, row: str) -> None:
    with pytest.raises(DataFormatError, match=r"train\.csv:2"):
        read(tmp_path, row)
