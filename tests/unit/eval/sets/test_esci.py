from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.sets import esci
from genrank.errors import DataFormatError

EXAMPLES = "shopping_queries_dataset_examples.parquet"
PRODUCTS = "shopping_queries_dataset_products.parquet"


def example(query_id: int, product_id: str, label: str, **changed: Any) -> dict[str, Any]:
    row = {
        "example_id": 0,
        "query": f"query {query_id}",
        "query_id": query_id,
        "product_id": product_id,
        "product_locale": "us",
        "esci_label": label,
        "small_version": 1,
        "large_version": 1,
        "split": "test",
    }
    return row | changed


def product(product_id: str, **changed: Any) -> dict[str, Any]:
    row = {
        "product_id": product_id,
        "product_title": f"Title {product_id}",
        "product_description": "<p>One</p><p>two</p>",
        "product_bullet_point": "Bullet",
        "product_brand": "Brand",
        "product_color": "Red",
        "product_locale": "us",
    }
    return row | changed


def write(folder: Path, examples: list[dict[str, Any]], products: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(examples), folder / EXAMPLES)
    pq.write_table(pa.Table.from_pylist(products), folder / PRODUCTS)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    examples = [
        example(1, "B1", "E"),
        example(1, "B2", "I"),
        example(1, "B3", "E", small_version=0),
        example(2, "B1", "S", split="train"),
        example(3, "B1", "C", product_locale="jp", query="ワンピース", split="train"),
    ]
    bare = dict.fromkeys(("product_title", "product_bullet_point", "product_brand", "product_color"))
    products = [
        product("B1"),
        product("B2", **bare),
        product("B3"),
        product("B1", product_locale="jp", product_title="赤いワンピース"),
    ]
    return write(tmp_path, examples, products)


def test_reads(folder: Path) -> None:
    notes: Counter[str] = Counter()
    dataset = esci.read(folder, notes)
    assert list(dataset.listings) == ["us_B1", "us_B2", "jp_B1"]
    first, bare, _ = dataset.listings.values()
    assert (first.title, first.description, first.brand) == ("Title B1", "Bullet\nOne two", "Brand")
    assert first.attributes == {"colour": "Red"}
    assert (bare.title, bare.brand, bare.attributes) == ("One two", "", {})
    assert notes["listings_without_title"] == 1
    assert dataset.qrels == {"1": {"us_B1": 3, "us_B2": 0}, "2": {"us_B1": 2}, "3": {"jp_B1": 1}}
    assert [dataset.grades[grade].gain for grade in range(4)] == [0.0, 0.01, 0.1, 1.0]
    assert dataset.queries[0].split == "test"
    assert {query.split for query in dataset.queries[1:]} <= {"train", "dev"}


def test_one_locale(folder: Path) -> None:
    dataset = esci.read(folder, Counter(), locale="jp")
    assert (list(dataset.listings), len(dataset.queries)) == (["jp_B1"], 1)
    with pytest.raises(DataFormatError, match="locale es, found none"):
        esci.read(folder, Counter(), locale="es")


def test_a_tenth_of_train_is_dev(tmp_path: Path) -> None:
    examples = [example(i, "B1", "E", split="train") for i in range(400)]
    dataset = esci.read(write(tmp_path, examples, [product("B1")]), Counter())
    assert 20 < sum(query.split == "dev" for query in dataset.queries) < 60


@pytest.mark.parametrize(
    ("examples", "products", "words"),
    [
        ([example(1, "B1", "X")], [product("B1")], "esci_label of C, E, I, S, found row 0: 'X'"),
        ([example(1, "B1", "E", split="dev")], [product("B1")], "split train or test"),
        ([example(1, "B1", "E", query=" ")], [product("B1")], "row 0: .*text"),
        ([example(1, "B1", "E", query=None), example(2, "B1", "E")], [product("B1")], "row 0: .*text"),
        ([example(1, "B9", "E")], [product("B1")], "none for 1 of 1, such as us_B9"),
        ([example(1, "B1", "E")], [product("B1"), product("B1")], "us_B1 again"),
        ([{"query": "x"}], [product("B1")], "no query_id in"),
    ],
)
def test_wrong_files(tmp_path: Path, examples: Any, products: Any, words: str) -> None:
    with pytest.raises(DataFormatError, match=words):
        esci.read(write(tmp_path, examples, products), Counter())


def test_empty_and_other_files(folder: Path, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([example(1, "B1", "E")]).slice(0, 0), folder / EXAMPLES)
    with pytest.raises(DataFormatError, match="at least one row"):
        esci.read(folder, Counter())
    (folder / EXAMPLES).write_bytes(b"no parquet")
    with pytest.raises(DataFormatError, match="a Parquet file"):
        esci.read(folder, Counter())
    with pytest.raises(DataFormatError, match="no folder"):
        esci.read(folder / EXAMPLES, Counter())
