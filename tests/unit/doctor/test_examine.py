from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from genrank.doctor import examine as module
from genrank.doctor.check import Check
from genrank.doctor.examine import examine


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENRANK_HOME", str(tmp_path / "home"))


def test_everything_is_looked_at_and_every_gap_has_its_command() -> None:
    checks = examine()
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    wanted = {"python", "genrank", "engine", "extra transformers", "cpu", "gpu", "home", "disk", "environment"}
    assert wanted <= set(names)
    assert "server" not in names
    assert all(bool(check.fix) == (check.state != "ok") for check in checks)


def test_it_imports_nothing_heavy_and_ends_within_a_second() -> None:
    program = (
        "import sys, time\nfrom genrank.doctor.examine import examine\nbegan = time.process_time()\nexamine()\n"
        "print(sorted({'torch', 'transformers', 'vllm', 'numpy'} & set(sys.modules)), time.process_time() - began < 1)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"


def test_the_server_and_the_heavy_packages_are_asked_only_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def server(url: str, *, deep: bool, transformers: bool) -> Check:
        return Check("server", "ok", f"{url} {deep}")

    monkeypatch.setattr(module, "check_server", server)
    monkeypatch.setattr(module, "check_torch", lambda: [Check("torch", "ok", "fast")])
    monkeypatch.setattr(module, "check_vllm", lambda: [Check("vllm", "ok", "fast")])
    shallow = {check.name: check.found for check in examine(server="http://host")}
    assert shallow["server"] == "http://host False"
    assert not {"torch", "vllm"} & shallow.keys()
    deep = {check.name: check.found for check in examine(server="http://host", deep=True)}
    assert deep["server"] == "http://host True"
    assert {"torch", "vllm"} <= deep.keys()


def test_a_genrank_that_is_no_package_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise PackageNotFoundError("genrank")

    monkeypatch.setattr(module, "read_extras", missing)
    (check,) = [check for check in examine() if check.name == "genrank"]
    assert (check.state, check.fix) == ("failed", "pip install -e . (in a clone)")
