from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, cast

import pytest

from eval.reasons import CheckedReason, RecordingEngine, main, save, summarise, write_and_check
from genrank import Listing, Query, Reranker
from genrank.data.dataset import Dataset
from genrank.engines.base import Engine, ScoreRequest, TextRequest
from genrank.errors import InputError
from genrank.reasons.grounding import Claim
from genrank.testing import ScriptedEngine
from genrank.types import Tokens


def answer(request: Any) -> Any:
    if isinstance(request, ScoreRequest):
        return [[0.0] * len(request.targets)] * len(request.reads)
    return "A perfect lamp."


def reason(text: str, claims: list[Claim], left: list[Claim]) -> CheckedReason:
    return CheckedReason(
        Query("red lamp", "q"), Listing("l", "red, lamp"), "A red lamp.", claims, text, left, ("title",)
    )


def test_the_recorder_keeps_what_was_written_and_passes_on_the_rest() -> None:
    engine = ScriptedEngine(["one", "two"])
    recorder = RecordingEngine(cast(Engine, engine))
    results = recorder.write([TextRequest((1,), 3), TextRequest((2,), 3)])
    assert [result.text for result in results if result] == recorder.texts == ["one", "two"]
    assert recorder.model == "scripted"
    assert len(recorder.seconds) == 1
    assert recorder.seconds[0] >= 0.0


def test_reasons_are_checked_before_and_after(shop: Dataset) -> None:
    requests = [shop.request(query) for query in shop.split("test")]
    recorder = RecordingEngine(cast(Engine, ScriptedEngine(answer)))
    reasons = write_and_check(requests, lambda engine: Reranker(engine=engine), recorder, per_query=2)
    assert [(checked.query.query_id, checked.listing.listing_id) for checked in reasons][:2] == [
        ("q1", "l1"),
        ("q1", "l2"),
    ]
    assert len(reasons) == 2 * len(requests)
    for checked in reasons:
        assert checked.written == "A perfect lamp."
        assert [claim.kind for claim in checked.claims if not claim.fields] == ["praise"]
        assert all(claim.fields for claim in checked.left)
        assert not checked.kept
        assert bool(checked.text) == bool(checked.wishes)
    assert recorder.tokens.completion == len("A perfect lamp.") * len(reasons)


def test_without_leave_to_rank_the_order_is_the_fallbacks(shop: Dataset) -> None:
    requests = [shop.request(query) for query in shop.split("test")]
    recorder = RecordingEngine(cast(Engine, ScriptedEngine(answer)), ranks=False)

    def last_first(asked: Any) -> list[list[float]]:
        return [list(map(float, range(len(request.candidates)))) for request in asked]

    grades = {"q1": {requests[0].candidates[-1].listing.listing_id: 3}}
    made = lambda engine: Reranker(engine=engine, fallback=last_first)  # noqa: E731
    reasons = write_and_check(requests, made, recorder, 1, grades)
    assert [one.listing for one in reasons] == [request.candidates[-1].listing for request in requests]
    assert reasons[0].grade == 3


def test_the_summary_counts_claims_on_both_sides() -> None:
    stands, fails = Claim("colour", "red", ("title",)), Claim("praise", "best", ())
    reasons = [reason("A red lamp.", [stands], [stands]), reason("New one.", [stands, fails, fails], [])]
    assert summarise(reasons, [0.5, 1.5, 1.0], Tokens(prompt=4, completion=3)) == {
        "reasons": 2,
        "claims_before": 4,
        "grounded_before": 2 / 4,
        "claims_after": 1,
        "grounded_after": 1.0,
        "kept": 1,
        "shortened": 0,
        "rewritten": 1,
        "dropped": 0,
        "name_a_wish_before": 0.0,
        "name_a_wish": 0.0,
        "mean_characters": round((len("A red lamp.") + len("New one.")) / 2, 1),
        "prompt_tokens": 2.0,
        "written_tokens": 1.5,
        "seconds_per_reason": 3.0 / 2,
        "seconds_per_call": 1.0,
    }
    assert summarise([reason("New one.", [], [])], [1.0], Tokens())["grounded_before"] is None
    with pytest.raises(InputError, match="no reason was written"):
        summarise([], [1.0], Tokens())


def test_the_table_holds_every_reason(tmp_path: Path) -> None:
    stands, fails = Claim("colour", "red", ("title",)), Claim("praise", "best", ())
    save([reason("It is\u2028red, \ud800.", [stands, fails], [stands])], {"reasons": 1}, tmp_path / "new")
    with (tmp_path / "new/reasons.csv").open(encoding="utf-8", newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert row == {
        "query": "red lamp",
        "past": "",
        "listing_id": "l",
        "title": "red, lamp",
        "grade": "",
        "written": "A red lamp.",
        "grounded": "colour: red",
        "not_grounded": "praise: best",
        "text": "It is\u2028red, ?.",
        "evidence": "title",
        "wishes": "",
        "kept": "0",
    }
    assert json.loads((tmp_path / "new/summary.json").read_text()) == {"reasons": 1}


@pytest.mark.parametrize("wrong", [["--queries", "0"], ["--per-query", "x"], ["--seed", "x"]])
def test_a_wrong_call_ends_with_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--dataset", "x", *wrong])


def test_a_missing_dataset_is_a_failed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", str(tmp_path / "none")]) == 1
    assert "error:" in capsys.readouterr().err
