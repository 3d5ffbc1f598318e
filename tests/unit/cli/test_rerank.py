from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genrank.cli.main import main
from genrank.data.jsonl import dump_line
from genrank.errors import EngineError
from genrank.inputs import parse_request
from genrank.models.registry import DEFAULT_MODEL
from genrank.reranker import Reranker
from genrank.testing import OracleEngine, ScriptedEngine

ROOT = Path(__file__).resolve().parents[3]
GRADES = {"p1": 1.0, "p2": 3.0}


def _line(number: int = 1, **change: Any) -> dict[str, Any]:
    candidates = [{"listing_id": f"p{i}", "title": f"Title {i}"} for i in range(3)]
    return {"query_id": f"q{number}", "query": "dress", "candidates": candidates} | change


def _without_seconds(line: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(line)
    fields["provenance"].pop("seconds")
    return fields


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "--batch: must be at least 1, got 0"),
        (["--decoding", "inline", "--window", "1"], "window: must be at least 2, got 1"),
        (["--decoding", "inline", "--window", "5", "--stride", "5"], "stride: must lie within 1..4"),
        (["--decoding", "inline", "--stride", "0"], "stride: must lie within 1..19"),
        (["--decoding", "inline", "--passes", "0"], "passes: must be at least 1, got 0"),
        (
            ["--window", "5"],
            "window: decoding pointwise asks about each candidate once, by itself, got window=5; leave",
        ),
        (["--passes", "2"], "or name a decoding that takes it: inline, first-token, listwise"),
        (["--max-prompt-tokens", "0"], "max_prompt_tokens: "),
        (["--prompt", "no-such-prompt"], "no prompt template 'no-such-prompt'; known are"),
        (["--prompt", "no-such-file.toml"], "cannot read the prompt template no-such-file.toml"),
        (["--decoding", "inline", "--prompt", "listwise"], "asks no question"),
        (["--top-k", "0"], "top_k: must be at least 1, got 0"),
        (["--reasons", "-1"], "reasons: must not be negative, got -1"),
        (["--deadline", "0"], "deadline: must be a positive number of seconds, got 0"),
        (["--deadline", "nan"], "deadline: must be a positive number of seconds, got nan"),
        (["--blend", "1.5"], "blend: must be a number within 0..1, or False, got 1.5"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_value_ends_with_2_and_names_it(
    options: list[str],
    message: str,
    requests: Path,
    asked: list[tuple[object, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["rerank", str(requests), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_the_input_is_not_overwritten(requests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = requests.read_bytes()
    other_name = requests.parent / "." / "x" / ".." / requests.name
    (requests.parent / "x").mkdir()
    for output in (requests, other_name):
        assert main(["rerank", str(requests), "-o", str(output)]) == 2
        assert "--output: is also the input" in capsys.readouterr().err
    assert requests.read_bytes() == before


def test_an_output_that_cannot_be_written(
    requests: Path, asked: list[tuple[object, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerank", str(requests), "-o", str(tmp_path / "missing" / "out.jsonl")]) == 2
    assert "--output: cannot write" in capsys.readouterr().err
    assert main(["rerank", str(requests), "-o", str(tmp_path)]) == 2
    assert "it is a folder; name a file" in capsys.readouterr().err
    assert asked == [], "no model was loaded"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a readable file, found No such file or directory"),
        (b"", "expected at least one line of JSON, found an empty file"),
        (b"\n\n", "expected at least one line of JSON, found an empty file"),
    ],
    ids=["missing", "empty", "blank"],
)
def test_a_file_without_requests_ends_with_1_before_a_model_is_loaded(
    content: bytes | None,
    message: str,
    asked: list[tuple[object, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "in.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert main(["rerank", str(path)]) == 1
    out, err = capsys.readouterr()
    assert (out, asked) == ("", [])
    assert err == f"genrank: {path}: {message}\n"


def test_a_directory_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerank", str(tmp_path)]) == 1
    assert "expected a readable file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08\x00\xff\xfe", "expected UTF-8 text, found the byte 0x8b at column 2 (is this a binary file?)"),
        (b'{"query": "dress", "candidates": [{"list', "expected one JSON object"),
        (b'["dress"]', "expected a rerank request, found a request is an object"),
        (b'{"query": "dress", "candidates": ["[red]a[/red]", {"[red]": 1}]}', "candidates[1].listing_id"),
    ],
    ids=["binary", "half a line", "a list", "no id"],
)
def test_a_wrong_line_is_told_with_its_place_and_ends_with_1(
    content: bytes,
    message: str,
    asked: list[tuple[object, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    assert main(["rerank", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error: {path}:1: " in err
    assert message in err
    assert err.endswith("0 answered, 1 wrong\n")


def test_right_lines_are_ranked_beside_wrong_ones_and_the_status_is_1(
    asked: list[tuple[object, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.jsonl"
    lines = [json.dumps(_line(1)), "{", json.dumps(_line(3)), "[]", "", json.dumps(_line(6, candidates=[]))]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert main(["rerank", str(path), "--batch", "2"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["query_id"] for line in out.splitlines()] == ["q1", "q3"]
    assert [f"{path}:{number}: " in err for number in range(1, 7)] == [False, True, False, True, False, True]
    assert err.endswith("2 answered, 3 wrong\n")


def test_after_twenty_wrong_lines_further_ones_are_only_counted(
    asked: list[tuple[object, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("{\n" * 25 + json.dumps(_line(26)), encoding="utf-8")
    assert main(["rerank", str(path)]) == 1
    out, err = capsys.readouterr()
    assert err.count("error: ") == 20
    assert f"{path}:20: " in err
    assert f"{path}:21: " not in err
    assert err.count("further wrong lines are only counted") == 1
    assert err.endswith("1 answered, 25 wrong\n")
    assert len(out.splitlines()) == 1


def _expected(line: dict[str, Any], **options: Any) -> dict[str, Any]:
    (ranking,) = Reranker(engine=OracleEngine(GRADES)).rerank_batch([parse_request(line)], **options)
    return _without_seconds(json.dumps(ranking.to_dict()))


def test_rankings_go_to_stdout_as_json_lines_and_words_to_stderr(
    requests: Path, asked: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerank", str(requests)]) == 0
    out, err = capsys.readouterr()
    assert [_without_seconds(line) for line in out.splitlines()] == [_expected(_line(1)), _expected(_line(2))]
    assert [item["listing_id"] for item in json.loads(out.splitlines()[0])["items"]] == ["p2", "p1", "p0"]
    assert err == "2 answered, 0 wrong\n"
    assert asked[0] == ("transformers", DEFAULT_MODEL, None, "auto")


def test_options_reach_the_reranker(
    requests: Path, asked: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    requests.write_text(dump_line(_line(1, query="title")), encoding="utf-8")
    options = (
        "--model shop/model --adapter mine --dtype int8 --decoding listwise --window 2 --passes 2 --top-k 2 --reasons 1"
    )
    assert main(["rerank", str(requests), *options.split()]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert asked == [("transformers", "shop/model", "mine", "int8")]
    assert [bool(item.get("reason")) for item in line["items"]] == [True, False]
    provenance = line["provenance"]
    assert (provenance["decoding"], provenance["strategy"], provenance["passes"]) == ("listwise", "sliding", 2)
    assert (provenance["window"], provenance["stride"], provenance["top"]) == (2, 1, None)
    assert provenance["prompt"].startswith("listwise@")


def test_a_trained_ranker_stands_in_for_an_engine_that_is_gone(
    requests: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("numpy")
    from genrank.rankers import gbdt

    loaded = {"runs/shop": lambda asked: [[1, 3, 2]] * len(asked)}
    monkeypatch.setattr(gbdt, "load_fallback", loaded.__getitem__)
    monkeypatch.setattr("genrank.reranker._load_engine", lambda *_: ScriptedEngine([EngineError("gone")]))
    assert main(["rerank", str(requests), "--fallback", "runs/shop"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert [item["listing_id"] for item in line["items"]] == ["p1", "p2", "p0"]
    assert (line["provenance"]["outcome"], line["provenance"]["stand_in"]) == ("fallback", "baseline")


def test_a_folder_without_a_trained_ranker_ends_the_call(
    requests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightgbm")
    assert main(["rerank", str(requests), "--fallback", str(tmp_path)]) == 1
    assert f"{tmp_path} holds no BERT + GBDT ranker" in capsys.readouterr().err


def test_rankings_go_to_a_file(
    requests: Path, asked: list[tuple[object, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests.write_text(dump_line(_line(1, query="连衣裙", query_id="查询1")), encoding="utf-8")
    output = tmp_path / "out.jsonl"
    output.write_text("what was here before", encoding="utf-8")
    assert main(["rerank", str(requests), "-o", str(output)]) == 0
    assert capsys.readouterr().out == ""
    (line,) = output.read_text(encoding="utf-8").splitlines()
    assert _without_seconds(line) == _expected(_line(1, query="连衣裙", query_id="查询1"))
    assert "查询1" in line


def test_a_dash_reads_standard_input(
    asked: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = f"{json.dumps(_line(1))}\n{{\n".encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert main(["rerank", "-"]) == 1
    out, err = capsys.readouterr()
    assert _without_seconds(out) == _expected(_line(1))
    assert "<stdin>:2: " in err


def test_the_table_shows_titles_and_moves_and_reads_no_markup(
    requests: Path, asked: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    titles = ["Coat", "[red]x[/red]", "[/] :smile:"]
    candidates = [{"listing_id": f"p{i}", "title": title} for i, title in enumerate(titles)]
    requests.write_text(dump_line(_line(1, query="[bold]q", candidates=candidates)), encoding="utf-8")
    assert main(["rerank", str(requests), "--format", "table"]) == 0
    out = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    assert [row[:-1] for row in rows if row and row[0] in "123"] == [
        ["1", "↑2", "[/]", ":smile:"],
        ["2", "=", "[red]x[/red]"],
        ["3", "↓2", "Coat"],
    ]
    assert "[bold]q" in out
    assert "oracle · pointwise" in out


def test_an_interrupt_ends_with_130_and_says_how_far_it_came(
    requests: Path, asked: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batches: list[object] = []
    rerank_batch = Reranker.rerank_batch

    def interrupted(self: Reranker, *args: Any, **options: Any) -> Any:
        batches.append(args)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return rerank_batch(self, *args, **options)

    monkeypatch.setattr(Reranker, "rerank_batch", interrupted)
    assert main(["rerank", str(requests), "--batch", "1"]) == 130
    out, err = capsys.readouterr()
    assert json.loads(out)["query_id"] == "q1"
    assert "1 answered, 0 wrong" in err
    assert "interrupted" in err


def test_the_answer_to_a_line_without_an_id_holds_its_line(
    asked: list[tuple[object, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.jsonl"
    nameless = {key: value for key, value in _line().items() if key != "query_id"}
    lines = [json.dumps(nameless), "{", "", json.dumps(_line(4)), json.dumps(nameless), json.dumps(nameless)]
    path.write_text("\r\n".join(lines), encoding="utf-8")
    assert main(["rerank", str(path), "--batch", "2"]) == 1
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(answer.get("line"), answer["query_id"]) for answer in answers] == [(1, ""), (None, "q4"), (5, ""), (6, "")]
    assert main(["rerank", str(path), "--format", "table"]) == 1
    out = capsys.readouterr().out
    assert [f"dress (line {number})" in out for number in range(1, 7)] == [True, False, False, False, True, True]


def test_a_dash_as_output_is_stdout(
    requests: Path, asked: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerank", str(requests), "-o", "-"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"query": "red\0dress"}, 0),
        ({"query": "\0"}, 1),
        ({"candidates": [{"listing_id": "a", "title": "x", "score": 10**400}]}, 1),
        ({"candidates": [{"listing_id": "a", "title": "x", "price": {"amount": 10**400}}]}, 1),
        ({"candidates": [{"listing_id": "a", "title": "x", "rating_count": -(10**400)}]}, 1),
        ({"candidates": [{"listing_id": "a", "title": "x", "rank": 10**4000}]}, 0),
        ({"candidates": [{"listing_id": "a", "title": "x", "score": 1e308}]}, 0),
        ({"candidates": [{"listing_id": "a\n", "title": "x"}]}, 1),
    ],
)
def test_odd_values_cost_one_line_at_most(
    change: dict[str, Any],
    status: int,
    requests: Path,
    asked: list[tuple[object, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    requests.write_text(json.dumps(_line(1, **change)) + "\n" + json.dumps(_line(2)), encoding="utf-8")
    assert main(["rerank", str(requests)]) == status
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 - status
    assert len(err.splitlines()) == 1 + status
    assert max(map(len, err.splitlines())) < 500


def _process(*arguments: str, redirect: str = "") -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m genrank {' '.join(arguments)} {redirect}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "redirect", "status", "expected"),
    [
        ("rerank -", "<&-", 1, "genrank: <stdin>: expected request lines, found standard input is closed"),
        ("rerank -", "</dev/null >&-", 2, "genrank: --output: standard output is closed; name a file"),
        ("prompts list", ">/dev/full", 1, "genrank: [Errno 28] No space left on device"),
        ("prompts show inline", ">/dev/full", 1, "genrank: [Errno 28] No space left on device"),
        ("prompts list", ">&-", 0, ""),
        ("rerank no-such-file", "2>&-", 1, ""),
    ],
)
def test_streams_that_are_closed_or_full(arguments: str, redirect: str, status: int, expected: str) -> None:
    done = _process(arguments, redirect=redirect)
    assert (done.returncode, done.stdout, done.stderr.rstrip("\n")) == (status, "", expected)


def test_a_blend_needs_scores_and_a_line_without_them_is_wrong(
    asked: list[tuple[object, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.jsonl"
    scored = [{"listing_id": f"p{i}", "title": f"Title {i}", "score": -i} for i in range(3)]
    path.write_text("\n".join([json.dumps(_line(1, candidates=scored)), json.dumps(_line(2))]), encoding="utf-8")
    assert main(["rerank", str(path), "--blend", "0"]) == 1
    out, err = capsys.readouterr()
    (line,) = map(json.loads, out.splitlines())
    assert [item["listing_id"] for item in line["items"]] == ["p0", "p1", "p2"]
    assert line["provenance"]["blend"] == 0.0
    assert "in.jsonl:2: " in err
    assert "candidates[0].score: blend=0 needs the first stage's score" in err
    assert main(["rerank", str(path), "--blend", "off"]) == 0
    assert [json.loads(line)["provenance"]["blend"] for line in capsys.readouterr().out.splitlines()] == [None, None]


def test_an_engine_may_be_a_servers_address(
    requests: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Any, ...]] = []

    def connect(*given: Any, **options: Any) -> OracleEngine:
        asked.append((*given, options["adapter"]))
        return OracleEngine(GRADES)

    monkeypatch.setattr("genrank.remote.connect.connect", connect)
    assert main(["rerank", str(requests), "--engine", "http://host:8000/v1"]) == 0
    assert main(["rerank", str(requests), "--engine", "http://host", "--model", "m", "--adapter", "a"]) == 0
    assert asked == [("http://host:8000/v1", None, None), ("http://host", "m", "a")]
    assert capsys.readouterr().out.count('"listing_id": "p1", "rank": 2') == 4
    assert main(["rerank", str(requests), "--engine", "host:8000"]) == 2
    assert "engine: must be transformers, vllm, a server's address (http://...)" in capsys.readouterr().err
