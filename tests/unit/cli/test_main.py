from __future__ import annotations

import io
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genrank.cli.main import main
from genrank.data.jsonl import dump_line
from genrank.engines.base import Engine
from genrank.inputs import parse_request
from genrank.models.registry import KNOWN_MODELS
from genrank.prompting.template import load_template, template_names
from genrank.reranker import Reranker
from genrank.testing import OracleEngine, ScriptedEngine, WordTokenizer

GRADES = {"p1": 1.0, "p2": 3.0}


def _line(number: int = 1, **change: Any) -> dict[str, Any]:
    candidates = [{"listing_id": f"p{i}", "title": f"Title {i}"} for i in range(3)]
    return {"query_id": f"q{number}", "query": "dress", "candidates": candidates} | change


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    """A file with two right request lines."""
    path = tmp_path / "requests.jsonl"
    path.write_text(dump_line(_line(1)) + dump_line(_line(2)), encoding="utf-8")
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Which engines were asked for; in place of each comes one that knows the grades."""
    calls: list[tuple[object, ...]] = []

    def load(engine: object, model: str, adapter: str | None) -> Engine:
        calls.append((engine, model, adapter))
        return OracleEngine(GRADES)

    monkeypatch.setattr("genrank.reranker._load_engine", load)
    return calls


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENRANK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")


def _without_seconds(line: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(line)
    fields["provenance"].pop("seconds")
    return fields


# ---------------------------------------------------------------------------------------------------------------------
# Wrong calls
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["rerank"],
        ["rerank", "x.jsonl", "--no-such-option"],
        ["rerank", "x.jsonl", "--decoding", "pointwise"],
        ["rerank", "x.jsonl", "--strategy", "knockout"],
        ["rerank", "x.jsonl", "--window", "many"],
        ["rerank", "x.jsonl", "--format", "xml"],
        ["models"],
        ["models", "fetch"],
        ["models", "fetch", "smollm2-135m", "--source", "floppy"],
        ["prompts"],
        ["prompts", "show"],
        ["prompts", "render"],
        ["prompts", "render", "inline", "--decoding", "pointwise"],
    ],
    ids=" ".join,
)
def test_a_call_that_cannot_be_parsed_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: genrank" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "--batch: must be at least 1, got 0"),
        (["--window", "1"], "window: must be at least 2, got 1"),
        (["--window", "5", "--stride", "5"], "stride: must lie within 1..4"),
        (["--stride", "0"], "stride: must lie within 1..19"),
        (["--passes", "0"], "passes: must be at least 1, got 0"),
        (["--max-prompt-tokens", "0"], "max_prompt_tokens: "),
        (["--prompt", "no-such-prompt"], "no prompt template 'no-such-prompt'; known are"),
        (["--prompt", "no-such-file.toml"], "cannot read the prompt template no-such-file.toml"),
        (["--prompt", "listwise"], "asks no question"),
        (["--top-k", "0"], "top_k: must be at least 1, got 0"),
        (["--reasons", "-1"], "reasons: must not be negative, got -1"),
        (["--deadline", "0"], "deadline: must be a positive number of seconds, got 0"),
        (["--deadline", "nan"], "deadline: must be a positive number of seconds, got nan"),
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


# ---------------------------------------------------------------------------------------------------------------------
# Wrong files
# ---------------------------------------------------------------------------------------------------------------------


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
    assert err.endswith("0 ranked, 1 wrong\n")


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
    assert err.endswith("2 ranked, 3 wrong\n")


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
    assert err.endswith("1 ranked, 25 wrong\n")
    assert len(out.splitlines()) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Ranking
# ---------------------------------------------------------------------------------------------------------------------


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
    assert err == "2 ranked, 0 wrong\n"
    assert asked[0] == ("transformers", "smollm2-135m", None)


def test_options_reach_the_reranker(
    requests: Path, asked: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--model shop/model --adapter mine --decoding listwise --window 2 --passes 2 --top-k 2 --reasons 1"
    assert main(["rerank", str(requests), *options.split()]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert asked == [("transformers", "shop/model", "mine")]
    assert [bool(item.get("reason")) for item in line["items"]] == [True, False]
    provenance = line["provenance"]
    assert (provenance["decoding"], provenance["strategy"], provenance["passes"]) == ("listwise", "sliding", 2)
    assert (provenance["window"], provenance["stride"], provenance["top"]) == (2, 1, None)
    assert provenance["prompt"].startswith("listwise@")


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
    assert "oracle · inline" in out


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
    assert "1 ranked, 0 wrong" in err
    assert "interrupted" in err


# ---------------------------------------------------------------------------------------------------------------------
# Models and the rest
# ---------------------------------------------------------------------------------------------------------------------


def test_models_list_names_every_known_model_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    for name in KNOWN_MODELS:
        assert name in out


def test_models_fetch_of_an_unknown_name_ends_with_1_and_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "fetch", "smollm2-135n"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "'smollm2-135n' is no known model; did you mean 'smollm2-135m'?" in err


# ---------------------------------------------------------------------------------------------------------------------
# Prompts
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models whose tokenizer was asked for; in place of each comes one that knows words."""
    asked: list[str] = []

    class Words:
        def __init__(self) -> None:
            self.words = WordTokenizer()

        def decode(self, ids: list[int], **_: object) -> str:
            return self.words.decode(ids)

    def load(model: str) -> tuple[Words, int]:
        asked.append(model)
        return Words(), 1000

    monkeypatch.setattr("genrank.cli.prompts._load_tokenizer", load)
    monkeypatch.setattr("genrank.engines.tokenizer.HubTokenizer", lambda tokenizer: tokenizer.words)
    return asked


def test_prompts_list_names_every_template_with_its_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "list"]) == 0
    out = capsys.readouterr().out
    for name in template_names():
        template = load_template(name)
        assert f"{name}@{template.version} " in out
        assert template.digest in out
    assert main(["prompts", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == template_names()
    row = next(row for row in rows if row["name"] == "listwise")
    template = load_template("listwise")
    assert row == {
        "name": "listwise",
        "version": template.version,
        "hash": template.digest,
        "decodings": ["first-token", "listwise"],
        "description": template.description,
        "source": template.source,
    }


def test_prompts_show_is_a_file_to_begin_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "show", "inline-zh"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"# hash {load_template('inline-zh').digest}\n")
    path = tmp_path / "mine.toml"
    path.write_text(out, encoding="utf-8")
    assert load_template(path) == load_template("inline-zh")


def test_prompts_render_prints_what_the_model_would_read(
    requests: Path, tokenizer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", "render", "listwise", "--request", str(requests), "--query-id", "q2"]) == 0
    out, err = capsys.readouterr()
    engine = ScriptedEngine([[[0.0, 0.0, 0.0]]])
    Reranker(engine=engine, decoding="first-token").rerank_batch([parse_request(_line(2))])
    assert out == engine.tokenizer.decode(engine.requests[0].ids) + "\n"
    assert out.startswith("<system>You rank")
    counts = {line.split()[0]: int(line.split()[1]) for line in err.splitlines()[:-1]}
    assert list(counts) == ["system", "query", "history", "candidates", "instruction"]
    # the model takes 1,000 tokens; 20 identifiers and what stands between them, "] > [", leave the rest
    between = len(engine.tokenizer.encode(["] > ["])[0].ids)
    assert (
        err.splitlines()[-1].split()
        == f"in all {sum(counts.values())} tokens of at most {1000 - 20 * (1 + between)}".split()
    )
    assert tokenizer == ["smollm2-135m"]


def test_prompts_render_takes_the_sample_shop_and_shows_one_window(
    tokenizer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    call = "prompts render inline --query-id q-en-07 --model other --window 2 --max-prompt-tokens 300"
    assert main(call.split()) == 0
    out, err = capsys.readouterr()
    assert out.count("Relevant to the query:") == 2
    assert "candidates 1 to 2 of 19: one window" in err
    assert "of at most 300" in err
    assert " cut" in err
    assert tokenizer == ["other"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "inlin"], "no prompt template 'inlin'; known are ['inline', "),
        (["render", "inlin"], "no prompt template 'inlin'; known are ['inline', "),
        (
            ["render", "listwise", "--decoding", "inline"],
            "asks no question; it suits first-token and listwise",
        ),
        (["render", "inline", "--decoding", "listwise"], "gives no instruction; it suits inline, not listwise"),
        (["render", "inline", "--query-id", "q"], "the sample shop has no query 'q'; it has q-en-01 to q-zh-"),
        (["render", "inline", "--window", "1"], "window: must be at least 2, got 1"),
        (["render", "inline", "--max-prompt-tokens", "9"], "max_prompt_tokens: 9 tokens cannot hold"),
        (["render", "inline", "--max-prompt-tokens", "2000"], "must be within 1..1000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_of_prompts_ends_with_2(
    arguments: list[str], message: str, tokenizer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_prompts_render_of_a_file_without_the_request(
    requests: Path, tokenizer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", "render", "inline", "--request", str(requests), "--query-id", "q9"]) == 2
    assert f"no request of {requests} has the id 'q9'" in capsys.readouterr().err
    requests.write_text("{", encoding="utf-8")
    assert main(["prompts", "render", "inline", "--request", str(requests)]) == 1
    assert f"{requests}:1: expected one JSON object" in capsys.readouterr().err


def test_prompts_render_of_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    assert main(["prompts", "render", "inline", "--model", "smollm2-135m"]) == 1
    assert "genrank models fetch smollm2-135m" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"genrank {version('genrank')}\n"


def test_the_command_line_starts_without_torch_and_transformers() -> None:
    program = (
        "import sys, genrank.cli.main\n"
        "try: genrank.cli.main.main(['rerank', 'no-such-file'])\n"
        "finally: print(sorted({'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
