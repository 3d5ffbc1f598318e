from __future__ import annotations

from pathlib import Path

import pytest

from genrank.cli.main import main
from genrank.models.versions import AdapterVersions


def test_add_promote_list_and_go_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "adapters")
    names = []
    for words in ("one", "two"):
        (tmp_path / words).mkdir()
        (tmp_path / words / "model.txt").write_text(words)
        assert main(["adapters", "add", folder, str(tmp_path / words)]) == 0
        out, err = capsys.readouterr()
        names.append(out.strip())
        assert f"genrank adapters promote {folder} {out.strip()}" in err
    assert main(["adapters", "promote", folder, names[0]]) == 0
    assert main(["adapters", "promote", folder, "2", "--why", "better on test"]) == 0
    assert capsys.readouterr().out.split() == names
    assert main(["adapters", "list", folder]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names)
    assert "current" in out
    assert main(["adapters", "rollback", folder, "--why", "slow"]) == 0
    assert capsys.readouterr().out.strip() == names[0]
    versions = AdapterVersions(folder)
    assert versions.current() == versions.find("1")
    assert [one.why for one in versions.history()] == ["", "better on test", "slow"]
    assert main(["adapters", "rollback", folder]) == 2
    assert "has no version to go back to" in capsys.readouterr().err


def test_an_unknown_version_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapters", "promote", str(tmp_path), "7"]) == 2
    assert "no version '7'" in capsys.readouterr().err
    assert main(["adapters", "add", str(tmp_path), str(tmp_path / "none")]) == 2
