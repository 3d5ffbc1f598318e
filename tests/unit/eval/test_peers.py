from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from eval.peers import (
    GENERATING,
    LOGITS,
    Host,
    Load,
    Ran,
    bare_contenders,
    genrank_contenders,
    is_permutation,
    measure_peers,
    one_text,
    pairwise,
    peer_requests,
    pointwise_contenders,
    row,
    table,
    titles_only,
)
from genrank import Candidate, Listing, Query, Request
from genrank.data.dataset import Dataset
from genrank.engines.base import ScoreRequest
from genrank.errors import EngineError, InputError
from genrank.experiment.metrics import ndcg_of
from genrank.testing import OracleEngine, ScriptedEngine, WordTokenizer
from genrank.types import Interaction, Tokens

GRADES = {"l1": 2.0, "l2": 1.0, "l3": 0.0}


def oracle_host(model: str) -> Host:
    """Runs in a process of its own."""
    os.write(1, b"noise on stdout\n")
    engine = OracleEngine(GRADES)
    return Host({**genrank_contenders(engine), **bare_contenders(engine.name, engine.tokenizer, engine.context, len)})


def parent_host(model: str) -> Host:
    """Starts a process that ends only when it is made to, as vLLM does."""
    multiprocessing.get_context("spawn").Process(target=time.sleep, args=(3600,)).start()
    return oracle_host(model)


def broken_host(model: str) -> Host:
    raise InputError(f"no {model} here")


def failing_host(model: str) -> Host:
    def run(requests: Sequence[Request]) -> Ran:
        raise ValueError("no order")

    return Host({"failing": run})


def request(*titles: str) -> Request:
    return Request(Query("red lamp", "q1"), tuple(Candidate(Listing(f"l{i + 1}", x)) for i, x in enumerate(titles)))


@pytest.mark.parametrize(
    ("answer", "valid"),
    [
        ("[B] > [A] > [C]", True),
        ("[ B ]>[A]>[C]", True),
        ("[B] > [A]", False),
        ("[B] > [A] > [C] > [A]", False),
        ("[B] > [A] > [C] > [D]", False),
        ("B > A > C", False),
        ("", False),
    ],
)
def test_an_answer_is_valid_when_it_names_each_candidate_once(answer: str, *, valid: bool) -> None:
    assert is_permutation(answer, "ABC") is valid


def test_pairs_give_the_median_and_the_extremes_of_ratios_not_the_ratio_of_medians() -> None:
    assert pairwise([1.0, 8.0, 6.0], [2.0, 2.0, 3.0]) == [6.0 / 3.0, 1.0 / 2.0, 8.0 / 2.0]


def test_only_titles_go_to_the_contenders() -> None:
    listing = Listing("l1", "red lamp", description="bright", brand="Lux")
    full = Request(Query("lamp"), (Candidate(listing, score=3.0, rank=1),), (Interaction("view", listing),))
    assert titles_only(full) == Request(Query("lamp"), (Candidate(Listing("l1", "red lamp")),))


def test_all_fields_become_one_text_which_is_cut() -> None:
    words = [f"word{i}" for i in range(100)]
    listing = Listing("l1", "red lamp", description=" ".join(words), brand="Lux")
    full = Request(Query("lamp"), (Candidate(listing, score=3.0, rank=1),), (Interaction("view", listing),))
    shown = one_text(full, WordTokenizer())
    text = " ".join(["red lamp | brand: Lux |", *words[: 64 - 7]])  # 7 tokens before the description
    assert shown == Request(Query("lamp"), (Candidate(Listing("l1", text)),))


def test_queries_with_too_few_candidates_are_left_out_and_the_others_cut(shop: Dataset) -> None:
    found = peer_requests(shop, "test", 10, 3)
    assert [r.query.query_id for r in found] == ["q1", "q2"]
    assert [len(r.candidates) for r in peer_requests(shop, "test", 1, 2)] == [2]
    with pytest.raises(InputError, match="has 4 candidates"):
        peer_requests(shop, "test", 10, 4)


def test_ndcg_is_that_of_the_orders(shop: Dataset) -> None:
    (asked,) = peer_requests(shop, "test", 1, 3)
    gain, some = shop.grades[2].gain, shop.grades[1].gain
    assert ndcg_of(shop, [asked], [["l1", "l2", "l3"]]) == pytest.approx(1.0)
    # the best at rank 3, the second best at rank 2: log2(3 + 1) = 2
    ideal = gain + some / 1.584962500721156
    assert ndcg_of(shop, [asked], [["l3", "l2", "l1"]]) == pytest.approx((gain / 2 + some / 1.584962500721156) / ideal)


def test_genrank_contenders_say_what_the_call_cost_and_whether_the_answer_was_the_models() -> None:
    contenders = genrank_contenders(OracleEngine(GRADES))
    assert list(contenders) == [
        "genrank oracle inline",
        "genrank oracle first-token",
        "genrank oracle listwise",
        "genrank oracle inline lean",
        "genrank oracle inline lean passes=2",
        "genrank oracle first-token lean",
        "genrank oracle listwise lean",
    ]
    asked = request("oak desk", "blue lamp", "red lamp")
    grades = {"l1": 0.0, "l2": 1.0, "l3": 2.0}
    ran = {name: run([asked]) for name, run in genrank_contenders(OracleEngine(grades)).items()}
    for one in ran.values():
        assert (one.orders, one.valid) == ([["l3", "l2", "l1"]], [True])
        assert one.seconds > 0
    lean, twice = (ran[f"genrank oracle inline lean{more}"].tokens.prompt for more in ("", " passes=2"))
    assert twice == 2 * lean
    assert lean < 0.75 * ran["genrank oracle inline"].tokens.prompt


def test_a_warm_contender_has_read_the_same_listings_for_another_query() -> None:
    engine = OracleEngine({"l1": 0.0, "l2": 1.0})
    cold, warm = pointwise_contenders(engine).values()
    asked = request("oak desk", "red lamp")
    assert cold([asked]).orders == [["l2", "l1"]]
    once = list(engine.requests)
    assert warm([asked]).orders == [["l2", "l1"]]
    before, after = engine.requests[2:4], engine.requests[4:]
    assert after == once
    for first, second in zip(before, after, strict=True):
        assert isinstance(first, ScoreRequest)
        assert isinstance(second, ScoreRequest)
        assert first.ids[: first.head] == second.ids[: second.head]
        assert first.ids != second.ids


def test_a_failed_engine_gives_no_valid_answer() -> None:
    broken = ScriptedEngine(lambda _: EngineError("gone"))
    ran = genrank_contenders(broken)["genrank scripted inline"]([request("red lamp", "desk")])
    assert (ran.orders, ran.valid) == ([["l1", "l2"]], [False])


def test_the_bare_engine_reads_the_tokens_that_genrank_has_its_engine_read() -> None:
    engine = OracleEngine(GRADES)
    asked = [request("red lamp", "oak desk"), request("blue lamp", "red desk")]
    for decoding in ("inline", "first-token"):
        seen: list[list[int]] = []

        def read(prompts: list[list[int]], seen: list[list[int]] = seen) -> int:
            seen += prompts
            return 7

        bare = bare_contenders("oracle", engine.tokenizer, engine.context, read)[f"bare oracle {decoding}"]
        for _ in range(2):
            engine.requests.clear()
            seen.clear()
            theirs, own = bare(asked), genrank_contenders(engine)[f"genrank oracle {decoding}"](asked)
            assert seen == [list(r.ids) for r in engine.requests]
            assert theirs.tokens == Tokens(own.tokens.prompt, cached=7)
            assert not theirs.orders


def test_a_row_holds_medians_of_pairs_and_figures_a_query() -> None:
    batched = {
        "genrank x inline passes=2": [
            Ran(1.0, Tokens(200, 40, 2), (), (True, True)),
            Ran(4.0, Tokens(100), (), (False,)),
        ],
        "bare x inline": [Ran(1.0, Tokens(100)), Ran(2.0, Tokens(50))],
        GENERATING: [Ran(2.0, Tokens(10), (), (False, False)), Ran(12.0, Tokens(10), (), (False,))],
        LOGITS: [Ran(0.5, Tokens(10)), Ran(2.0, Tokens(10))],
    }
    alone = [Ran(0.1, Tokens(1)), Ran(0.3, Tokens(1))]
    found = row("genrank x inline passes=2", batched, alone, [2, 1])
    assert found["queries_per_s"] == round((2 / 1.0 + 1 / 4.0) / 2, 3)
    assert found["times_generating"] == [(2.0 / 1.0 + 12.0 / 4.0) / 2, 2.0 / 1.0, 12.0 / 4.0]
    assert found["times_logits"] == [0.5 / 1.0, 0.5 / 1.0, 2.0 / 4.0]
    assert found["of_bare"] == [((200 / 1.0) / (100 / 1.0) + (100 / 4.0) / (50 / 2.0)) / 2, 1.0, 2.0]
    assert (found["prompt_tokens"], found["cached_tokens"], found["completion_tokens"]) == (
        100.0,
        round(40 / 3, 1),
        0.7,
    )
    assert found["valid"] == 2 / 3
    assert found["single_ms"][0] == (100 + 300) / 2
    assert found["batch_ms"][0] == (1000 + 4000) / 2


def test_a_warm_contender_is_compared_with_the_cold_one() -> None:
    batched = {"genrank x": [Ran(3.0, Tokens(10))], "genrank x warm": [Ran(1.0, Tokens(10))]}
    assert row("genrank x warm", batched, batched["genrank x"], [1])["times_cold"] == [3.0, 3.0, 3.0]
    assert row("genrank x", batched, batched["genrank x"], [1])["times_cold"] is None


def test_rivals_that_are_not_there_and_the_rivals_themselves_have_no_ratio() -> None:
    ran = [Ran(1.0, Tokens(10))]
    alone = row("genrank x listwise", {"genrank x listwise": ran}, ran, [1])
    assert [alone[key] for key in ("times_generating", "times_logits", "times_cold", "of_bare", "valid")] == [None] * 5
    peer = row(GENERATING, {GENERATING: ran, LOGITS: ran}, ran, [1])
    assert (peer["times_generating"], peer["times_logits"], peer["of_bare"]) == (None, [1.0, 1.0, 1.0], None)


def test_all_take_part_in_processes_of_their_own_but_those_that_cannot(
    shop: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shop.save(tmp_path / "shop")
    result = measure_peers(
        str(tmp_path / "shop"),
        "tiny",
        split="test",
        queries=10,
        candidates=3,
        batch=1,
        rounds=2,
        only="^(?!.* first-token)",
        out=tmp_path / "out",
        loaders={"oracle": parent_host, "broken": broken_host},
    )
    assert result["skipped"] == {"broken": "InputError: no tiny here"}
    rows = {entry["contender"]: entry for entry in result["rows"]}
    assert len(rows) == 6
    assert rows["bare oracle inline"]["ndcg@10"] is None
    assert rows["genrank oracle listwise"]["valid"] == 1.0
    assert rows["genrank oracle inline"]["of_bare"] is not None
    assert json.loads((tmp_path / "out" / "peers.json").read_text()) == result
    assert (tmp_path / "out" / "peers.md").read_text() == table(result)
    assert (tmp_path / "out" / "oracle.log").read_text() == "noise on stdout\n"
    assert capfd.readouterr().out == ""
    lines = table(result).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert lines[-1] == "Without broken: InputError: no tiny here"


@pytest.mark.parametrize(
    ("loaders", "message"),
    [
        ({"broken": broken_host}, "no contender can take part"),
        ({"failing": failing_host}, "failing failed: ValueError"),
    ],
)
def test_nobody_there_and_a_contender_that_fails_are_errors(
    loaders: Mapping[str, Load], message: str, shop: Dataset, tmp_path: Path
) -> None:
    shop.save(tmp_path)
    with pytest.raises(EngineError, match=message):
        measure_peers(str(tmp_path), "tiny", split="test", queries=1, candidates=3, batch=1, rounds=1, loaders=loaders)


@pytest.mark.parametrize("field", ["candidates", "queries", "batch", "rounds"])
def test_a_number_out_of_range_is_refused(field: str) -> None:
    numbers = {"candidates": 3, "queries": 1, "batch": 1, "rounds": 1} | {field: 0}
    with pytest.raises(InputError, match=field):
        measure_peers(
            "nowhere",
            "tiny",
            split="test",
            queries=numbers["queries"],
            candidates=numbers["candidates"],
            batch=numbers["batch"],
            rounds=numbers["rounds"],
        )


@pytest.mark.parametrize(("only", "message"), [("nobody", "no contender's name has 'nobody'"), ("(", "not a regular")])
def test_contenders_that_are_not_there_are_refused(only: str, message: str, shop: Dataset, tmp_path: Path) -> None:
    shop.save(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        measure_peers(
            str(tmp_path),
            "tiny",
            split="test",
            queries=1,
            candidates=3,
            batch=1,
            rounds=1,
            only=only,
            loaders={"failing": failing_host},
        )
    assert caught.value.field == "contenders"
