from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.sets import wands
from genrank.errors import DataFormatError

FILES = {
    "query.csv": 'query_id\tquery\tquery_class\n0\tsalon  chair\tChairs\n1\t"48"" desk"\t\n2\tunjudged\t\n',
    "product.csv": (
        "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description\tproduct_features"
        "\trating_count\taverage_rating\treview_count\n"
        "0\tred chair\tChairs|Seats\tFurniture / Office / Chairs\tgood <b>chair</b>\t"
        "colour : red|colour:blue|ratio:3:1| : loose|colour:red\t15.0\t4.5\t15.0\n"
        "1\tdesk\t\t\t\t\t\t\t\n"
    ),
    "label.csv": "id\tquery_id\tproduct_id\tlabel\n0\t0\t0\tExact\n1\t0\t1\tIrrelevant\n2\t1\t1\tPartial\n",
}


def write(folder: Path, **changed: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in (FILES | {f"{key}.csv": text for key, text in changed.items()}).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_reads(tmp_path: Path) -> None:
    write(tmp_path / "dataset")
    notes: Counter[str] = Counter()
    dataset = wands.read(tmp_path, notes)
    chair = dataset.listings["0"]
    assert (chair.title, chair.description) == ("red chair", "good chair")
    assert chair.category == ("Furniture", "Office", "Chairs")
    assert chair.attributes == {"colour": "red, blue", "ratio": "3:1", "features": "loose", "class": "Chairs, Seats"}
    assert (chair.rating, chair.rating_count) == (4.5, 15)
    assert dataset.listings["1"].rating is None
    assert [query.query.text for query in dataset.queries] == ["salon chair", '48" desk']
    assert dataset.qrels == {"0": {"0": 2, "1": 0}, "1": {"1": 1}}
    assert [dataset.grades[grade].gain for grade in range(3)] == [0.0, 0.5, 1.0]
    assert notes["queries_without_judgement"] == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"label": "id\tquery_id\tproduct_id\tlabel\n0\t0\t0\tgood\n"}, r"label\.csv:2: .*Exact, found 'good'"),
        ({"label": "id\tquery_id\tproduct_id\tlabel\n0\t9\t0\tExact\n"}, "query_id of the other files"),
        ({"label": "id\tquery_id\tproduct_id\n0\t0\t0\n"}, "no label in"),
        ({"product": FILES["product.csv"].replace("4.5", "many")}, r"product\.csv:2: .*average_rating"),
        ({"product": FILES["product.csv"].replace("4.5", "7")}, r"product\.csv:2: .*rating"),
        ({"product": FILES["product.csv"].replace("\n1\t", "\n0\t")}, "each product_id once"),
        ({"query": FILES["query.csv"].replace("\n1\t", "\n0\t")}, "each query_id once"),
        ({"query": "query_id\tquery\n0\t \n"}, r"query\.csv:2: .*text"),
    ],
)
def test_wrong_files(tmp_path: Path, changed: Any, words: str) -> None:
    with pytest.raises(DataFormatError, match=words):
        wands.read(write(tmp_path / "w", **changed), Counter())


def test_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="no folder"):
        wands.read(tmp_path / "none", Counter())
