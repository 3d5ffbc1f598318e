"""The wheel in an environment of its own, away from the clone: the core alone, and with what ranks beside the model."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from eval.baseline.config import BaselineConfig
from eval.baseline.training import train as train_gbdt
from eval.cross_encoder import CrossEncoderConfig
from eval.cross_encoder import train as train_cross_encoder
from genrank import sample_shop
from genrank.errors import ModelError
from genrank.models.store import resolve
from genrank.search.dense import Encoder

pytest.importorskip("build")
ROOT = Path(__file__).resolve().parents[2]
REQUEST = {
    "query": "red dress",
    "candidates": [{"listing_id": "a", "title": "Blue coat"}, {"listing_id": "b", "title": "Red dress"}],
}
RANK = """
import json, sys
import genrank
from genrank import sample_shop
from genrank.rankers.cross_encoder import CrossEncoderRanker
from genrank.rankers.gbdt import GbdtRanker
from genrank.search.bm25 import Bm25
from genrank.search.dense import Encoder, cosine_scores

gbdt, cross_encoder, encodings = sys.argv[1:]
shop = sample_shop()
requests = [shop.request(query) for query in shop.queries[:2]]
ids = [[candidate.listing.listing_id for candidate in request.candidates] for request in requests]
encoder, bm25 = Encoder("bert-minilm", encodings), Bm25(shop.listings.values())
print(json.dumps({
    "file": genrank.__file__,
    "programs": [name for name in sys.modules if name.split(".")[0] in ("eval", "finetune")],
    "shapes": [len(row) for row in ids],
    "scores": {
        "bm25": [list(bm25.rank(r.query.text, row).values()) for r, row in zip(requests, ids)],
        "dense": cosine_scores(encoder, requests),
        "gbdt": GbdtRanker.load(gbdt, encoder).score(requests),
        "cross-encoder": CrossEncoderRanker.load(cross_encoder).score(requests),
    },
}))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the clone, so that nothing is left in the clone itself."""
    source = tmp_path_factory.mktemp("source")
    for folder in ("genrank", "prompts", "eval", "examples", "finetune", "tests"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "genrank" / "prompts").unlink(missing_ok=True)  # a developer's link
    for file in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "constraints.txt"):
        shutil.copy(ROOT / file, source)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the source archive holds."""
    out = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(sdist, out, filter="data")
    (folder,) = out.iterdir()
    return folder


def build(source: Path, kind: str, out: Path) -> Path:
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("genrank-*")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and what the core needs, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    found = folder / "env" / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(found), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--no-compile", str(wheel)], check=True)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    for package in needed(wheel):
        for path in {Path(str(file)).parts[0] for file in importlib.metadata.files(package) or ()} - {"..", "bin"}:
            there = Path(sysconfig.get_paths()["purelib"]) / path
            if there.exists() and not (site / path).exists():
                (site / path).symlink_to(there)
    return found


def needed(wheel: Path) -> set[str]:
    """The packages that the wheel asks for, and those that these ask for, without extras."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = re.findall("^Requires-Dist: (.*)$", archive.read(metadata).decode(), re.MULTILINE)
    found: set[str] = set()
    while lines:
        requirement = Requirement(lines.pop())
        if requirement.name not in found and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
            found.add(requirement.name)
            lines += importlib.metadata.requires(requirement.name) or []
    return found


def run(python: Path, *arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-I", *arguments], capture_output=True, text=True, check=False, cwd=cwd, **options
    )


def test_the_wheel_holds_the_library_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"genrank"}
    here = {str(path.relative_to(ROOT)) for path in ROOT.glob("genrank/**/*.py")}
    assert here | {"genrank/py.typed", "genrank/prompts/inline.toml"} <= set(names)


def test_the_source_archive_holds_the_programs(source: Path, unpacked: Path) -> None:
    found = [path for folder in ("eval", "finetune", "prompts") for path in (source / folder).rglob("*")]
    names = {path.relative_to(source) for path in found if path.is_file() and "__pycache__" not in path.parts}
    assert len(names) > 100
    assert {name for name in names if not (unpacked / name).is_file()} == set()


@pytest.mark.parametrize("where", ["source", "unpacked"])
def test_the_programs_start_where_the_wheel_is_installed(
    where: str, python: Path, request: pytest.FixtureRequest
) -> None:
    """In a clone's folder or the unpacked archive, neither of them installed: the wheel brings what they need."""
    folder: Path = request.getfixturevalue(where)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def started(*arguments: str) -> str:
        command = [str(python), "-W", "ignore", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with others_too(python):
        for program in ("eval.run", "eval.leaderboard", "finetune.distill"):
            assert f"usage: python -m {program}" in started("-m", program, "--help")
        template = "from genrank.prompting import template; template.load_template('inline'); print(template.__file__)"
        assert Path(started("-c", template).strip()).is_relative_to(folder)


@contextlib.contextmanager
def others_too(python: Path) -> Iterator[None]:
    """While it lasts, the environment also finds the packages of this one, but not this clone."""
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    try:
        yield
    finally:
        (site / "others.pth").unlink()


def test_pypi_would_take_the_archives(sdist: Path, wheel: Path) -> None:
    pytest.importorskip("twine", reason="twine is not installed: pip install 'genrank[dev]'")
    command = [sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_wheel_has_no_common_mistake(wheel: Path) -> None:
    """Such as bytecode, files twice, or a second package."""
    missing = "check-wheel-contents is not installed: pip install 'genrank[dev]'"
    pytest.importorskip("check_wheel_contents", reason=missing)
    command = [sys.executable, "-m", "check_wheel_contents", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=wheel.parent)
    assert done.returncode == 0, done.stdout


def test_the_core_works_on_its_own(python: Path, tmp_path: Path) -> None:
    done = run(python, "-m", "genrank", "models", "list", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "smollm2-135m" in done.stdout
    assert run(python, "-m", "genrank", "prompts", "list", cwd=tmp_path).returncode == 0
    (tmp_path / "in.jsonl").write_text(json.dumps(REQUEST), encoding="utf-8")
    done = run(python, "-m", "genrank", "rerank", "in.jsonl", cwd=tmp_path)
    assert done.returncode == 1
    assert "pip install 'genrank[transformers]'" in done.stderr
    assert "Traceback" not in done.stderr
    program = (
        "import genrank; from genrank.testing import OracleEngine; shop = genrank.sample_shop(); "
        "shop.save('copy'); genrank.Dataset.load('copy'); "
        "ranking = genrank.Reranker(engine=OracleEngine({'1': 3.0})).rerank('red dress', ['a', 'b']); "
        "print(genrank.__file__, [item.listing_id for item in ranking.items])"
    )
    done = run(python, "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout
    assert "['1', '0']" in done.stdout


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("genrank.search.bm25", "search"),
        ("genrank.search.dense", "search"),
        ("genrank.rankers.gbdt", "rankers"),
        ("genrank.rankers.cross_encoder", "rankers"),
        ("genrank.engines.transformers", "transformers"),
        ("genrank.experiment.metrics", "eval"),
    ],
)
def test_what_is_missing_is_named_with_its_extra(module: str, extra: str, python: Path, tmp_path: Path) -> None:
    done = run(python, "-c", f"import {module}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("genrank.errors.MissingExtraError: ")
    assert done.stderr.rstrip().endswith(f"pip install 'genrank[{extra}]'")


@pytest.mark.model
def test_every_ranker_ranks_from_the_wheel(python: Path, tmp_path: Path) -> None:
    for package in ("lightgbm", "sentence_transformers", "datasets", "bm25s"):
        pytest.importorskip(package)
    try:
        resolve("bert-minilm")
    except ModelError as error:
        pytest.skip(f"no bert-minilm: {error}")
    shop = sample_shop()
    encoder = Encoder("bert-minilm", tmp_path / "encodings")
    train_gbdt(shop, BaselineConfig(dataset="sample-shop", rounds=20), encoder).save(tmp_path / "gbdt")
    few = CrossEncoderConfig(
        dataset="sample-shop", fields=("title",), max_length=16, list_size=3, lists_per_step=100, epochs=1,
        evaluations=1, max_candidates=3,
    )  # fmt: skip
    train_cross_encoder(few, shop, tmp_path / "cross-encoder")
    with others_too(python):
        folders = [str(tmp_path / name) for name in ("gbdt", "cross-encoder", "encodings")]
        done = run(python, "-W", "ignore", "-c", RANK, *folders, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert Path(answer["file"]).is_relative_to(python.parent.parent)
    assert answer["programs"] == []
    for name, scores in answer["scores"].items():
        assert [len(row) for row in scores] == answer["shapes"], name
        assert all(len(set(row)) > 1 for row in scores), name
