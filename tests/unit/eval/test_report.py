import html.parser
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.report import write_report
from eval.report.__main__ import main
from eval.report.content import MAX_PLOTTED, report_content
from eval.report.results import read_results
from genrank.data.dataset import Dataset, DatasetQuery
from genrank.errors import DataFormatError, InputError
from genrank.types import Listing, Query
from tests.results_folder import METRICS, PRIMARY, make_dataset, write_results

pytest.importorskip("plotly")
pytest.importorskip("jinja2")

HOSTILE = '</script><img src=x onerror="window.hacked=1"> `a|b` <b>x</b> \u202e\u200b[x](javascript:1) \ud800\x07 __y__'
SYSTEMS = {"bm25": 0.6, "first-stage": 0.5, "zero-shot": 0.55, "adapter": 0.7}
RERANKERS = ["zero-shot", "adapter"]


@pytest.fixture
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture
def folder(tmp_path: Path, dataset: Dataset) -> Path:
    return write_results(tmp_path / "r", dataset, SYSTEMS, reference="bm25", rerankers=RERANKERS)


def hostile(dataset: Dataset) -> Dataset:
    return replace(
        dataset,
        listings={key: Listing(key, HOSTILE) for key in dataset.listings},
        queries=[DatasetQuery(Query(HOSTILE, q.query.query_id), "test") for q in dataset.queries],
    )


class Page(html.parser.HTMLParser):
    """Tags, attributes, text and the data of a report, as a parser of HTML sees them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = "data" if ("id", "data") in attrs else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data = json.loads(data)
        elif self._inside not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def content(folder: Path, dataset: Dataset | None, system: str | None = None) -> dict[str, Any]:
    return report_content(folder, read_results(folder), dataset, system)


def test_three_twins(folder: Path, dataset: Dataset) -> None:
    path = write_report(folder, dataset)
    assert path == folder / "report.html"
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    page = Page(path).text
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert data == json.loads(json.dumps(content(folder, dataset)))
    results = read_results(folder)
    for text in (page, markdown.replace("\\", "")):
        for name, system in results.systems.items():
            assert name in text
            assert f"{system.metrics[PRIMARY]:.3f}" in text
        for said in (
            results.commit,
            results.hardware,
            results.command,
            "2026-05-01 10:00:00 UTC",
            "Gain by grade: 0 = 0 (no); 1 = 1 (some); 2 = 3 (all)",
            "best order of the query's candidates",
            "12 of 240 candidates (5.0%) are unjudged",
            "Equal scores keep the candidates' order",
            "random, expected",
            "prompt_hash",
            "history 120",
            "the engine timed out",
            "Worst queries",
            "oak table no. 0",
            "It is made of oak.",
            "unjudged",
            "Acme",
            "alpha-nDCG@10",
            "1-2 words",
        ):
            assert said in text, said


def test_one_file_that_asks_for_nothing(folder: Path, dataset: Dataset) -> None:
    page = Page(write_report(folder, dataset))
    loading = {"src", "srcset", "data", "poster", "background", "action"}
    assert [(tag, a) for tag, a in page.tags if loading & a.keys()] == []
    assert [a["href"] for tag, a in page.tags if "href" in a] == ["data:,"]
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe-inline" not in policy.split("script-src")[1]
    assert sum(tag == "script" for tag, _ in page.tags) == 3


def test_every_table_has_scopes_and_a_caption(folder: Path, dataset: Dataset) -> None:
    page = Page(write_report(folder, dataset))
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table") > 5
    plots = [attributes for _, attributes in page.tags if attributes.get("class") == "plot"]
    assert len(plots) == tags.count("figcaption") == 3
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)


def test_marks_only_what_is_significant(folder: Path, dataset: Dataset) -> None:
    systems = {system["name"]: system for system in content(folder, dataset)["systems"]}
    marks = {name: [v["mark"] for v in system["values"] if v["mark"]] for name, system in systems.items()}
    # write_results gives p 0.0004 to what is clearly above the reference, and 0.4 to all else
    assert marks == {"adapter": ["▲"], "bm25": [], "first-stage": [], "zero-shot": []}
    assert list(systems) == sorted(systems, key=lambda n: -systems[n]["values"][0]["mean"])
    assert [name for name, system in systems.items() if system["highest"]] == ["adapter"]
    assert [name for name, system in systems.items() if system["reference"]] == ["bm25"]
    assert systems["adapter"]["values"][0]["metric"] == PRIMARY
    summary = " ".join(content(folder, dataset)["summary"])
    assert "Significantly better than bm25 is: adapter." in summary


def test_the_random_floor_comes_first(folder: Path, dataset: Dataset) -> None:
    write_report(folder, dataset)
    rows = [line for line in (folder / "report.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    header = next(i for i, row in enumerate(rows) if row.startswith("| system | nDCG@10"))
    assert rows[header + 2].startswith("| random, expected | 0.450 ± 0.010 |")
    assert rows[header + 3].startswith("| adapter (highest) |")


def test_worst_and_best_queries(folder: Path, dataset: Dataset) -> None:
    found = content(folder, dataset)["examples"]
    assert (found["system"], found["reference"]) == ("adapter", "bm25")
    worst, best = (group["queries"] for group in found["groups"])
    assert [q["difference"] for q in worst] == sorted(q["difference"] for q in worst)
    assert [q["difference"] for q in best] == sorted((q["difference"] for q in best), reverse=True)
    assert len(best) == 5
    assert all(q["difference"] < 0 for q in worst)
    query = best[0]
    assert query["difference"] == pytest.approx(query["value"] - query["reference_value"])
    own, other = query["orders"]
    assert (own["system"], other["system"], len(own["items"])) == ("adapter", "bm25", 10)
    item = own["items"][0]
    assert (item["rank"], item["reason"]) == (1, "It is made of oak.")
    assert item["title"] == dataset.listings[item["listing_id"]].title
    assert item["grade"] == dataset.qrels[query["query_id"]].get(item["listing_id"])
    shared = {i["listing_id"]: i for i in other["items"]}.get(item["listing_id"])
    assert shared is None or item["other_rank"] == shared["rank"]
    assert content(folder, dataset, "first-stage")["examples"]["system"] == "first-stage"
    with pytest.raises(InputError, match="no system 'x'; the systems are bm25"):
        content(folder, dataset, "x")


def test_small_groups_are_flagged(folder: Path, dataset: Dataset) -> None:
    flags = {g["group"]: g["small"] for s in content(folder, dataset)["slices"] for g in s["groups"]}
    assert flags == {"1-2 words": True, "3-4 words": True, "latin": False}


def test_hostile_texts_stay_texts(tmp_path: Path, dataset: Dataset) -> None:
    bad = hostile(dataset)
    name = '<img src=x onerror=1> "q" a|b `c`'
    changes = {"command": HOSTILE, "hardware": HOSTILE, "settings": {HOSTILE: HOSTILE}, "versions": {"x": HOSTILE}}
    folder = write_results(
        tmp_path / "r",
        bad,
        {"bm25": 0.5, name: 0.7},
        reference="bm25",
        rerankers=[name],
        changes=changes,
        reason=HOSTILE,
    )
    page = Page(write_report(folder, bad))
    assert not [tag for tag, _ in page.tags if tag in ("img", "b")]
    assert not [a for _, a in page.tags if any(key.startswith("on") for key in a)]
    shown = '</script><img src=x onerror="window.hacked=1"> `a|b` <b>x</b> [x](javascript:1) __y__'
    assert page.text.count(shown) > 20
    assert page.data["per_query"]["texts"][0].startswith("</script><img")
    assert [system["name"] for system in page.data["systems"]] == [name, "bm25"]
    for file in ("report.html", "report.md", "report.json"):
        text = (folder / file).read_text(encoding="utf-8")
        mine = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL) if file == "report.html" else text
        assert not set(mine) & {"\u202e", "\u200b", "\ud800", "\x07"}, file
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert not re.search(r"<\S", markdown)
    assert not re.search(r"(?<!\\)(`|\[x|__)", markdown)
    columns = {"| rank |": 3, "| system | nDCG@10": len(METRICS) + 2}
    lines = markdown.splitlines()
    for start, count in columns.items():
        places = [i for i, line in enumerate(lines) if line.startswith(start)]
        assert places
        for place in places:
            while lines[place].startswith("|"):
                assert len(re.findall(r"(?<!\\)\|", lines[place])) == count + 1, lines[place]
                place += 1


def test_long_texts_are_cut(tmp_path: Path, dataset: Dataset) -> None:
    long = replace(dataset, listings={key: Listing(key, "long " * 50_000) for key in dataset.listings})
    folder = write_results(tmp_path / "r", long, SYSTEMS, reference="bm25", rerankers=RERANKERS, reason="why " * 50_000)
    write_report(folder, long)
    assert (folder / "report.json").stat().st_size < 200_000
    item = content(folder, long)["examples"]["groups"][0]["queries"][0]["orders"][0]["items"][0]
    assert (len(item["title"]), item["title"][-1]) == (160, "…")


def test_without_the_dataset(folder: Path) -> None:
    page = Page(write_report(folder, None)).text
    assert "The dataset was not there" in page
    assert "No texts." in (folder / "report.md").read_text(encoding="utf-8")
    found = content(folder, None)
    assert found["with_texts"] is False
    assert found["examples"]["groups"][1]["queries"][0]["orders"][0]["items"][0]["title"] == ""
    assert re.search(r"\bl1\b", page)


def test_a_dataset_that_knows_other_listings(folder: Path) -> None:
    other = make_dataset(queries=2, candidates=3)
    assert "l7" in Page(write_report(folder, other)).text


def test_incomplete_results_are_said(tmp_path: Path, dataset: Dataset) -> None:
    folder = write_results(tmp_path / "r", dataset, {"a": 0.5}, reference="never-run", changes={"complete": False})
    assert "Incomplete. The run was stopped" in Page(write_report(folder, dataset)).text
    assert "**Incomplete.**" in (folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("systems", [{}, {"bm25": 0.5}, {"bm25": 0.5, "bert": 0.6}])
@pytest.mark.parametrize("reference", [None, "bm25"])
def test_few_systems(tmp_path: Path, dataset: Dataset, systems: dict[str, float], reference: str | None) -> None:
    folder = write_results(tmp_path / "r", dataset, systems, reference=reference if systems else None)
    page = Page(write_report(folder, dataset)).text
    assert "random, expected" in page
    if not systems:
        assert "No system was measured." in page


def test_one_query(tmp_path: Path) -> None:
    dataset = make_dataset(queries=1)
    folder = write_results(tmp_path / "r", dataset, SYSTEMS, reference="bm25", changes={"slices": {}})
    assert "table for room 0" in Page(write_report(folder, dataset)).text


def test_optional_parts_may_be_missing(folder: Path, dataset: Dataset) -> None:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for system in results["systems"].values():
        for key in (
            "intervals",
            "counts",
            "order",
            "slices",
            "calibration",
            "clicks",
            "diversity",
            "exposure",
            "provenance",
            "seconds",
        ):
            system.pop(key, None)
    results["slices"], results["comparisons"] = {}, []
    results["random_floor"] = {PRIMARY: {"mean": 0.4, "deviation": None}}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    for name in RERANKERS:
        (folder / f"{name}.jsonl").unlink()
    page = Page(write_report(folder, dataset)).text
    assert "No time is known for adapter, bm25, " in page
    assert "Position bias" not in page


def test_many_queries_are_sampled_for_the_plot(tmp_path: Path) -> None:
    dataset = make_dataset(queries=MAX_PLOTTED + 100, candidates=2)
    folder = write_results(tmp_path / "r", dataset, SYSTEMS, reference="bm25")
    page = Page(write_report(folder, dataset))
    assert f"A fixed sample of {MAX_PLOTTED:,} of {MAX_PLOTTED + 100:,} queries is drawn." in page.text
    assert [len(values) for values in page.data["per_query"]["values"]] == [MAX_PLOTTED] * len(SYSTEMS)
    assert (folder / "report.html").stat().st_size < 6_000_000


def test_missing_and_foreign_results(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"holds no results.json; make it with python -m eval.run"):
        write_report(tmp_path, dataset)
    file = tmp_path / "results.json"
    for text, message in (
        ("[]", "format 2, found 'list'"),
        ('{"format": 1}', "format 2, found 1; run eval.run again"),
        ('{"format": 2}', "a valid complete, found Field required"),
        ("{", "expected JSON"),
        ('{"format": NaN}', "NaN, which is not a JSON number"),
        ("[" * 100_000, "expected JSON, found JSON nested too deeply"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(DataFormatError, match=message):
            write_report(tmp_path, dataset)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DataFormatError, match="UTF-8 text"):
        write_report(tmp_path, dataset)


@pytest.mark.parametrize("name", ["../x", "", "a/b", "a\0b", "\ud800"])
def test_a_system_name_is_no_path(folder: Path, dataset: Dataset, name: str) -> None:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    results["systems"][name] = results["systems"]["bm25"]
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(DataFormatError, match="not a plain file name"):
        write_report(folder, dataset)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"queries": ["q1", "q1"], "metrics": {}}', "a query id repeats"),
        ('{"queries": ["q1"], "metrics": {"MRR": []}}', "0 values of MRR for 1 queries"),
        ('{"queries": ["q1"], "metrics": {"MRR": [1]}}', "a value of nDCG@10 for each query, found none"),
        ("{}", "a valid queries"),
    ],
)
def test_broken_values(folder: Path, dataset: Dataset, text: str, message: str) -> None:
    (folder / "bm25.queries.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataFormatError, match=message):
        write_report(folder, dataset)


def test_broken_rankings(folder: Path, dataset: Dataset) -> None:
    (folder / "adapter.jsonl").write_text("[1]\n", encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"adapter.jsonl:1: expected a ranking line"):
        write_report(folder, dataset)


def test_the_program(folder: Path, dataset: Dataset, tmp_path: Path) -> None:
    dataset.save(tmp_path / "d")
    root = Path(__file__).resolve().parents[3]

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "eval.report", *map(str, arguments)]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)

    done = run(folder, "--dataset", tmp_path / "d")
    assert (done.returncode, done.stdout) == (0, "")
    assert "report.html (" in done.stderr
    assert "ids in place" not in done.stderr
    assert (folder / "report.html").exists()


def test_exit_statuses(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 0
    assert "ids in place of texts" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert main([str(folder), "--dataset", str(tmp_path / "gone")]) == 2
    assert main([str(folder), "--system", "gone"]) == 2
    (folder / "bm25.trec").unlink()
    assert main([str(folder)]) == 1


def test_sections_have_groups(folder: Path, dataset: Dataset) -> None:
    sections = {section["title"]: section for section in content(folder, dataset)["sections"]}
    assert list(sections) == ["Calibration", "Clicks", "Diversity", "Exposure"]
    # only of systems that give probabilities
    assert set(sections["Calibration"]["systems"]) == set(RERANKERS)
    rows = [{"name": "calibration_error", "values": [0.125] * len(RERANKERS)}]
    assert sections["Calibration"]["groups"] == [{"group": "relevant", "rows": rows}]
    assert sections["Exposure"]["groups"] == [
        {"group": "brand", "rows": [{"name": "Acme", "values": [0.25] * 4}, {"name": "Bolt", "values": [0.75] * 4}]}
    ]
    assert [group["group"] for group in sections["Diversity"]["groups"]] == [""]
    assert sections["Clicks"]["groups"][0]["rows"][1] == {"name": "log_loss", "values": [None] * 4}


def test_ten_systems_and_two_thousand_queries_take_seconds(tmp_path: Path) -> None:
    dataset = make_dataset(queries=2_000, candidates=20)
    systems = {f"system-{i}": 0.5 + i / 100 for i in range(10)}
    write_results(tmp_path, dataset, systems, reference="system-0", rerankers=["system-9"])
    started = time.perf_counter()
    path = write_report(tmp_path, dataset)
    assert time.perf_counter() - started < 30
    assert path.stat().st_size < 8e6
