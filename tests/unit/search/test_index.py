from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrank import Reranker, sample_shop
from genrank.engines.base import ScoreRequest
from genrank.errors import ConfigError, DataFormatError, InputError, ModelError
from genrank.search.bm25 import Bm25, listing_text, tokenise
from genrank.search.dense import Vectors, encoded_text
from genrank.search.filters import Filters
from genrank.search.index import MOST_WORDS, Index
from genrank.testing import AnyRequest, ScriptedEngine
from genrank.types import Listing, Price

LISTINGS = list(sample_shop().listings.values())
SIZE = 64


def encode(texts: Sequence[str]) -> Vectors:
    """Counts of words, by a hash of the word."""
    vectors = np.zeros((len(texts), SIZE), dtype=np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        for word in tokenise(text):
            vector[sum(map(ord, word)) % SIZE] += 1
    return vectors


def other(texts: Sequence[str]) -> Vectors:
    return -encode(texts)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.create(tmp_path / "index", encoder=encode) as made:
        made.add(LISTINGS)
        yield made


def ids(found: Sequence[Any]) -> list[str]:
    return [one.listing.listing_id for one in found]


def test_listings_come_back_whole(index: Index) -> None:
    odd = Listing(
        "id'\"--;*\u00e9",
        'A "title" with NUL \x00, a half \ud800 and \U0001f457',
        brand="\udfff",
        category=("a", "b\x00c"),
        price=Price(0.1 + 0.2),
        attributes={"": "", "a": "", "b\x00": "\ud800"},
        rating=0,
        rating_count=10**400,
        in_stock=False,
        reviews=("", "fine"),
    )
    index.add([odd])
    assert index.get([odd.listing_id, "nowhere", LISTINGS[3].listing_id]) == [odd, LISTINGS[3]]
    assert list(index) == [*LISTINGS, odd]
    assert len(index) == len(LISTINGS) + 1
    found = index.search("title half", filters=Filters(brand="\udfff", attributes={"b\x00": "\ud800"}))
    assert [one.listing for one in found] == [odd]


def test_text_search_orders_as_bm25_does(index: Index) -> None:
    bm25 = Bm25(LISTINGS, stem=True)
    for query in ("summer dress", "wireless headphones", "连衣裙 夏季", "laptop stand for the desk"):
        scores = {one: score for one, score in bm25.search(query, len(LISTINGS)).items() if score > 0.01}
        found = index.search(query, mode="text", k=len(LISTINGS))
        assert set(ids(found)) == set(scores)
        assert ids(found)[:5] == list(scores)[:5]
        assert [one.rank for one in found] == list(range(1, len(found) + 1))


def test_frequent_words_alone_find_nothing_where_rarer_ones_do(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    for query in ("the summer dress with a pocket", "the and with for zeppelin", "headphones with the mug"):
        full = {one.listing.listing_id: one.score for one in index.search(query, mode="text", k=1000)}
        monkeypatch.setattr("genrank.search.index.MOST_SCORED", 25)
        rare, frequent = index._split(tokenise(query, stem=True))
        assert frequent
        few = index.search(query, mode="text", k=5)
        assert len(few) == 5
        assert [one.score for one in few] == pytest.approx([full[one] for one in ids(few)])
        for one in few:
            assert set(rare) & set(tokenise(listing_text(one.listing), stem=True))
        assert ids(index.search(query, mode="text", k=1000)) == list(full)
        monkeypatch.undo()
        if "dress" in query:
            assert ids(few) == list(full)[:5]


def test_chinese_words_are_found_inside_a_run(index: Index) -> None:
    found = index.search("连衣裙", mode="text", k=3)
    assert len(found) == 3
    assert all("连衣裙" in one.listing.title + one.listing.description for one in found)


def test_dense_search_is_exact(index: Index) -> None:
    vectors = encode([encoded_text(listing) for listing in LISTINGS])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = encode(["summer dress"])[0]
    cosines = vectors @ query / np.linalg.norm(query)
    found = index.search("summer dress", mode="dense", k=20)
    assert [one.score for one in found] == pytest.approx(sorted(cosines, reverse=True)[:20], abs=1e-5)
    cheap = Filters(price_max=20)
    filtered = index.search("summer dress", mode="dense", k=1000, filters=cheap)
    assert set(ids(filtered)) == {one.listing_id for one in LISTINGS if one.price and one.price.amount <= 20}


def test_fused_joins_both_rankings(index: Index) -> None:
    ranks: dict[str, float] = {}
    for mode in ("text", "dense"):
        for one in index.search("summer dress", mode=mode, k=100):
            assert one.rank is not None
            ranks[one.listing.listing_id] = ranks.get(one.listing.listing_id, 0) + 1 / (60 + one.rank)
    found = index.search("summer dress", k=10)
    assert [one.score for one in found] == pytest.approx(sorted(ranks.values(), reverse=True)[:10])
    assert all(one.score == pytest.approx(ranks[one.listing.listing_id]) for one in found)


def test_a_change_is_found_at_once_and_handed_back_for_the_reranker(index: Index) -> None:
    first = LISTINGS[0]
    index.search("anything", mode="dense")  # the vectors are in memory now
    changed = dataclasses.replace(first, title="Zeppelin pump", description="", attributes={})
    assert index.add([first, changed, LISTINGS[1]]) == [changed]
    for mode in ("text", "dense", "fused"):
        assert ids(index.search("zeppelin pump", mode=mode, k=1)) == [first.listing_id]
    assert first.listing_id not in ids(index.search(first.title, mode="text", k=1000))
    assert index.add([changed]) == []
    assert index.remove([first.listing_id, "nowhere", f"{LISTINGS[1].listing_id}\0x"]) == 1
    for mode in ("text", "dense"):
        assert first.listing_id not in ids(index.search("zeppelin pump", mode=mode, k=1000))  # type: ignore[arg-type]
    assert len(index) == len(LISTINGS) - 1


def test_changed_listings_warm_a_reranker(index: Index) -> None:
    def answer(request: AnyRequest) -> list[list[float]]:
        assert isinstance(request, ScoreRequest)
        asked.append(tuple(request.listing_ids))
        return [[0.0] * len(request.targets)] * len(request.reads)

    asked: list[tuple[str, ...]] = []
    engine = ScriptedEngine(answer)
    reranker = Reranker(engine=engine, decoding="pointwise")
    changed = dataclasses.replace(LISTINGS[0], title="Zeppelin pump")
    warmed = reranker.warm(index.add([changed, *LISTINGS[1:5]]))
    assert (warmed.new, warmed.left) == (1, 0)
    assert asked == [(changed.listing_id,)]


def test_a_failed_call_changes_nothing(index: Index) -> None:
    with pytest.raises(InputError, match=r"listings\[1\]\.title"):
        index.add([Listing("new", "New"), {"listing_id": "x"}])
    with pytest.raises(InputError, match=r"listings\[1\]: must be a Listing or dict, got the text 'New'"):
        index.add([Listing("new", "New"), "New"])  # type: ignore[list-item]
    assert index.get(["new"]) == []
    broken = dataclasses.replace(LISTINGS[0], title="Broken")
    index._encoder.encode = lambda texts, **options: np.full((1, 3), 0.1, np.float32)  # type: ignore[method-assign,union-attr]
    with pytest.raises(ConfigError, match="holds vectors of 64 numbers, and the encoder gives 3"):
        index.add([broken])
    assert index.get([broken.listing_id]) == [LISTINGS[0]]


def test_a_listing_that_does_not_say_meets_no_condition(tmp_path: Path) -> None:
    full = Listing("full", "Red hat", price=Price(10, "EUR"), in_stock=True, brand="B", category=("Hats", "Red"))
    silent, out = Listing("silent", "Red hat"), Listing("out", "Red hat", in_stock=False, price=Price(10))
    with Index.create(tmp_path) as index:
        index.add([full, silent, out])

        def found(**conditions: Any) -> set[str]:
            return set(ids(index.search("hat", filters=Filters(**conditions))))

        assert found() == {"full", "silent", "out"}
        assert found(price_min=0) == found(price_max=10) == {"full", "out"}
        assert found(price_min=10, currency="EUR") == found(currency="EUR") == {"full"}
        assert found(price_min=10.01) == set()
        assert found(in_stock=True) == {"full"}
        assert found(in_stock=False) == {"out"}
        assert found(brand="B") == found(category=("Hats",)) == found(category=("Hats", "Red")) == {"full"}
        assert found(category=("Hat",)) == found(category=("Red",)) == found(brand="b") == set()
        assert found(without_ids=["full", "out\0"]) == {"silent", "out"}
        assert found(without_words=["red shoe"]) == {"full", "silent", "out"}
        assert found(without_words=["blue", "reds hat"]) == set()


@pytest.mark.parametrize(
    "text",
    [
        *(
            '" OR *',
            "NEAR(dress, 2)",
            "cut:dress",
            "dress*",
            "^dress",
            "-dress AND NOT",
            "(",
            "'; DROP TABLE words; --",
        ),
        *(
            "dress \x00 red",
            "\U0001f457",
            "\ud800 dress",
            "c++ .net #",
            "1" * 100_000,
            "dress " * 20_000,
            "裙" * 30_000,
        ),
        " ".join(f"w{i}" for i in range(20_000)),
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_no_text_is_syntax(index: Index, text: str) -> None:
    for mode in ("text", "fused"):
        found = index.search(text, mode=mode)
        if "dress" in text:
            assert any("dress" in one.listing.title.lower() for one in found)


def test_words_after_the_first_ones_do_not_count(index: Index) -> None:
    many = " ".join(f"w{i}" for i in range(MOST_WORDS))
    assert index.search(f"{many} dress", mode="text") == []
    assert index.search(f"dress {many}", mode="text")


def test_many_excluded_words_are_possible(index: Index) -> None:
    assert index.search("dress", filters=Filters(without_words=tuple(f"w{i} x{i}" for i in range(2000))))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"text": " "}, "query: must hold a visible character"),
        ({"text": None}, "query: must be a Query or text"),
        ({"k": 0}, "k: must be at least 1"),
        ({"mode": "both"}, "mode: must be one of fused, text, dense"),
        ({"filters": {"brand": "x"}}, "filters: must be Filters"),
    ],
)
def test_wrong_arguments_are_named(index: Index, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        index.search(**{"text": "dress"} | wrong)


def test_ids_are_a_list_of_texts(index: Index) -> None:
    with pytest.raises(InputError, match="must be a list of ids, got the text 'abc'"):
        index.get("abc")
    with pytest.raises(InputError, match=r"listing_ids\[0\]: must be text, got 1"):
        index.remove([1])  # type: ignore[list-item]


def test_words_alone_need_no_encoder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Index.create(tmp_path) as index, caplog.at_level(logging.WARNING):
        index.add(LISTINGS)
        assert index.search("summer dress") == index.search("summer dress", mode="text")
        index.search("summer dress")
        assert [one.getMessage() for one in caplog.records] == [
            f"{tmp_path} is open without an encoder, so fused searches words alone"
        ]
        with pytest.raises(InputError, match="mode: dense needs an index made and opened with an encoder"):
            index.search("summer dress", mode="dense")


def test_the_library_loads_no_torch() -> None:
    code = "import sys, genrank.search.index; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_another_encoder_is_refused(index: Index, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds the vectors of .*encode, and the encoder is .*other"):
        Index.open(index.path, encoder=other)
    with Index.open(index.path) as plain:
        assert plain.search("summer dress", mode="text") == index.search("summer dress", mode="text")
        with pytest.raises(ConfigError, match="open it with that encoder to add to it"):
            plain.add(LISTINGS)
    Index.create(tmp_path / "words").close()
    with pytest.raises(ConfigError, match="holds no vectors"):
        Index.open(tmp_path / "words", encoder=encode)


def test_settings_are_kept(tmp_path: Path) -> None:
    with Index.create(tmp_path, fields=["title"], stem=False) as index:
        index.add([Listing("a", "Dresses", brand="Brandy")])
    with Index.open(tmp_path) as index:
        assert index.fields == ("title",)
        assert not index.search("brandy")
        assert not index.search("dress")
        assert index.search("dresses")
    with pytest.raises(InputError, match=r"path: .* holds an index already"):
        Index.create(tmp_path)
    with pytest.raises(InputError, match="fields: no such text field"):
        Index.create(tmp_path / "b", fields=["titel"])  # type: ignore[list-item]


def test_what_is_no_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="path: no index in"):
        Index.open(tmp_path)
    file = tmp_path / "index.sqlite"
    for content in (b"", b"not a database " * 100):
        file.write_bytes(content)
        with pytest.raises(DataFormatError, match="expected an index of genrank"):
            Index.open(tmp_path)
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as foreign, foreign:
        foreign.execute("CREATE TABLE t (x)")
    foreign.close()
    with pytest.raises(DataFormatError, match="expected an index of genrank"):
        Index.open(tmp_path)
    with pytest.raises(InputError, match="holds an index already"):
        Index.create(tmp_path)


def test_another_version_is_named(tmp_path: Path) -> None:
    Index.create(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as raw, raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(DataFormatError, match="expected an index of version 1, found version 99"):
        Index.open(tmp_path)


def test_damage_is_named(index: Index) -> None:
    index.close()
    file = index.path / "index.sqlite"
    content = bytearray(file.read_bytes())
    content[8192:] = os.urandom(len(content) - 8192)
    file.write_bytes(content)

    def read_all() -> None:
        with Index.open(index.path, encoder=encode) as damaged:
            list(damaged)
            damaged.search("dress")

    with pytest.raises(DataFormatError, match=r"found a damaged file .* make it again with genrank index"):
        read_all()


def test_a_closed_index_says_so(index: Index) -> None:
    index.close()
    with pytest.raises(InputError, match="index: the index cannot be used"):
        index.search("dress")


def write_for_ever(path: Path, said: Connection) -> None:
    with Index.open(path, encoder=encode) as index:
        for i in range(1_000_000):
            index.add([Listing(f"new{i}", f"Zeppelin{i} pump"), Listing("counter", f"Counter {i}")])
            said.send(i)


def test_a_killed_writer_loses_nothing_that_was_acknowledged(index: Index) -> None:
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        here, there = context.Pipe(duplex=False)
        writer = context.Process(target=write_for_ever, args=(index.path, there))
        writer.start()
        there.close()
        last = -1
        while last < 20:
            last = here.recv()
            # seen at once by this process
            assert f"new{last}" in ids(index.search(f"zeppelin{last}", mode="text"))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        while here.poll():
            try:
                last = here.recv()
            except EOFError:
                break
        here.close()
        with Index.open(index.path, encoder=encode) as again:
            assert len(again.get([f"new{i}" for i in range(last + 1)])) == last + 1
            (counter,) = again.get(["counter"])
            assert int(counter.title.split()[1]) >= last
            assert again.search(f"zeppelin{last}", k=1)[0].listing.listing_id == f"new{last}"
            again.remove([f"new{i}" for i in range(last + 2)])


def test_iteration_sees_one_state(index: Index) -> None:
    seen = iter(index)
    first = next(seen)
    index.add([dataclasses.replace(first, title="Changed")])
    index.remove([LISTINGS[5].listing_id])
    assert [first, *seen] == LISTINGS


def test_a_model_that_fails_is_an_error(tmp_path: Path) -> None:
    def broken(texts: Sequence[str]) -> Vectors:
        return np.full((len(texts), 2), np.inf, dtype=np.float32)

    with Index.create(tmp_path, encoder=broken) as index, pytest.raises(ModelError, match="not finite"):
        index.add(LISTINGS[:2])


def test_compacting_changes_no_result(index: Index) -> None:
    for i in range(20):
        index.add([dataclasses.replace(one, title=f"{one.title} {i}") for one in LISTINGS[:10]])
    before = index.search("summer dress")
    index.compact()
    assert index.search("summer dress") == before
