from __future__ import annotations

from pathlib import Path

import pytest

from eval.batch import killed, measure_batch, repeated
from eval.bench import main, windows
from genrank.batch.settings import Settings
from tests.batch_rig import Double, ids, write_lines
from tests.kept_rig import save_bytes_model, write_prompt


def test_repeated_requests_have_ids_of_their_own() -> None:
    requests = repeated(windows(2), 5)
    assert [one.query.query_id for one in requests] == [f"q{i}" for i in range(5)]
    assert requests[0].candidates == requests[2].candidates != requests[1].candidates


def test_a_job_costs_little_beside_an_engine_that_takes_its_time() -> None:
    requests = repeated(windows(2), 8)
    found = measure_batch(Double(pause=0.005), requests, batch=4, rounds=2)
    assert (found["queries"], found["batch"]) == (8, 4)
    assert len(found["ratio"]) == 3
    assert found["job_rows_per_s"] > 0.2 * found["engine_rows_per_s"], "on a busy machine too"


def test_a_killed_job_is_counted(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
    model = save_bytes_model(tmp_path / "model")
    source, out = write_lines(tmp_path / "in.jsonl", 30), tmp_path / "out.jsonl"
    found = killed(Settings(model=model, prompt=write_prompt(tmp_path / "bytes.toml")), source, out, batch=2, kills=1)
    assert found.pop("seconds") > 0
    assert (found["rows"], found["answers"], found["distinct"]) == (30, 30, 30)
    assert sorted(ids(out)) == sorted(f"q{i}" for i in range(30))


@pytest.mark.parametrize("option", ["--queries", "--batch"])
def test_wrong_numbers_are_named(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "batch", option, "0"]) == 2
    assert f"{option[2:]}: must be at least 1, got 0" in capsys.readouterr().err
