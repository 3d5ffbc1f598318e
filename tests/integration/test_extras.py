"""Each extra installs alone, and all resolve together on every Python; slow, since they are downloaded."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("uv", reason="uv is not installed: pip install 'genrank[dev]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
# what an extra is for
MODULES = {
    "remote": ["genrank.remote.chat_engine"],
    "cli": ["rich", "genrank.cli.main"],
    "server": ["genrank.server.app"],
    "gateway": ["genrank.server.app", "genrank.remote.vllm_server", "genrank.engines.tokenizer"],
    "pictures": ["genrank.pictures.loader"],
    "search": ["genrank.search.bm25", "genrank.search.index", "genrank.search.understanding"],
    "opensearch": ["genrank.search.opensearch"],
    "feedback": ["genrank.search.feedback.log"],
    "eval": ["genrank.experiment.metrics", "genrank.experiment.systems"],
    "test": ["pytest", "hypothesis"],
    "docs": ["mkdocs", "mkdocstrings"],
}
# torch, vLLM or a browser: gigabytes, which other tests have installed
RESOLVED_ONLY = {"transformers", "vllm", "rankers", "baseline", "train", "dev"}


def uv(*arguments: str) -> str:
    """Run uv in the clone and return what it prints.

    Raises:
        AssertionError: When it fails, with what it says.
    """
    command = [sys.executable, "-m", "uv", "--quiet", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def resolve(version: str, *extras: str) -> dict[str, str]:
    """The packages and versions that a user of Linux gets; each must have a wheel, but for jieba, which has none."""
    wheels = ["--only-binary", ":all:", "--no-binary", "jieba"]
    named = [word for extra in extras for word in ("--extra", extra)]
    where = ["--python-version", version, "--python-platform", "x86_64-manylinux_2_39"]
    shown = uv("pip", "compile", "--no-header", "--no-annotate", *where, *wheels, *named, "pyproject.toml")
    return dict(line.split("==") for line in shown.splitlines() if "==" in line)


def test_each_extra_is_tried() -> None:
    assert PYTHONS == ["3.11", "3.12", "3.13"]
    assert MODULES.keys() | RESOLVED_ONLY == PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("version", PYTHONS)
def test_all_extras_resolve_together(version: str) -> None:
    found = resolve(version, *PROJECT["optional-dependencies"])
    assert {"torch", "vllm", "fastapi", "trl", "mkdocs"} <= found.keys()


@pytest.mark.parametrize("version", [PYTHONS[0], PYTHONS[-1]])
@pytest.mark.parametrize("extra", sorted(RESOLVED_ONLY))
def test_a_heavy_extra_resolves_alone(extra: str, version: str) -> None:
    assert len(resolve(version, extra)) > 5


@pytest.mark.parametrize("extra", MODULES)
def test_an_extra_works_alone(extra: str, tmp_path: Path) -> None:
    uv("venv", "--python", sys.executable, str(tmp_path / "env"))
    uv("pip", "install", "--python", str(tmp_path / "env"), f".[{extra}]")
    code = f"import genrank, {', '.join(MODULES[extra])}; print(genrank.__file__)"
    python = tmp_path / "env" / "bin" / "python"
    done = subprocess.run([python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


def test_the_smallest_image_holds_little(tmp_path: Path) -> None:
    """What deploy/gateway.Dockerfile installs with EXTRAS=remote,server, of an image that may have 300 MB."""
    uv("pip", "install", "--constraint", "constraints.txt", "--target", str(tmp_path), ".[remote,server]")
    assert not {"torch", "transformers", "numpy"} & {path.name for path in tmp_path.iterdir()}
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 60e6
