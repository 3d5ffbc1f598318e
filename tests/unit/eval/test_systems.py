from collections.abc import Sequence

from eval.config import Bm25System, FirstStageSystem, RandomSystem, RunConfig
from eval.systems import Answer, answer
from genrank.dataset import Dataset, Run
from genrank.types import Provenance, RankedItem, Ranking, Request, Tokens


def ranked(
    system: RandomSystem | FirstStageSystem | Bm25System, shop: Dataset, requests: Sequence[Request], seed: int = 0
) -> Run:
    config = RunConfig(dataset="d", seed=seed, systems=(system,))
    return answer(system, config, shop, requests).run


def requests_of(shop: Dataset) -> list[Request]:
    return [shop.request(query) for query in shop.queries]


def test_random_depends_on_seed_and_query_alone(shop: Dataset) -> None:
    system, requests = RandomSystem(type="random"), requests_of(shop)
    run = ranked(system, shop, requests)
    assert run == ranked(system, shop, requests)
    assert run["q2"] == ranked(system, shop, requests[1:2])["q2"]
    turned = [Request(request.query, request.candidates[::-1]) for request in requests]
    assert run == ranked(system, shop, turned)
    assert len({tuple(ranked(system, shop, requests, seed)["q1"]) for seed in range(20)}) > 2


def test_first_stage_keeps_the_order(shop: Dataset) -> None:
    run = ranked(FirstStageSystem(type="first-stage"), shop, requests_of(shop))
    assert {query: list(scores) for query, scores in run.items()} == {q: list(ids) for q, ids in shop.qrels.items()}


def test_bm25(shop: Dataset) -> None:
    for system in (Bm25System(type="bm25"), Bm25System(type="bm25", idf="candidates")):
        run = ranked(system, shop, requests_of(shop))
        assert next(iter(run["q1"])) == "l1"
        assert list(run["q2"]) == ["l3", "l4", "l2"]


def test_counts() -> None:
    items = (RankedItem("a", 1, 1.0, 1),)
    rankings = (
        Ranking("q", items, Provenance(windows=2, tokens=Tokens(10, 4, 1), cuts={"candidates": 3})),
        Ranking("r", items, Provenance(outcome="repaired", why="odd", repairs=("x", "y"), cuts={"candidates": 2})),
        Ranking("s", items, Provenance(outcome="fallback", why="odd", tokens=Tokens(1, 0, 0))),
    )
    assert Answer({}, 1.0, 0.0, rankings).counts() == {
        "model": 1,
        "repaired": 1,
        "fallback": 1,
        "repairs": 2,
        "whys": {"odd": 2},
        "cuts": {"candidates": 5},
        "windows": 2,
        "prompt_tokens": 11,
        "cached_tokens": 4,
        "completion_tokens": 1,
    }
    assert Answer({}, 1.0, 0.0).counts() == {}
