from collections import Counter
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.sets import jdsearch
from eval.sets.jdsearch import QUERY_TIME
from genrank.data.dataset import Dataset
from genrank.errors import DataFormatError, InputError

BEHAVIOUR = (
    "query\tcandidate_wid_list\tcandidate_label_list\thistory_qry_list\thistory_wid_list\thistory_type_list\t"
    "history_time_list\n"
)
PRODUCTS = (
    "wid\tname\tbrand_id\tbrand_name\tcate_id_1\tcate_name_1\tcate_id_2\tcate_name_2\tcate_id_3\tcate_name_3\t"
    "cate_id_4\tcate_name_4\tshop_id\n"
)
ROW = {
    "query": "12\x1832\x1856",
    "candidates": "456_457_789",
    "labels": "3.0_0.0_1.0",
    "queries": "323\x18328_-1_12",
    "wids": "889_256_456",
    "types": "ORD_FLW_CART",
    "times": "0_12_4_5",
}
PRODUCT = "456\t78\x1891\t5\t501\x18502\t10\t601\t47\t612\x18615\t112\t-1\t189\t\t77\n"


def write(folder: Path, *rows: dict[str, str], products: str = PRODUCT + PRODUCT.replace("456", "9")) -> Path:
    folder.mkdir(exist_ok=True)
    lines = ["\t".join((ROW | row).values()) + "\n" for row in rows]
    (folder / "user_behavior_data.txt").write_text(BEHAVIOUR + "".join(lines), encoding="utf-8")
    (folder / "product_meta_data.txt").write_text(PRODUCTS + products, encoding="utf-8")
    return folder


def test_reads(tmp_path: Path) -> None:
    notes: Counter[str] = Counter()
    dataset = jdsearch.read(write(tmp_path / "jd", {}, {"labels": "0.0_0.0_0.0"}), notes)
    (query,) = dataset.queries
    assert (query.query.query_id, query.query.text, query.time) == ("jd-2", "12 32 56", QUERY_TIME)
    assert [(e.event, e.listing.listing_id, e.query, e.time) for e in query.history] == [
        ("purchase", "889", "323 328", QUERY_TIME - timedelta(seconds=12 + 4 + 5)),
        ("click", "256", "", QUERY_TIME - timedelta(seconds=4 + 5)),
        ("cart", "456", "12", QUERY_TIME - timedelta(seconds=5)),
    ]
    assert dataset.qrels == {"jd-2": {"456": 3, "457": 0, "789": 1}}
    assert [dataset.grades[grade].gain for grade in range(4)] == [0.0, 1.0, 3.0, 7.0]
    assert dataset.first_stage == "random"
    known, unknown = dataset.listings["456"], dataset.listings["457"]
    assert (known.title, known.brand, known.category, known.seller_id) == ("78 91", "501 502", ("601", "612 615"), "77")
    assert unknown.title == "457"
    assert "9" not in dataset.listings
    assert notes["products_without_metadata"] == 4
    assert notes["queries_without_interaction"] == 1
    assert notes["follows_taken_as_clicks"] == 1
    dataset.save(tmp_path / "out")
    assert Dataset.load(tmp_path / "out") == dataset


def test_what_is_at_or_after_the_query_is_left_out_and_counted(tmp_path: Path) -> None:
    notes: Counter[str] = Counter()
    dataset = jdsearch.read(
        write(tmp_path / "jd", {"times": "0_12_9_-5"}, {"times": "0_12_0_0"}, {"times": "0_12_12_0"}), notes
    )
    past = [[event.listing.listing_id for event in query.history] for query in dataset.queries]
    assert past == [["889", "256"], ["889"], ["889", "256"]]
    assert notes["interactions_not_before_the_query"] == 1 + 2 + 1


def test_the_order_of_the_file_which_has_the_clicked_first_is_gone(tmp_path: Path) -> None:
    rows = {"candidates": "_".join(map(str, range(50))), "labels": "_".join(["1.0"] + ["0.0"] * 49)}
    dataset = jdsearch.read(write(tmp_path / "jd", *[rows] * 9), Counter())
    places = [list(ranked).index("0") for ranked in dataset.candidates.values()]
    assert len(set(places)) > 4


def test_an_empty_history_and_repeated_candidates(tmp_path: Path) -> None:
    empty = {"queries": "", "wids": "", "types": "", "times": "0", "candidates": "1_2_1", "labels": "0.0_0.0_2.0"}
    notes: Counter[str] = Counter()
    dataset = jdsearch.read(write(tmp_path / "jd", empty), notes)
    assert dataset.queries[0].history == ()
    assert dataset.qrels == {"jd-2": {"1": 2, "2": 0}}
    assert notes["repeated_candidates"] == 1


def test_a_sample_of_users_keeps_only_its_products(tmp_path: Path) -> None:
    rows = [{"candidates": f"a{i}_b{i}", "labels": "1.0_0.0"} for i in range(20)]
    folder = write(tmp_path / "jd", *rows)
    first = jdsearch.read(folder, Counter(), max_users=3)
    assert len(first.queries) == 3
    assert len(first.listings) == 3 * 2 + 3
    assert first == jdsearch.read(folder, Counter(), max_users=3)
    assert set(first.qrels) != set(jdsearch.read(folder, Counter(), 1, max_users=3).qrels)
    assert len(jdsearch.read(folder, Counter(), max_users=99).queries) == 20


def test_reads_the_public_samples_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "jd", {})
    for path in folder.iterdir():
        path.rename(path.with_stem(f"{path.stem}_sample"))
    assert len(jdsearch.read(folder, Counter()).queries) == 1


GAPS = st.lists(st.integers(-5, 9), max_size=8)


@settings(deadline=None, max_examples=50)
@given(st.lists(GAPS, min_size=1, max_size=12))
def test_no_history_holds_what_came_at_or_after_the_query(users: list[list[int]]) -> None:
    rows = []
    for gaps in users:
        count = len(gaps)
        row = {"wids": "_".join(f"w{i}" for i in range(count)), "types": "_".join(["CLICK"] * count)}
        rows.append(row | {"queries": "_".join(["-1"] * count), "times": "_".join(map(str, [0, *gaps]))})
    notes: Counter[str] = Counter()
    with TemporaryDirectory() as folder:
        dataset = jdsearch.read(write(Path(folder), *rows), notes)
    dropped = 0
    for query, gaps in zip(dataset.queries, users, strict=True):
        to_query = {f"w{i}": sum(gaps[i:]) for i in range(len(gaps))}
        expected = {wid: QUERY_TIME - timedelta(seconds=gap) for wid, gap in to_query.items() if gap > 0}
        assert {event.listing.listing_id: event.time for event in query.history} == expected
        times = [event.time for event in query.history if event.time]
        assert times == sorted(times)
        dropped += len(to_query) - len(expected)
    assert notes["interactions_not_before_the_query"] == dropped
    assert len({query.query.query_id for query in dataset.queries}) == len(users)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"query": "-1"}, r":2: expected a query, found text: "),
        ({"labels": "1.0_0.0"}, ":2: expected 3 labels for as many candidates, found 2"),
        ({"labels": "1.0_0.0_1.5"}, r":2: expected a label 0, 1, 2 or 3 in candidate_label_list, found 1\.5"),
        ({"labels": "1.0_0.0_good"}, ":2: expected numbers in candidate_label_list, found 'good'"),
        ({"labels": "1.0_0.0_nan"}, ":2: expected numbers in candidate_label_list, found 'nan'"),
        ({"types": "ORD_CLICK"}, ":2: expected 3 entries in history_type_list for 3 in history_wid_list, found 2"),
        ({"queries": "1"}, ":2: expected 3 entries in history_qry_list for 3 in history_wid_list, found 1"),
        ({"times": "0_1_2"}, ":2: expected 4 entries in history_time_list for 3 in history_wid_list, found 3"),
        ({"times": "0_1_2_1e300"}, r":2: expected gaps in seconds in history_time_list, found 1e\+300 in sum"),
        ({"types": "ORD_CLICK_BUY"}, ":2: expected CLICK, CART, ORD, FLW in history_type_list, found 'BUY'"),
        ({"candidates": "4 5_457_789"}, ":2: expected product ids joined by _ in candidate_wid_list, found '4 5'"),
        ({"wids": "889__456"}, ":2: expected product ids joined by _ in history_wid_list, found ''"),
        ({"labels": "0.0_0.0_0.0"}, ": expected a query with a label above 0, found none"),
    ],
)
def test_wrong_behaviour(tmp_path: Path, changed: dict[str, str], words: str) -> None:
    with pytest.raises(DataFormatError, match=rf"user_behavior_data\.txt{words}"):
        jdsearch.read(write(tmp_path / "jd", changed), Counter())


def test_wrong_files_and_calls(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="no folder"):
        jdsearch.read(tmp_path / "none", Counter())
    with pytest.raises(InputError, match="max_users"):
        jdsearch.read(write(tmp_path / "jd", {}), Counter(), max_users=0)
    with pytest.raises(DataFormatError, match=r"product_meta_data\.txt:3: expected each wid once"):
        jdsearch.read(write(tmp_path / "jd", {}, products=PRODUCT * 2), Counter())
    folder = write(tmp_path / "jd", {})
    for name, column in (("user_behavior_data", "history_time_list"), ("product_meta_data", "cate_name_2")):
        path = folder / f"{name}.txt"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(column, "other"), encoding="utf-8")
        with pytest.raises(DataFormatError, match=rf"{name}\.txt:1: .*no {column} in"):
            jdsearch.read(folder, Counter())
        path.write_text(text, encoding="utf-8")
