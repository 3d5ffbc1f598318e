"""The Dockerfiles, and the Compose file that runs them."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from genrank.server.config import KEYS_VARIABLE, REDIS_VARIABLE, Config
from genrank.server.edge import PATHS
from tests.deployment import DEPLOY, KEY, ROOT, check_command, documents, in_dockerfile

DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))
each_file = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
COMPOSE = DEPLOY / "compose.yaml"
PORTS = {"gateway": Config().server.port, "vllm": 8000}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    (compose,) = documents(COMPOSE)
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def last(path: Path, name: str) -> str:
    return [rest for found, rest in in_dockerfile(path) if found == name][-1]


@each_file
def test_an_image_runs_genrank_without_being_root(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert last(path, "USER") == "10001:10001"
    assert json.loads(last(path, "ENTRYPOINT")) == ["genrank"]
    words = json.loads(last(path, "CMD"))
    check_command(words, {KEYS_VARIABLE: KEY}, monkeypatch)
    port = PORTS[path.name.removesuffix(".Dockerfile")]
    assert int(last(path, "EXPOSE")) == port == int(words[words.index("--port") + 1])
    (asked,) = re.findall(rf"http://127\.0\.0\.1:{port}(/\w+)", last(path, "HEALTHCHECK"))
    assert asked == "/health"
    assert asked in PATHS


@each_file
def test_an_image_copies_what_is_there_and_is_sent_to_the_builder(path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    copied = [rest.split()[:-1] for name, rest in in_dockerfile(path) if name == "COPY" and "--from=" not in rest]
    names = {name for words in copied for name in words}
    assert {"genrank", "prompts", "pyproject.toml", "README.md", "LICENSE"} <= names
    for name in names:
        assert (ROOT / name).exists()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in sent), f"{name} is not sent"


@each_file
def test_the_extras_of_an_image_exist(path: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"EXTRAS=([\w,]+)", text) + re.findall(r'"\.\[([\w,]+)\]"', text)
    assert named
    assert {name for one in named for name in one.split(",")} <= extras.keys()


def test_the_gateways_extra_brings_no_torch() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    own = [line for line in extras["gateway"] if not line.startswith("genrank[")]
    (included,) = re.findall(r"^genrank\[(.*)\]$", extras["gateway"][0])
    lines = [*own, *(line for name in included.split(",") for line in extras[name])]
    names = {re.split(r"[<>=\[]", line)[0] for line in lines}
    assert {"fastapi", "httpx", "transformers", "jinja2", "huggingface_hub"} <= names
    assert "torch" not in names
    same = {line for line in extras["transformers"] if line.startswith(("transformers", "huggingface_hub"))}
    assert same <= set(extras["gateway"])


@pytest.mark.parametrize(
    "path", [*DOCKERFILES, *DEPLOY.glob("**/*.yaml"), *DEPLOY.glob("systemd/*")], ids=lambda path: path.name
)
def test_every_variable_is_one_that_the_programs_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    known = {KEYS_VARIABLE, REDIS_VARIABLE, "GENRANK_API_KEY", "GENRANK_HOME"}
    assert set(re.findall(r"\bGENRANK_[A-Z_]+\b", text)) <= known
    spec = importlib.util.find_spec("vllm")
    named = set(re.findall(r"\bVLLM_[A-Z_]+\b", text)) - {"VLLM_PORT"}  # that one is only spoken of
    if named and spec is not None and spec.origin is not None:
        there = (Path(spec.origin).parent / "envs.py").read_text(encoding="utf-8")
        assert {name for name in named if f'"{name}"' not in there} == set()


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
@each_file
def test_hadolint_accepts_the_dockerfile(path: Path) -> None:
    done = subprocess.run(["hadolint", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_runs_what_genrank_understands(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = set()
    for name in ("gateway", "vllm", "fetch"):
        service = services[name]
        environment = {key: value.split(":?")[0] for key, value in service.get("environment", {}).items()}
        if KEYS_VARIABLE in environment:
            environment[KEYS_VARIABLE] = KEY  # it is asked for, and has no default
        check_command(service["command"], environment, monkeypatch)
        models |= {word for word in service["command"] if word.startswith("qwen")}
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert len(models) == 1
    assert ":?" in services["gateway"]["environment"][KEYS_VARIABLE]


def test_the_services_of_compose_find_each_other(services: dict[str, dict[str, Any]]) -> None:
    (compose,) = documents(COMPOSE)
    gateway = services["gateway"]
    words = gateway["command"]
    assert words[words.index("--engine") + 1] == f"http://vllm:{PORTS['vllm']}/v1"
    assert gateway["environment"][REDIS_VARIABLE] == "redis://redis:6379/0"
    for service in services.values():
        assert set(service.get("depends_on", {})) <= services.keys()
        volumes = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert volumes <= compose["volumes"].keys()


def test_compose_shows_others_nothing_and_locks_every_service(services: dict[str, dict[str, Any]]) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["gateway"]
    assert services["gateway"]["ports"] == [f"127.0.0.1:{PORTS['gateway']}:{PORTS['gateway']}"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    grace = float(services["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace > Config().server.shutdown


def _has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _has_compose(), reason="docker compose is not installed")
def test_compose_itself_accepts_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, KEY)
    call = ["docker", "compose", "-f", str(COMPOSE), "config", "--quiet"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
