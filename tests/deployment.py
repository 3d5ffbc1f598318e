"""Reads the files of ``deploy/`` for the tests that hold them to the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from genrank.cli.main import main, parse
from genrank.remote.http import API_KEY

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"

KEY = "key-of-the-shop"


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def metric_names(text: str) -> set[str]:
    """The metrics of genrank that a text names."""
    return set(re.findall(r"\bgenrank_[a-z_]+\b", text))


def exported() -> dict[str, set[str]]:
    """Every sample that the gateway exports, and its labels."""
    from genrank.server.telemetry import Metrics

    metrics = Metrics()
    metrics.requests.labels(outcome="model")  # a sample is there once its labels have a value
    metrics.tokens.labels(kind="prompt")
    metrics.responses.labels(status="200")
    metrics.cache.labels(result="hit")
    metrics.stages.labels(stage="match")
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def check_command(words: list[str], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check a container's or a unit's call of ``genrank`` as ``genrank`` itself does."""
    for name in ("GENRANK_API_KEYS", "GENRANK_REDIS_URL", API_KEY):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    arguments = parse(words)
    if words[0] == "serve":
        assert main([*words, "--check"]) == 0
    elif words[0] == "vllm":
        passed_on = {word.partition("=")[0] for word in arguments.unknown if word.startswith("--")}
        assert passed_on <= {"--host", "--port"}, "flags of vLLM that this test does not know"


def in_dockerfile(path: Path) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile, as their name and the rest."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name, rest.strip()
