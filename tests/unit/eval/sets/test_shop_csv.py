import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.convert import main
from eval.sets import shop_csv
from genrank.data.dataset import Dataset
from genrank.errors import DataFormatError
from genrank.experiment.splits import split_of
from genrank.types import Listing, Price

LISTINGS = """listing_id,title,category,price,currency,rating,rating_count,in_stock,colour
p1,Red lamp,Home > Lamps,19.90,EUR,4.5,12,yes,red
p2,"Lamp, blue",,,,,,,
p3,Desk,Home,80,,,,false,
"""
JUDGEMENTS = "query,listing_id,grade\nred lamp,p1,3\nred lamp,p2,1\nred lamp,p3,0\n台灯,p2,2\n"


def read(folder: Path, listings: str = LISTINGS, judgements: str = JUDGEMENTS, **options: Any) -> tuple[Any, Any]:
    (folder / "listings.csv").write_text(listings, encoding="utf-8-sig")  # as spreadsheets write it
    (folder / "judgements.csv").write_text(judgements, encoding="utf-8")
    notes: Counter[str] = Counter()
    return shop_csv.read(folder, notes, **options), notes


def test_cells_become_fields(tmp_path: Path) -> None:
    dataset, _ = read(tmp_path, name="lamps")
    assert dataset.name == "lamps"
    assert dataset.listings["p1"] == Listing(
        "p1",
        "Red lamp",
        category=("Home", "Lamps"),
        price=Price(19.9, "EUR"),
        attributes={"colour": "red"},
        rating=4.5,
        rating_count=12,
        in_stock=True,
    )
    assert dataset.listings["p2"] == Listing("p2", "Lamp, blue")
    assert (dataset.listings["p3"].price, dataset.listings["p3"].in_stock) == (Price(80), False)


def test_judgements_become_queries_grades_and_candidates(tmp_path: Path) -> None:
    dataset, notes = read(tmp_path, judgements=JUDGEMENTS + "red lamp,p1,1\nred lamp,p1,2\n")
    assert [(query.query.text, query.split) for query in dataset.queries] == [
        ("red lamp", split_of("red lamp")),
        ("台灯", split_of("台灯")),
    ]
    first, second = (query.query.query_id for query in dataset.queries)
    assert dataset.qrels == {first: {"p1": 2, "p2": 1, "p3": 0}, second: {"p2": 2}}
    assert notes["repeated_judgements"] == 2
    assert {grade: one.gain for grade, one in dataset.grades.items()} == {0: 0.0, 1: 1.0, 2: 3.0}
    assert set(dataset.candidates[first]) == {"p1", "p2", "p3"}
    assert dataset.first_stage == "random"


def test_a_column_split_decides(tmp_path: Path) -> None:
    dataset, _ = read(
        tmp_path, judgements="query,listing_id,grade,split\nlamp,p1,3,dev\nlamp,p2,1,dev\ndesk,p3,2,test\n"
    )
    assert [query.split for query in dataset.queries] == ["dev", "test"]


@pytest.mark.parametrize(
    ("old", "new", "place", "said"),
    [
        ("p2,", "p1,", "listings.csv:3", "each listing_id once"),
        ("Red lamp", "  ", "listings.csv:2", "text in the column title, found nothing"),
        ("19.90", "19,90", "listings.csv:2", "9 fields, found 10"),
        ("19.90", "cheap", "listings.csv:2", "a number or nothing as price, found 'cheap'"),
        ("19.90", "-1", "listings.csv:2", "price"),
        ("4.5", "7", "listings.csv:2", "rating"),
        (",12,", ",1.5,", "listings.csv:2", "a whole number or nothing as rating_count"),
        ("yes", "maybe", "listings.csv:2", "true, false or nothing as in_stock, found 'maybe'"),
        ("title", "name", "listings.csv:1", "no title"),
    ],
)
def test_a_wrong_listing_names_its_line(tmp_path: Path, old: str, new: str, place: str, said: str) -> None:
    with pytest.raises(DataFormatError) as caught:
        read(tmp_path, listings=LISTINGS.replace(old, new, 1))
    assert place in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("lamp,p9,3,test", "a listing_id of listings.csv, found 'p9'"),
        (" ,p1,3,test", "text in the column query, found nothing"),
        ("lamp,p1,good,test", "a whole number from 0 to 10 as grade, found 'good'"),
        ("lamp,p1,-1,test", "a whole number from 0 to 10 as grade"),
        ("lamp,p1,1.5,test", "a whole number from 0 to 10 as grade"),
        ("lamp,p1,1,valid", "a split of train, dev, test, found 'valid'"),
        ("desk,p1,1,dev", "'train' as the split of 'desk', as above, found 'dev'"),
    ],
)
def test_a_wrong_judgement_names_its_line(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(DataFormatError) as caught:
        read(tmp_path, judgements=f"query,listing_id,grade,split\ndesk,p3,2,train\n{row}\n")
    assert "judgements.csv:3" in str(caught.value)
    assert said in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"a folder with listings\.csv and judgements\.csv"):
        shop_csv.read(tmp_path / "none", Counter())
    (tmp_path / "listings.csv").write_text(LISTINGS, encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"judgements\.csv"):
        shop_csv.read(tmp_path, Counter())


def test_a_file_in_another_encoding_says_how_to_save_it(tmp_path: Path) -> None:
    read(tmp_path)
    (tmp_path / "judgements.csv").write_bytes(JUDGEMENTS.encode("gbk"))  # as Excel writes it on a Chinese Windows
    with pytest.raises(DataFormatError, match=r"judgements\.csv: expected UTF-8 text, found .*; save it as UTF-8"):
        shop_csv.read(tmp_path, Counter())


def test_the_program_makes_a_dataset_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path)
    assert main(["shop-csv", str(tmp_path), str(tmp_path / "data"), "--name", "mine"]) == 0
    assert json.loads(capsys.readouterr().out)["judgements"] == 4
    assert Dataset.load(tmp_path / "data").name == "mine"
    (tmp_path / "judgements.csv").write_text(JUDGEMENTS + "lamp,p9,3\n", encoding="utf-8")
    assert main(["shop-csv", str(tmp_path), str(tmp_path / "data"), "--overwrite"]) == 1
    assert "judgements.csv:6: expected a listing_id of listings.csv, found 'p9'" in capsys.readouterr().err
