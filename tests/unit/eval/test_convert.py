import json
from pathlib import Path

import pytest

from eval.convert import READERS, main, save_whole
from genrank.data.dataset import Dataset

CSV = (
    "id,query,product_title,product_description,median_relevance,relevance_variance\n"
    "1,lamp,Red lamp,<b>Two</b> bulbs,4,0\n2,lamp,Blue lamp,,1,0\n"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text(CSV, encoding="utf-8")
    return path


def test_writes_a_folder_and_a_summary(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "cf"
    assert main(["crowdflower", str(source), str(folder)]) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert out.count("\n") == 1
    assert summary["listings"] == summary["judgements"] == 2
    assert summary["splits"] == {"test": 1}
    assert summary["grades"] == {"0": 1, "3": 1}
    assert summary["without_description"] == 1
    assert "1 queries" in err
    assert Dataset.load(folder).name == "crowdflower"
    assert [path.name for path in folder.parent.iterdir()] == ["cf"]


def test_two_runs_write_the_same(source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(["crowdflower", str(source.parent), str(tmp_path / name)]) == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_folder_is_replaced_only_on_demand(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["crowdflower", str(source), str(tmp_path / "cf")]
    assert main(arguments) == 0
    (tmp_path / "cf" / "extra").touch()
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert not (tmp_path / "cf" / "extra").exists()
    assert main(["crowdflower", str(source), str(tmp_path), "--overwrite"]) == 2
    assert "is not a dataset folder" in capsys.readouterr().err
    assert source.exists()


def test_a_broken_file_is_one_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source.write_text(CSV.replace(",1,0", ",9,0"), encoding="utf-8")
    assert main(["crowdflower", str(source), str(tmp_path / "cf")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("error: ")
    assert "train.csv:3" in err
    assert not (tmp_path / "cf").exists()


def test_a_failed_save_leaves_what_was_there(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cf"
    assert main(["crowdflower", str(source), str(folder)]) == 0
    dataset = Dataset.load(folder)
    save = Dataset.save

    def stops(self: Dataset, path: Path) -> None:
        save(self, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(Dataset, "save", stops)
    with pytest.raises(KeyboardInterrupt):
        save_whole(dataset, folder)
    assert Dataset.load(folder) == dataset
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cf", "train.csv"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["crowdflower"],
        ["other", "a", "b"],
        ["wands", "a", "b", "--locale", "us"],
        ["esci", "a"],
        ["games-history", "a", "b", "--max-users", "3"],
        ["amazon-reviews", "a", "b", "--split-by", "item"],
        ["jdsearch", "a", "b", "--max-users", "many"],
    ],
)
def test_wrong_calls(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""


def test_absent_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in READERS:
        assert main([name, str(tmp_path / "none"), str(tmp_path / "out")]) == 1
        assert "none: expected" in capsys.readouterr().err


def test_a_set_gets_its_own_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "raw"
    source.mkdir()
    reviews = [
        {"user_id": f"u{user}", "parent_asin": f"i{user}-{i}", "timestamp": 10 * user + i, "rating": 5}
        for user in range(10)
        for i in range(3)
    ]
    items = [{"parent_asin": row["parent_asin"], "title": "doll", "categories": ["Toys"]} for row in reviews]
    for name, rows in (("Toys", reviews), ("meta_Toys", items)):
        (source / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = ["--min-interactions", "3", "--max-users", "9", "--split-by", "time"]
    assert main(["amazon-reviews", str(source), str(tmp_path / "out"), *options]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["min_interactions"], summary["max_users"], summary["split_by"]) == (3, 9, "time")
    assert summary["splits"] == {"dev": 1, "test": 2, "train": 6}
    assert summary["queries"] == summary["with_history"] == 9
    assert main(["amazon-reviews", str(source), str(tmp_path / "other"), "--min-interactions", "1"]) == 2
    assert "min_interactions: must be 2 or more" in capsys.readouterr().err
    dataset = Dataset.load(tmp_path / "out")
    latest = {name: max(query.time for query in dataset.split(name) if query.time) for name in ("train", "dev")}
    assert latest["train"] < latest["dev"] < min(query.time for query in dataset.split("test") if query.time)
