import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from eval import run as program
from eval.config import RunConfig
from eval.leaderboard import main, write_leaderboard
from eval.report import write_report
from eval.significance import compare
from genrank.errors import DataFormatError, InputError
from tests.collections_rig import write_beir
from tests.results_folder import PRIMARY, make_dataset, write_results
from tests.unit.eval.test_report import HOSTILE, Page

pytest.importorskip("jinja2")

OTHER = {"name": "others", "gains": {"0": 0.0, "1": 1.0}, "fingerprint": "feedfeedfeedfeed"}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs of one dataset, and one of another."""
    dataset = make_dataset(queries=30)
    first = write_results(tmp_path / "first", dataset, {"bm25": 0.4, "small": 0.41}, reference="bm25")
    second = write_results(tmp_path / "second", dataset, {"bm25": 0.4, "large": 0.8}, reference="bm25")
    third = write_results(tmp_path / "third", make_dataset(20), {"bm25": 0.5, "large": 0.6}, changes={"dataset": OTHER})
    write_report(first, None)
    return [first, second, third]


def board(runs: list[Path], out: Path, **options: Any) -> dict[str, Any]:
    path = write_leaderboard(runs, out, **options)
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return found


def cells(content: dict[str, Any]) -> dict[str, list[Any]]:
    return {one["name"]: one["cells"] for one in content["systems"]}


def values(folder: Path, system: str) -> list[float]:
    found: list[float] = json.loads((folder / f"{system}.queries.json").read_text(encoding="utf-8"))["metrics"][PRIMARY]
    return found


def test_runs_of_the_same_candidates_share_a_column(runs: list[Path], tmp_path: Path) -> None:
    content = board(runs, tmp_path / "out")
    assert [one["label"] for one in content["datasets"]] == ["made up, test", "others, test"]
    assert [[run["name"] for run in one["runs"]] for one in content["datasets"]] == [["first", "second"], ["third"]]
    assert content["apart"] == []
    assert [one["name"] for one in content["systems"]] == ["large", "bm25", "small"]  # most datasets, then the mean
    large, bm25, small = (one["cells"] for one in content["systems"])
    mean = sum(values(runs[1], "large")) / 30
    assert (large[0]["mean"], large[0]["low"], large[0]["high"]) == pytest.approx((mean, mean - 0.02, mean + 0.02))
    assert [cell["best"] for cell in large] == [True, True]
    assert [cell["best"] for cell in bm25] == [False, False]
    assert small[1] is None
    means = {one["name"]: one["mean"] for one in content["systems"]}
    assert means["small"] is None
    assert means["large"] == pytest.approx((large[0]["mean"] + large[1]["mean"]) / 2)


def test_significance_is_that_of_the_shared_queries(runs: list[Path], tmp_path: Path) -> None:
    content = board(runs, tmp_path / "out")
    assert content["reference"] == "bm25"
    found = cells(content)
    expected = compare(values(runs[1], "large"), values(runs[0], "bm25"))
    assert found["large"][0]["difference"] == pytest.approx(expected.difference)
    assert found["large"][0]["p_holm"] == pytest.approx(2 * expected.p_randomisation)  # two systems in the column
    assert (found["large"][0]["mark"], found["small"][0]["mark"], found["bm25"][0]["mark"]) == ("▲", "", "")
    turned = cells(board(runs, tmp_path / "out", reference="large"))
    assert turned["bm25"][0]["mark"] == "▼"
    alone = cells(board(runs, tmp_path / "out", reference="small"))
    assert alone["large"][1]["p_holm"] is None  # the other dataset has no such system
    with pytest.raises(InputError, match=r"reference: no system 'huge'; the systems are .*large"):
        board(runs, tmp_path / "out", reference="huge")


def test_other_candidates_get_a_column_of_their_own(tmp_path: Path) -> None:
    """Through `eval.run` itself: the same queries with more candidates are another task."""
    folder = str(write_beir(tmp_path / "lamps"))
    made = []
    for most in (2, 3):
        settings = {"dataset": folder, "max_candidates": most, "systems": [{"type": "first-stage"}, {"type": "random"}]}
        config = RunConfig.model_validate(settings)
        made.append(tmp_path / f"best-{most}")
        program.run(config, config.load_dataset(), made[-1])
    content = board(made, tmp_path / "out")
    assert [one["label"] for one in content["datasets"]] == ["lamps, test (1)", "lamps, test (2)"]
    assert content["apart"] == ["lamps, test"]
    page = Page(tmp_path / "out" / "leaderboard.html").text
    assert "Not all runs can be compared" in page
    assert "Not all runs can be compared" in (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8")


def test_one_fingerprint_with_other_queries_is_refused(tmp_path: Path) -> None:
    made = [write_results(tmp_path / str(n), make_dataset(n), {"bm25": 0.4}) for n in (12, 13)]
    with pytest.raises(InputError, match="runs: 12 and 13 have one fingerprint but other queries"):
        board(made, tmp_path / "out")


def test_runs_that_disagree_about_a_system_have_a_row_each(tmp_path: Path) -> None:
    dataset = make_dataset()
    made = [
        write_results(tmp_path / name, dataset, {"bm25": 0.4, "mine": middle}, reference="bm25")
        for name, middle in (("monday", 0.5), ("tuesday", 0.7))
    ]
    content = board(made, tmp_path / "out", reference="mine (monday)")
    assert {one["name"] for one in content["systems"]} == {"bm25", "mine (monday)", "mine (tuesday)"}
    assert cells(content)["mine (tuesday)"][0]["run"] == "tuesday"


def test_three_files_of_one_content(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    said = capsys.readouterr()
    markdown = (out / "leaderboard.md").read_text(encoding="utf-8")
    assert said.out == markdown
    assert str(out / "leaderboard.html") in said.err
    page = Page(out / "leaderboard.html")
    for text in (page.text, markdown.replace("\\", "")):
        for wanted in (
            "large",
            "small",
            "made up, test",
            "others, test",
            "0.450",
            "feedfeedfeedfeed",
            "▲",
            "reference",
        ):
            assert wanted in text, wanted
    mean = sum(values(runs[1], "large")) / 30
    assert f"**{mean:.3f}▲** [{mean - 0.02:.3f}, {mean + 0.02:.3f}]" in markdown
    assert "(../../first/report.html)" in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines[:6]} == {5}


def test_a_page_that_asks_for_nothing(runs: list[Path], tmp_path: Path) -> None:
    page = Page(write_leaderboard(runs, tmp_path / "out"))
    loading = {"src", "srcset", "data", "poster", "background", "action"}
    assert [(tag, a) for tag, a in page.tags if loading & a.keys()] == []
    # only the first run has a report
    links = [a["href"] for _, a in page.tags if "href" in a]
    assert links == ["data:,", "../first/report.html"]
    assert (tmp_path / "out" / str(links[1])).is_file()
    (allowed,) = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert allowed is not None
    assert allowed.startswith("default-src 'none';")
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table") == 2
    assert "button" not in tags  # the script makes them: without it nothing is offered that does not work


def test_hostile_names(tmp_path: Path) -> None:
    dataset = dataclasses.replace(make_dataset(), name=HOSTILE, source=HOSTILE)
    folder = write_results(tmp_path / "<b> & (x)", dataset, {"<i>": 0.4})
    write_report(folder, None)
    page = Page(write_leaderboard([folder], tmp_path / "out"))
    assert {tag for tag, _ in page.tags}.isdisjoint({"img", "b", "i"})
    (link,) = [a["href"] for tag, a in page.tags if tag == "a"]
    assert link == "../%3Cb%3E%20%26%20%28x%29/report.html"
    assert "<img" not in (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8")


def test_what_is_wrong_is_named(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no results.json"):
        board([tmp_path], tmp_path / "out")
    with pytest.raises(InputError, match=r"runs: .*first is named twice"):
        board([runs[0], runs[0] / "results.json"], tmp_path / "out")
    with pytest.raises(InputError, match=r"metric: .*first has no nDCG@7; it has nDCG@5, nDCG@10"):
        board(runs, tmp_path / "out", metric="nDCG@7")
    (runs[1] / "large.queries.json").write_text('{"queries": ["q0"], "metrics": {"nDCG@10": [1]}}', encoding="utf-8")
    with pytest.raises(
        DataFormatError, match=r"large.queries.json: expected nDCG@10 of each query of the run, found 1"
    ):
        board(runs, tmp_path / "out")
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
