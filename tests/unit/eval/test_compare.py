import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.compare import compare_results, main
from genrank.data.dataset import Dataset
from genrank.data.trec import read_run, write_run
from genrank.errors import InputError
from tests.results_folder import PRIMARY, make_dataset, write_results

pytest.importorskip("ranx")

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def dataset() -> Dataset:
    return make_dataset(queries=30, candidates=5)


def with_values(folder: Path, system: str, change: dict[str, float]) -> Path:
    """Add to a system's values of some metrics, on every query but the last."""
    file = folder / f"{system}.queries.json"
    values = json.loads(file.read_text())
    for metric, by in change.items():
        values["metrics"][metric] = [v + by for v in values["metrics"][metric][:-1]] + values["metrics"][metric][-1:]
    file.write_text(json.dumps(values))
    return folder


def two(tmp_path: Path, dataset: Dataset, **changes: Any) -> tuple[Path, Path]:
    systems = {"bm25": 0.5, "bert": 0.6}
    return (
        write_results(tmp_path / "a", dataset, systems),
        write_results(tmp_path / "b", dataset, systems, changes=changes),
    )


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eval.compare", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_exit_status_1_when_significantly_worse(tmp_path: Path, dataset: Dataset) -> None:
    a, b = two(tmp_path, dataset)
    with_values(b, "bert", {PRIMARY: -0.1})
    done = run(a, b, "--metric", PRIMARY)
    assert done.returncode == 1
    assert "significantly worse in nDCG@10: bert" in done.stderr
    row = next(line for line in done.stdout.splitlines() if "bert" in line and PRIMARY in line)
    assert "worse" in row
    assert f"{-0.1 * 29 / 30:+.4f}" in row
    assert "0/1/29" in row
    assert "noise" in next(line for line in done.stdout.splitlines() if "bm25" in line and PRIMARY in line)


def test_exit_status_0_when_better_or_the_same(tmp_path: Path, dataset: Dataset) -> None:
    a, b = two(tmp_path, dataset)
    with_values(b, "bert", {PRIMARY: 0.1})
    done = run(a, b, "--metric", PRIMARY, "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert {pair["system_b"]: pair["verdict"] for pair in found["pairs"]} == {"bm25": "noise", "bert": "better"}
    assert found["worse"] == []
    assert found["changes"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "nowhere"], "holds no results.json"),
        (["a", "b", "--metric", "nDCG@7"], "'nDCG@7' is not in both; they have nDCG@5"),
        (["a", "b", "--systems", "bert,lost"], "A has no system 'lost'; it has bm25, bert"),
        (["a", "b", "--systems", "bert=lost"], "B has no system 'lost'"),
        (["a", "b", "--systems", "bert,bert=bert"], "named twice"),
        (["a", "b", "--systems", ""], "A has no system ''"),
        (["a", "b", "--alpha", "1.5"], "alpha: must lie between 0 and 1"),
        (["a", "broken"], "expected JSON"),
        (["a", "foreign"], "format 2, found 1"),
        (["a"], "the following arguments are required: b"),
    ],
)
def test_exit_status_2_for_a_wrong_call(
    tmp_path: Path,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    two(tmp_path, dataset)
    for name, text in (("broken", "{"), ("foreign", '{"format": 1}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert message in err


def test_exit_status_2_of_the_process(tmp_path: Path, dataset: Dataset) -> None:
    a, _ = two(tmp_path, dataset)
    (tmp_path / "b" / "bert.queries.json").unlink()  # a failed run elsewhere, but 1 means worse
    done = run(a, tmp_path / "b")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "bert.queries.json" in done.stderr


def test_only_the_deciding_metric_decides(tmp_path: Path, dataset: Dataset) -> None:
    a, b = two(tmp_path, dataset)
    with_values(b, "bert", {"MRR": -0.2})
    found = compare_results(a, b)
    assert found.worse == ()
    assert {pair.verdict for pair in found.pairs if pair.metric == "MRR" and pair.system_b == "bert"} == {"worse"}
    assert found.pairs[0].metric == PRIMARY
    assert compare_results(a, b, metric="MRR").worse == ("bert",)


def test_holm_over_the_compared_systems(tmp_path: Path, dataset: Dataset) -> None:
    a, b = two(tmp_path, dataset)
    noise = [0.3 if i % 3 else -0.2 for i in range(30)]
    file = b / "bert.queries.json"
    values = json.loads(file.read_text())
    values["metrics"][PRIMARY] = [v + n for v, n in zip(values["metrics"][PRIMARY], noise, strict=True)]
    file.write_text(json.dumps(values))
    both = {pair.system_b: pair for pair in compare_results(a, b, metric=PRIMARY).pairs}
    (alone,) = compare_results(a, b, metric=PRIMARY, systems=["bert"]).pairs
    assert alone.p_holm == alone.comparison.p_randomisation
    assert both["bert"].p_holm == pytest.approx(min(1, 2 * alone.p_holm))
    assert alone.b - alone.a == pytest.approx(math.fsum(noise) / 30)
    assert alone.comparison.difference == pytest.approx(alone.b - alone.a)


def test_systems_of_other_names(tmp_path: Path, dataset: Dataset) -> None:
    a, b = two(tmp_path, dataset)
    found = compare_results(a, b, metric=PRIMARY, systems=["bm25=bert"])
    assert [(p.system_a, p.system_b, p.verdict, p.identical) for p in found.pairs] == [
        ("bm25", "bert", "better", False)
    ]
    assert (found.only_a, found.only_b) == (("bert",), ("bm25",))
    assert "bm25 = bert: settings.name" in [change.what for change in found.changes]


def test_no_common_system(tmp_path: Path, dataset: Dataset) -> None:
    a = write_results(tmp_path / "a", dataset, {"x": 0.5})
    b = write_results(tmp_path / "b", dataset, {"y": 0.5})
    with pytest.raises(InputError, match=r"A has x, B has y.*old=new"):
        compare_results(a, b)


def test_no_system_at_all(tmp_path: Path, dataset: Dataset) -> None:
    a, b = (write_results(tmp_path / name, dataset, {}) for name in "ab")
    with pytest.raises(InputError, match="A has none, B has none"):
        compare_results(a, b)


def test_common_queries_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_results(tmp_path / "a", make_dataset(queries=30, candidates=5), {"bm25": 0.5})
    b = write_results(tmp_path / "b", make_dataset(queries=20, candidates=5), {"bm25": 0.5})
    found = compare_results(a, b, metric=PRIMARY)
    assert found.queries == {"common": 20, "only_a": 10, "only_b": 0}
    assert found.pairs[0].queries == 20
    assert main([str(a), str(b), "--metric", PRIMARY]) == 0
    assert "20 common queries; 10 only in A and 0 only in B left out" in capsys.readouterr().out


def test_no_common_query(tmp_path: Path) -> None:
    dataset = make_dataset(queries=2, candidates=5)
    a, b = two(tmp_path, dataset)
    for name in ("bm25", "bert"):
        file = b / f"{name}.queries.json"
        file.write_text(file.read_text().replace('"q0"', '"other"').replace('"q1"', '"another"'))
    with pytest.raises(InputError, match="no query in common; nothing to compare"):
        compare_results(a, b)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fingerprint", "f" * 16, "the fingerprints of queries, candidates and judgements differ"),
        ("gains", {"0": 0.0, "1": 1.0, "2": 2.0}, "the datasets' gains differ"),
        ("relevant", 1, "the datasets' relevant differ"),
    ],
)
def test_other_data_is_not_compared(tmp_path: Path, dataset: Dataset, key: str, value: Any, message: str) -> None:
    a, b = two(tmp_path, dataset)
    results = json.loads((b / "results.json").read_text())
    results["dataset"][key] = value
    (b / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match=f"not comparable: {message}.*--force"):
        compare_results(a, b)
    found = compare_results(a, b, metric=PRIMARY, force=True)
    assert message in found.doubts[0]
    assert f"dataset.{key}" in {change.what.removesuffix(".2") for change in found.changes}


def test_other_judgements_cannot_be_seen_when_queries_differ(tmp_path: Path) -> None:
    a = write_results(tmp_path / "a", make_dataset(queries=9, candidates=5), {"bm25": 0.5})
    b = write_results(tmp_path / "b", make_dataset(queries=8, candidates=5), {"bm25": 0.5})
    results = json.loads((b / "results.json").read_text())
    results["dataset"]["fingerprint"] = "f" * 16
    (b / "results.json").write_text(json.dumps(results))
    assert "cannot tell" in compare_results(a, b, metric=PRIMARY).doubts[0]


def test_other_candidates_are_not_compared(tmp_path: Path, dataset: Dataset) -> None:
    a, b = two(tmp_path, dataset)
    order = read_run(b / "bert.trec")
    order["q3"].popitem()
    write_run(b / "bert.trec", order, tag="test")
    with pytest.raises(InputError, match="the candidates differ on 1 of 30 common queries"):
        compare_results(a, b)


def test_another_primary_metric_must_be_chosen(tmp_path: Path, dataset: Dataset) -> None:
    a, b = two(tmp_path, dataset, primary="MRR")
    with pytest.raises(InputError, match=r"A is decided by nDCG@10, B by MRR; say which"):
        compare_results(a, b)
    assert compare_results(a, b, metric="MRR").decides == "MRR"


def test_says_what_changed_and_what_is_identical(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    systems = {"bm25": 0.5, "[red]x": 0.5}
    a = write_results(tmp_path / "a", dataset, systems, rerankers=["[red]x"])
    b = write_results(
        tmp_path / "b", dataset, systems, rerankers=["[red]x"], changes={"commit": "fff", "versions": {"ranx": "9"}}
    )
    results = json.loads((b / "results.json").read_text())
    results["systems"]["[red]x"]["provenance"]["prompt_hash"] = "cd" * 8
    (b / "results.json").write_text(json.dumps(results))
    changes = {change.what: (change.a, change.b) for change in compare_results(a, b, metric=PRIMARY).changes}
    assert changes.pop("commit") == ("0123456789abcdef0123456789abcdef01234567", "fff")
    assert changes.pop("versions.ranx") == ("0.3.21", "9")
    assert changes.pop("versions.python") == ("3.11.2", None)
    assert changes.pop("[red]x: provenance.prompt_hash") == ("ab" * 8, "cd" * 8)
    assert set(changes) == {"versions.genrank"}
    order = read_run(b / "bm25.trec")
    order["q0"] = {key: -score for key, score in order["q0"].items()}
    write_run(b / "bm25.trec", dict(order), tag="test")
    assert main([str(a / "results.json"), str(b / "results.json"), "--metric", PRIMARY]) == 0
    out = capsys.readouterr().out
    assert "[red]x: provenance.prompt_hash" in out
    rows = [line for line in out.splitlines() if PRIMARY in line]
    assert ["identical orders" in row for row in rows if "bm25" in row] == [False]
    assert ["identical orders" in row for row in rows if "[red]x" in row] == [True]


def test_one_query_says_nothing(tmp_path: Path) -> None:
    dataset = make_dataset(queries=1, candidates=5)
    a = write_results(tmp_path / "a", dataset, {"bm25": 0.5, "bert": 0.9})
    (pair,) = compare_results(a, a, metric=PRIMARY, systems=["bm25=bert"]).pairs
    assert pair.verdict == "noise"
