from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from genrank.engines.base import Stop, TextRequest
from genrank.errors import OutputError
from genrank.reasons.write import Reason, ReasonRequest, tidy, write_reasons
from genrank.testing import AnyRequest, ScriptedEngine
from genrank.types import Claims, Interaction, Listing, Query, Tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is red.", "It is red."),
        ("It is red. It is a dress.", "It is red."),
        ("It is red! Buy it.", "It is red!"),
        ("\n\n  It is\tred.\nIt is a dress.", "It is red."),
        ("Rated 4.5 stars. Cheap.", "Rated 4.5 stars."),  # the dot of a number ends no sentence
        ("Why not?! It is red.", "Why not?!"),
        ("See shop.example?id=1 for more. Bye.", "See shop.example?id=1 for more."),
        ("1. It is red.\n2. It is a dress.", "It is red."),  # the mark of a list
        ("2) It is red.", "It is red."),
        ("- It is red.", "It is red."),
        ("4-door car model.", "4-door car model."),
        ("适合夏天穿。很便宜。", "适合夏天穿。"),
        ("适合夏天穿！很便宜。", "适合夏天穿！"),
        ("要买吗？很便宜。", "要买吗？"),
        ("It is red and made of", "It is red and made of …"),
        ("适合夏天", "适合夏天 …"),
        ("\u200bIt is red.\x00", "It is red."),
        ("", ""),
        (" \n\u200b\n", ""),
    ],
)
def test_tidy_is_the_first_sentence(text: str, expected: str) -> None:
    assert tidy(text) == expected


def _request(query: str = "red dress", **fields: Any) -> ReasonRequest:
    listing = Listing(**{"listing_id": "p1", "title": "Red maxi dress"} | fields)
    return ReasonRequest((1, 2, 3), Query(query), listing)


def test_all_reasons_are_one_batch_and_end_where_they_are_told() -> None:
    engine = ScriptedEngine(["It is a red dress.", "It is a blue coat."])
    requests = [_request(), _request(query="coat", title="Blue coat")]
    reasons = write_reasons(engine, requests, max_tokens=9, ends=(7,))
    assert [reason and reason.text for reason in reasons] == ["It is a red dress.", "It is a blue coat."]
    assert engine.calls == 1
    assert engine.requests == [TextRequest((1, 2, 3), 9, (7,))] * 2


def test_a_grounded_reason_is_kept_with_its_evidence() -> None:
    (reason,) = write_reasons(
        ScriptedEngine([" A red dress by Zara.\nAnd more"]), [_request(brand="Zara")], max_tokens=9
    )
    assert reason == Reason(
        "A red dress by Zara.",
        ("title", "brand"),
        Claims(made=2, grounded=2),
        Tokens(prompt=3, completion=len(" A red dress by Zara.\nAnd more")),
        " A red dress by Zara.\nAnd more",
    )


def test_claims_that_do_not_stand_are_removed_and_counted() -> None:
    (reason,) = write_reasons(ScriptedEngine(["A perfect red dress of silk."]), [_request()], max_tokens=9)
    assert reason is not None
    assert reason.text == "For “red dress”: its title says “Red maxi dress”."
    assert reason.evidence == ("title",)
    assert reason.claims == Claims(made=3, grounded=1, removed=2, rewritten=1)
    assert reason.written == "A perfect red dress of silk."


def test_a_reason_in_another_script_is_written_in_the_querys() -> None:
    (reason,) = write_reasons(ScriptedEngine(["这是红色的连衣裙。"]), [_request()], max_tokens=9)
    assert reason is not None
    assert reason.text == "For “red dress”: its title says “Red maxi dress”."
    assert reason.claims.removed == 0
    assert reason.claims.rewritten == 1


def test_other_candidates_and_the_past_are_told_apart() -> None:
    past = Interaction("purchase", Listing("h", "Belt", brand="Zara"))
    other = Listing("o", "Coat", brand="Acme")
    request = dataclasses.replace(_request(), history=(past,), others=(other,))
    engine = ScriptedEngine(["A red dress by Acme.", "A red dress, and you bought Zara."])
    first, second = write_reasons(engine, [request, request], max_tokens=9)
    assert first is not None
    assert second is not None
    assert (first.claims.removed, second.claims.removed) == (1, 0)
    assert second.evidence == ("title", "history[0].brand", "history[0].event")


def test_nothing_written_is_built_from_the_listing() -> None:
    (reason,) = write_reasons(ScriptedEngine([""]), [_request()], max_tokens=9)
    assert reason is not None
    assert reason.text == "For “red dress”: its title says “Red maxi dress”."
    assert reason.claims == Claims(rewritten=1)


def test_what_is_stopped_has_no_reason() -> None:
    stop = Stop()

    def answer(request: AnyRequest) -> str:
        stop.cancel()
        return "It is a red dress."

    first, second = write_reasons(ScriptedEngine(answer), [_request(), _request()], max_tokens=9, stop=stop)
    assert first is not None
    assert second is None


def test_after_a_warm_up_the_first_check_is_as_fast_as_the_next() -> None:
    program = """
import time
from genrank.reasons.write import ReasonRequest, warm_up, write_reasons
from genrank.testing import ScriptedEngine
from genrank.types import Listing, Query
warm_up()
request = ReasonRequest((1,), Query("red dress"), Listing("a", "Red dress by Zara, 5 cm", brand="Zara"))
started = time.process_time()
write_reasons(ScriptedEngine(["A perfect red dress by Zara of silk for 5 EUR, 10 kg."]), [request], max_tokens=9)
print(time.process_time() - started)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.1, "0.4 s without"


def test_an_engine_that_answers_too_little_is_refused() -> None:
    class Short(ScriptedEngine):
        def write(self, requests: Any, *, stop: Any = None) -> Any:
            return []

    with pytest.raises(OutputError, match="0 answers where 1 were asked for"):
        write_reasons(Short([]), [_request()], max_tokens=9)
