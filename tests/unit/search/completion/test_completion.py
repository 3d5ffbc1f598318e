"""Suggestions begin with what was typed, the likeliest first, and hold nothing private."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

pytest.importorskip("bm25s")
pytest.importorskip("pypinyin")

from genrank.engines.base import ScoreRequest
from genrank.errors import DataFormatError, EngineError, InputError
from genrank.search.completion import Completion
from genrank.search.index import Index
from genrank.testing import ScriptedEngine, WordTokenizer
from genrank.types import Listing

LISTINGS = [
    Listing("1", "Linen dress", brand="Ada", category=("Women", "Dresses")),
    Listing("2", "Linen dress, long", brand="Ada", category=("Women", "Dresses")),
    Listing("3", "夏季连衣裙", category=("女装", "连衣裙")),
    Listing("4", "蓝牙耳机", category=("数码", "耳机")),
]
QUERIES = {"summer dress": 40, "summer hat": 9, "sun cream": 20, "连衣裙 夏季": 30, "ann's secret": 2, "蓝牙耳机": 5}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.create(tmp_path / "index") as index:
        index.add(LISTINGS)
        yield index


@pytest.fixture
def completion(index: Index) -> Iterator[Completion]:
    with Completion.of(index, QUERIES) as completion:
        yield completion


def texts(completion: Completion, prefix: str, count: int = 8) -> list[str]:
    return [one.text for one in completion.complete(prefix, count)]


def test_the_most_frequent_come_first(completion: Completion) -> None:
    assert texts(completion, "SU") == texts(completion, "su") == ["summer dress", "sun cream", "summer hat"]
    assert texts(completion, "su", 2) == ["summer dress", "sun cream"]
    assert texts(completion, "summer ") == ["summer dress", "summer hat"]
    scores = [one.score for one in completion.complete("su")]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[-1] < scores[0] <= 1


def test_prefixes_of_every_length_find_the_same(completion: Completion) -> None:
    for text in QUERIES.keys() - {"ann's secret"} | {"Linen dress", "Dresses", "Ada", "女装"}:
        for end in range(1, len(text) + 1):
            assert text.lower() in [one.lower() for one in texts(completion, text[:end], 50)], text[:end]


@pytest.mark.parametrize("prefix", ["lianyiqun", "lyq", "LIANYI", "lian yi", "连衣q", "莲衣裙", "连衣裙x"])
def test_chinese_is_found_by_its_sound(completion: Completion, prefix: str) -> None:
    first = completion.complete(prefix)[0]
    assert (first.text, first.match) == ("连衣裙 夏季", "sound")


def test_one_letter_may_be_wrong(completion: Completion) -> None:
    for prefix in ("sumer d", "summr dr", "sumemr d", "summerr d"):
        found = completion.complete(prefix)
        assert [(one.text, one.match) for one in found] == [("summer dress", "spelling")], prefix
    assert texts(completion, "zummer") == texts(completion, "smr d") == []


def test_last_words_are_completed_after_others(completion: Completion) -> None:
    (found, *_) = completion.complete("cheap summer d")
    assert (found.text, found.match) == ("cheap summer dress", "words")
    assert texts(completion, "cheap s") == []
    assert texts(completion, "<|im_start|>system summer d") == []


def test_sources_are_told(completion: Completion) -> None:
    sources = {prefix: completion.complete(prefix)[0].source for prefix in ("summer d", "dresses", "ada", "linen")}
    assert sources == {"summer d": "query", "dresses": "category", "ada": "brand", "linen": "title"}


@pytest.mark.parametrize(
    "prefix", ["", "  ", "\n", "x" * 61, "%", "_", "s*", "'", '"; DROP TABLE keys', "\ud800", "\0"]
)
def test_nothing_in_a_prefix_is_syntax(completion: Completion, prefix: str) -> None:
    assert completion.complete(prefix) == []
    assert texts(completion, "sun") == ["sun cream"]


@pytest.mark.parametrize(("prefix", "count", "field"), [(None, 8, "prefix"), ("s", 0, "count"), ("s", "8", "count")])
def test_wrong_arguments_are_named(completion: Completion, prefix: str, count: int, field: str) -> None:
    with pytest.raises(InputError, match=field):
        completion.complete(prefix, count)


def test_what_few_shoppers_asked_is_not_in_the_file(completion: Completion, index: Index) -> None:
    assert texts(completion, "ann") == []
    completion.close()
    assert all(b"secret" not in file.read_bytes() for file in index.path.glob("completion.sqlite*"))


def test_updates_replace_only_what_is_counted_again(completion: Completion) -> None:
    assert texts(completion, "linen") == ["linen", "linen dress"]
    completion.update({"winter coat": 7})
    assert texts(completion, "winter") == ["winter coat"]
    assert texts(completion, "summer") == []
    assert texts(completion, "lyq") == ["连衣裙"]
    completion.update(listings=[Listing("9", "Teapot", category=("Kitchen",))])
    assert texts(completion, "kit") == ["Kitchen"]
    assert texts(completion, "linen") == texts(completion, "lyq") == []
    assert texts(completion, "winter") == ["winter coat"]
    assert len(completion) == 2


def test_made_again_it_keeps_the_queries_and_blocks_words(completion: Completion, index: Index) -> None:
    with Completion.of(index, blocked=["cream"]) as again:
        assert texts(again, "su") == ["summer dress", "summer hat"]
    with Completion.open(index.path) as opened:
        opened.update(QUERIES)
        assert texts(opened, "su") == ["summer dress", "summer hat"]


def _reader(folder: Path, connection: Connection) -> None:
    with Completion.open(folder) as completion:
        connection.send(None)
        while (prefix := connection.recv()) is not None:
            connection.send([one.text for one in completion.complete(prefix)])


def test_another_process_sees_an_update_at_its_next_keystroke(completion: Completion, index: Index) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_reader, args=(index.path, there))
    process.start()
    here.recv()
    for query in ("winter coat", "wind chime"):
        completion.update({query: 3})
        here.send("wi")
        assert here.recv() == [query]
    here.send(None)
    process.join()


def test_threads_type_while_it_is_updated(completion: Completion) -> None:
    done = threading.Event()
    wrong: list[list[str]] = []

    def typing() -> None:
        while not done.is_set():
            found = texts(completion, "su")
            if found not in (["summer dress", "sun cream", "summer hat"], ["sun hat"]):
                wrong.append(found)

    threads = [threading.Thread(target=typing) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        completion.update({"sun hat": 9})
        completion.update(QUERIES)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


class Judge(ScriptedEngine):
    """Says yes to what holds a word, and no to the rest."""

    def __init__(self, word: str, model: str = "judge") -> None:
        tokenizer = WordTokenizer()

        def answer(request: object) -> list[list[float]]:
            assert isinstance(request, ScoreRequest)
            sign = 1 if word in tokenizer.decode(request.ids) else -1
            return [
                [sign * (5.0 if token.strip() in ("yes", "是") else 0.0) for token in tokenizer.texts(request.targets)]
            ]

        super().__init__(answer, tokenizer=tokenizer)
        self.model = model


def test_the_model_changes_the_order_and_is_asked_once(completion: Completion) -> None:
    judge = Judge(" hat")
    every = len(completion)
    assert completion.judge(judge) == every == len(judge.requests)
    assert texts(completion, "su") == ["summer hat", "summer dress", "sun cream"]
    assert completion.judge(judge) == 0
    completion.update(QUERIES | {"sun hat": 3})
    assert texts(completion, "su")[0] == "summer hat"
    assert completion.judge(judge) == 1
    assert texts(completion, "su") == ["summer hat", "summer dress", "sun hat", "sun cream"]


def test_another_model_judges_again(completion: Completion) -> None:
    completion.judge(Judge(" hat"))
    assert completion.judge(Judge("cream", model="other")) == len(completion)
    assert texts(completion, "su", 1) == ["sun cream"]


def test_only_the_first_are_judged_and_the_weight_decides(index: Index) -> None:
    with Completion.of(index, QUERIES, model_weight=0.0) as completion:
        judge = Judge(" hat")
        assert completion.judge(judge, top=2) == 2
        asked = [judge.tokenizer.decode(one.ids) for one in judge.requests]
        assert "summer dress" in asked[0]
        assert "连衣裙 夏季" in asked[1]
        assert texts(completion, "su", 1) == ["summer dress"]


def test_a_failing_judge_loses_nothing(completion: Completion) -> None:
    with pytest.raises(EngineError, match="gone"):
        completion.judge(ScriptedEngine([EngineError("gone")]))
    assert texts(completion, "su") == ["summer dress", "sun cream", "summer hat"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"least_shoppers": 0}, "least_shoppers"),
        ({"half_life_days": 0}, "half_life_days"),
        ({"model_weight": 1.5}, "model_weight"),
        ({"blocked": "word"}, "blocked"),
        ({"blocked": ["!"]}, "blocked\\[0\\]"),
    ],
)
def test_wrong_settings_are_named(index: Index, options: dict[str, object], field: str) -> None:
    with pytest.raises(InputError, match=field):
        Completion.of(index, QUERIES, **options)  # type: ignore[arg-type]
    assert not Completion.exists(index.path)


def test_missing_damaged_and_foreign_files_are_named(completion: Completion, index: Index, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no suggestions in"):
        Completion.open(tmp_path)
    with pytest.raises(InputError, match="must be an Index"):
        Completion.of([])  # type: ignore[arg-type]
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(DataFormatError, match="suggestions of genrank"):
        Completion.open(tmp_path / "text")
    with closing(sqlite3.connect(tmp_path / "other")) as connection:
        connection.execute("CREATE TABLE t (a)")
    with pytest.raises(DataFormatError, match="another database"):
        Completion.of(index, path=tmp_path / "other")
    completion.close()
    with pytest.raises(InputError, match="open them again"):
        completion.complete("su")
    with closing(sqlite3.connect(completion.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(DataFormatError, match="version 99"):
        Completion.open(index.path)
