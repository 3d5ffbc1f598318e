from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genrank.adapters import pinned, save_manifest
from genrank.blending import Blend, save_blend
from genrank.errors import ChecksumError, ConfigError, InputError, ModelError
from genrank.models.versions import AdapterVersions
from genrank.prompting.template import load_template
from genrank.reranker import Reranker
from tests.unit.test_adapters import Adapted, manifest

ROOT = Path(__file__).parents[3]


def ranker(folder: Path, words: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.txt").write_text(words)
    return folder


@pytest.fixture
def versions(tmp_path: Path) -> AdapterVersions:
    """Three versions, none of which is served."""
    found = AdapterVersions(tmp_path / "adapters")
    for name in ("one", "two", "three"):
        found.add(ranker(tmp_path / name, name))
    return found


def served(versions: AdapterVersions) -> int:
    found = versions.current()
    assert found is not None
    assert (versions.folder / "current").resolve() == versions.path(found.name).resolve()
    return found.number


def test_a_version_is_whole_and_says_where_it_comes_from(versions: AdapterVersions, tmp_path: Path) -> None:
    source = ranker(tmp_path / "four", "four")
    (source / "part").mkdir()
    (source / "part" / "more.txt").write_text("more")
    (source / ".hidden").write_text("x")
    made = versions.add(source, parent="2", training={"queries": 7}, comparison={"difference": 0.1})
    assert (made.number, made.parent, made.training["queries"]) == (4, versions.find("2").name, 7)
    assert set(made.files) == {"model.txt", "part/more.txt"}
    assert versions.find("0004") == versions.find(made.name) == made
    (source / "model.txt").write_text("changed later")
    versions.check(made)
    assert [one.number for one in versions.lineage("4")] == [4, 2]
    assert versions.current() is None


def test_the_same_files_are_added_once(versions: AdapterVersions, tmp_path: Path) -> None:
    assert versions.add(tmp_path / "two").number == 2
    assert versions.add(tmp_path / "two", parent="1").number == 4
    # a version that comes from another folder brings its record along, which does not count
    assert versions.add(versions.path(versions.find("2").name)).number == 2


def test_promote_and_go_back(versions: AdapterVersions) -> None:
    versions.promote("1")
    versions.promote("2", why="better")
    versions.promote("2")
    versions.promote("3")
    assert served(versions) == 3
    assert versions.rollback(why="too slow").number == 2
    versions.promote("3")
    assert [versions.rollback().number, versions.rollback().number] == [2, 1]
    with pytest.raises(InputError, match="has no version to go back to"):
        versions.rollback()
    history = versions.history()
    assert [one.action for one in history] == ["promote"] * 3 + ["rollback", "promote", "rollback", "rollback"]
    assert history[1].why == "better"
    assert (history[1].before, history[1].version) == (versions.find("1").name, versions.find("2").name)


@settings(max_examples=25)
@example(["1", "2", "1", "3", "back", "back"])
@given(st.lists(st.sampled_from(["1", "2", "3", "back"]), max_size=10))
def test_rollback_undoes_promotions_in_turn(tmp_path_factory: pytest.TempPathFactory, moves: list[str]) -> None:
    root = tmp_path_factory.mktemp("turn")
    versions = AdapterVersions(root / "adapters")
    for name in ("one", "two", "three"):
        versions.add(ranker(root / name, name))
    stack: list[int] = []
    for move in moves:
        if move != "back":
            versions.promote(move)
            if stack[-1:] != [int(move)]:
                stack.append(int(move))
        elif len(stack) > 1:
            stack.pop()
            versions.rollback()
        else:
            with pytest.raises(InputError):
                versions.rollback()
        if stack:
            assert served(versions) == stack[-1]
            assert versions.history()[-1].version == versions.find(str(stack[-1])).name


def test_another_version_was_promoted_meanwhile(versions: AdapterVersions) -> None:
    first, second = versions.promote("1"), versions.find("2")
    versions.promote("3")
    with pytest.raises(InputError, match=f"was to replace {first.name}, but 0003-.* is served by now"):
        versions.promote(second.name, instead_of=first.name)
    assert served(versions) == 3


def test_a_changed_version_is_not_served(versions: AdapterVersions) -> None:
    versions.promote("1")
    file = versions.path(versions.find("2").name) / "model.txt"
    file.write_text("other")
    with pytest.raises(ChecksumError, match=r"model\.txt is missing or was changed"):
        versions.promote("2")
    file.unlink()
    with pytest.raises(ChecksumError):
        versions.promote("2")
    assert served(versions) == 1


def test_wrong_calls(versions: AdapterVersions, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"version: no version '9' .*; there are 0001-"):
        versions.promote("9")
    with pytest.raises(InputError, match="no folder"):
        versions.add(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file"):
        versions.add(tmp_path / "empty")
    assert len(versions.all()) == 3
    (versions.folder / "current").mkdir()
    with pytest.raises(ConfigError, match="must be a symbolic link"):
        versions.current()
    (versions.path(versions.find("1").name) / "version.json").write_text("{")
    with pytest.raises(ModelError, match=r"version\.json is missing or damaged"):
        versions.all()


def test_an_adapter_needs_its_weights_and_its_manifest(versions: AdapterVersions, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    numpy = pytest.importorskip("numpy")
    source = tmp_path / "adapter"
    source.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
    (source / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        versions.add(source)
    safetensors.save_file({"a": numpy.zeros((1, 4), dtype="float32")}, source / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"has no genrank\.json"):
        versions.add(source)
    save_manifest(manifest(), source)
    assert versions.add(source).number == 4


def test_a_line_that_was_cut_off_does_no_harm(versions: AdapterVersions) -> None:
    versions.promote("1")
    versions.promote("2")
    file = versions.folder / "history.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert [one.version for one in versions.history()] == [versions.find("1").name]
    assert versions.rollback().number == 1
    assert [one.action for one in versions.history()] == ["promote", "found", "rollback"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(("action", "least"), [("add", 8), ("promote", 4), ("rollback", 4)])
def test_killed_at_any_step_it_leaves_a_valid_version(tmp_path: Path, action: str, least: int) -> None:
    command = [sys.executable, "-m", "tests.versions_crash", action, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= least


def test_many_at_once(versions: AdapterVersions, tmp_path: Path) -> None:
    sources = [ranker(tmp_path / f"more-{i}", f"more {i}") for i in range(6)]
    versions.promote("1")

    def work(source: Path) -> None:
        own = AdapterVersions(versions.folder)
        own.promote(own.add(source).name)
        assert own.current() is not None

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, sources))
    assert [one.number for one in versions.all()] == list(range(1, 10))
    history = versions.history()
    assert len(history) == 7
    assert [one.before for one in history[1:]] == [one.version for one in history[:-1]]
    assert history[-1].version == versions.find(str(served(versions))).name


def test_a_reranker_keeps_the_version_it_began_with(versions: AdapterVersions, tmp_path: Path) -> None:
    versions.promote("1")
    link = versions.folder / "current"
    first = pinned(str(link))
    assert first == str(versions.path(versions.find("1").name))
    versions.promote("2")
    assert pinned(str(link)) == str(versions.path(versions.find("2").name))
    assert pinned(first) == first
    assert pinned("owner/name") == "owner/name"


def test_a_link_is_served_like_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = load_template("inline-lean")
    source = tmp_path / "adapter"
    save_manifest(manifest(), source)
    versions = AdapterVersions(tmp_path / "adapters")
    name = versions.promote(versions.add(source).name).name
    asked: list[str] = []

    def load(engine: object, model: str, adapter: str, *_: object) -> Adapted:
        asked.append(adapter)
        return Adapted(Path(adapter))

    monkeypatch.setattr("genrank.reranker._load_engine", load)
    reranker = Reranker(adapter=str(versions.folder / "current"))
    assert asked == [str(versions.path(name))]
    assert reranker.template.digest == template.digest


def test_what_is_fitted_later_changes_no_version(tmp_path: Path) -> None:
    source = tmp_path / "adapter"
    save_manifest(manifest(), source)
    versions = AdapterVersions(tmp_path / "adapters")
    made = versions.add(source)
    save_blend(Blend("inline", 0.5), versions.path(made.name))
    versions.promote(made.name)
    save_manifest(manifest(base_model="other"), versions.path(made.name))
    with pytest.raises(ChecksumError, match=r"genrank\.json is missing or was changed"):
        versions.check(made)
