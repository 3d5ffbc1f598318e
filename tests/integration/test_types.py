"""Another type checker than mypy knows the types of the public names; slow, since it reads the whole package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("basedpyright", "uv"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'genrank[dev]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
# classes of torch's, transformers' and vLLM's classes, which are not installed here
DERIVED = {
    "genrank.engines.quantised.Int8Linear",
    "genrank.engines.transformers.PermutationLogitsProcessor",
    "genrank.engines.vllm_plugin.PermutationProcessor",
    "genrank.engines.vllm_plugin.PermutationV1",
    "genrank.engines.vllm_plugin.PermutationV2",
}


def test_every_public_name_has_a_type(tmp_path: Path) -> None:
    """Pyright reads the package that the first Python on PATH has installed."""
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, str(tmp_path / "env")], check=True)
    package = f"{ROOT}[eval,feedback,gateway]"
    subprocess.run([*uv, "pip", "install", "--python", str(tmp_path / "env"), package], check=True)
    path = os.pathsep.join([str(tmp_path / "env" / "bin"), os.environ["PATH"]])
    command = [sys.executable, "-m", "basedpyright", "--ignoreexternal", "--verifytypes", "genrank", "--outputjson"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)["typeCompleteness"]
    assert Path(found["packageRootDirectory"]).is_relative_to(tmp_path)
    assert found["exportedSymbolCounts"]["withKnownType"] > 3000
    unknown = [
        f"{symbol['name']}: {problem['message']}"
        for symbol in found["symbols"]
        if symbol["isExported"] and not symbol["isTypeKnown"]
        if symbol["name"] not in DERIVED
        for problem in symbol["diagnostics"] or [{"message": "made of the others"}]
    ]
    assert unknown == []
