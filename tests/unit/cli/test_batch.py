from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genrank.cli.main import main
from tests.batch_rig import ids, line, read, write_lines
from tests.kept_rig import save_bytes_model, write_prompt

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny model, and a prompt that its tokenizer can answer."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
    folder = tmp_path_factory.mktemp("model")
    return ["--model", save_bytes_model(folder / "model"), "--prompt", write_prompt(folder / "bytes.toml")]


def test_a_job_is_finished_and_found_finished(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"
    call = ["batch", str(source), str(out), *options, "--batch", "2"]
    assert main(call) == 0
    first, err = capsys.readouterr()
    counts = json.loads(first)
    assert counts.pop("seconds") > 0
    assert counts == {"rows": 5, "answered": 5, "resumed": 0, "ranked": 5, "failed": 0, "complete": True}
    assert err.endswith("5 answered, 0 failed\n")
    assert ids(out) == [f"q{number}" for number in range(5)]
    assert main(call) == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == 5
    assert main([*call, "--top-k", "2"]) == 2
    assert "was begun with another top_k (top_k: none -> 2)" in capsys.readouterr().err
    assert main([*call, "--top-k", "2", "--overwrite"]) == 0
    assert [len(fields["items"]) for fields in read(out)] == [2] * 5


def test_failed_rows_end_with_1_and_say_where_they_are(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(f"{json.dumps(line(0))}\nno JSON\n")
    assert main(["batch", str(source), str(out), *options]) == 1
    written, err = capsys.readouterr()
    assert json.loads(written)["failed"] == 1
    assert f"the reasons are in {out}.failed.jsonl; --retry-failed tries these rows again" in err


@pytest.mark.timeout(1200)  # seconds, but for a busy machine
def test_a_signal_ends_a_job_that_goes_on_later(options: list[str], tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 3000), tmp_path / "out.jsonl"
    call = ["batch", str(source), str(out), *options, "--batch", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "genrank", *call]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            while process.poll() is None and not (out.exists() and out.stat().st_size):
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            written, err = process.communicate()
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM, err.decode()
    counts = json.loads(written)
    assert not counts["complete"]
    assert 0 < counts["ranked"] == len(ids(out)) < 3000
    assert err.decode().endswith("stopped; run the same command again to go on\n")
    write_lines(source, counts["ranked"] + 4)
    assert main(call) == 0
    assert len(set(ids(out))) == len(ids(out)) == counts["ranked"] + 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--batch", "0"], "--batch: must be at least 1, got 0"),
        (["--workers", "2"], "--workers: is for Ray; add --ray, or leave it out"),
        (["--format", "run-batch", "--top-k", "3"], "--top-k: run-batch has top_n in each body; leave it out"),
        (["--prompt", "none"], "no prompt template 'none'"),
        (["--ray", "--workers", "0"], "--workers: must be at least 1, got 0"),
    ],
)
def test_a_wrong_call_ends_with_2_and_names_it(
    given: list[str], message: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_lines(tmp_path / "in.jsonl", 1)
    assert main(["batch", str(source), str(tmp_path / "out.jsonl"), *options, *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_the_input_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_lines(tmp_path / "in.jsonl", 1)
    assert main(["batch", str(source), str(source), "--overwrite"]) == 2
    assert "OUT: is also the input" in capsys.readouterr().err
    assert main(["batch", str(tmp_path), str(tmp_path / "out.jsonl")]) == 2
    assert "OUT: lies in the input's folder" in capsys.readouterr().err
    assert ids(source) == ["q0"]
