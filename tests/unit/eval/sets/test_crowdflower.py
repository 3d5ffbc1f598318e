from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.sets import crowdflower
from genrank.errors import DataFormatError

HEAD = "id,query,product_title,product_description,median_relevance,relevance_variance\n"


def read(tmp_path: Path, rows: str, **options: Any) -> Any:
    (tmp_path / "train.csv").write_text(HEAD + rows, encoding="utf-8")
    notes: Counter[str] = Counter()
    return crowdflower.read(tmp_path, notes, **options), notes


def test_reads(tmp_path: Path) -> None:
    dataset, notes = read(
        tmp_path,
        "1,Lamp,Red lamp,<b>Two</b> bulbs,4,0\n"
        "2, lamp ,Blue lamp,,1,0.4\n"
        "3,lamp,Red  lamp,Two bulbs,3,0\n"  # the same pair again, with the lower of two middle grades
        "4,desk,Red lamp,Two bulbs,2,0\n",  # the same listing under another query
        test_queries=1,
        dev_queries=1,
    )
    assert [listing.title for listing in dataset.listings.values()] == ["Red lamp", "Blue lamp"]
    red, blue = dataset.listings
    assert dataset.listings[red].description == "Two bulbs"
    lamp, desk = (query.query.query_id for query in dataset.queries)
    assert dataset.qrels == {lamp: {red: 2, blue: 0}, desk: {red: 1}}
    assert sorted(query.split for query in dataset.queries) == ["dev", "test"]
    assert [dataset.grades[grade].gain for grade in range(4)] == [2**grade - 1 for grade in range(4)]
    assert dataset.candidates.keys() == dataset.qrels.keys()
    assert dataset.first_stage == "random"
    assert notes == {"repeated_judgements": 1, "rows_without_description": 1}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1,lamp,Red,,5,0\n", r"train\.csv:2: expected median_relevance 1, 2, 3 or 4, found '5'"),
        ("1,lamp, ,,4,0\n", "product_title"),
        ("1,,Red,,4,0\n", "column query"),
    ],
)
def test_wrong_rows(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(DataFormatError, match=words):
        read(tmp_path, row)
