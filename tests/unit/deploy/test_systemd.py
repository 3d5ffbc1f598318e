from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genrank.server.config import load_config
from tests.deployment import DEPLOY, KEY, check_command

UNIT = DEPLOY / "systemd/genrank.service"
PROGRAM = "/opt/genrank/bin/genrank"


def values(name: str) -> list[str]:
    """What the unit sets a name to; it may do so more than once."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_settings_are_right_and_leave_time_to_stop() -> None:
    config, _ = load_config(DEPLOY / "systemd/serve.toml", environment={"GENRANK_API_KEYS": KEY})
    (stop,) = values("TimeoutStopSec")
    assert float(stop) > config.server.shutdown


def test_the_commands_are_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    (first,), (start,) = values("ExecStartPre"), values("ExecStart")
    for line in (first, start):
        program, *words = shlex.split(line)
        assert program == PROGRAM
        known = {"/etc/genrank/serve.toml": str(DEPLOY / "systemd/serve.toml")}
        words = [known.get(word, word).replace("${CREDENTIALS_DIRECTORY}", str(tmp_path)) for word in words]
        check_command(words, {}, monkeypatch)


def test_the_model_that_is_fetched_is_the_one_that_is_served() -> None:
    config, _ = load_config(DEPLOY / "systemd/serve.toml", environment={"GENRANK_API_KEYS": KEY})
    (first,) = values("ExecStartPre")
    assert first.split()[-1] == config.model.model


def test_it_runs_without_rights() -> None:
    for name, value in (("DynamicUser", "yes"), ("NoNewPrivileges", "yes"), ("ProtectSystem", "strict")):
        assert values(name) == [value]
    assert values("CapabilityBoundingSet") == [""]


def test_rounds_of_retuning_are_started_and_what_they_promote_is_served() -> None:
    pytest.importorskip("duckdb")
    from eval.retune.__main__ import STATUS, main
    from genrank.models.versions import HISTORY

    unit = (DEPLOY / "systemd/genrank-retune.service").read_text(encoding="utf-8")
    (start,) = re.findall(r"^ExecStart=(.*)$", unit, flags=re.MULTILINE)
    python, dash, module, *options = shlex.split(start)
    assert (python, dash, module) == ("/opt/genrank/bin/python", "-m", "eval.retune")
    assert main([word.replace("/etc/genrank", "/nowhere") for word in options]) == 2  # the options are known
    assert f"SuccessExitStatus={STATUS['waiting']}\n" in unit
    assert STATUS["waiting"] == STATUS["busy"] != STATUS["refused"]
    watched = (DEPLOY / "systemd/genrank-adapter.path").read_text(encoding="utf-8")
    assert f"PathChanged=/srv/genrank/adapters/{HISTORY}\n" in watched
    assert (DEPLOY / "systemd/genrank-adapter.service").is_file()
    assert "OnCalendar=" in (DEPLOY / "systemd/genrank-retune.timer").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "genrank.service"
    file.write_text(UNIT.read_text(encoding="utf-8").replace(PROGRAM, sys.executable))  # it must exist
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)], capture_output=True, text=True, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "genrank" in line]
    assert (done.returncode, said) == (0, [])
