import math
from collections.abc import Mapping, Sequence

import pytest

from eval.blend import WEIGHTS, blend, fit_weight, standard_scores
from eval.config import BlendSystem
from eval.systems import SystemResult
from genrank.data.dataset import Dataset
from genrank.data.trec import Run
from genrank.decoding.judgements import log_odds
from genrank.types import Request

GOOD = {"q1": {"l1": 3.0, "l2": 2.0, "l3": 1.0}, "q2": {"l3": 3.0, "l4": 2.0, "l2": 1.0}}
BAD = {"q1": {"l3": 9.0, "l2": 8.0, "l1": 7.0}, "q2": {"l2": 9.0, "l4": 8.0, "l3": 7.0}}


def requests_of(shop: Dataset) -> list[Request]:
    return [shop.request(query) for query in shop.queries[:2]]


def answer(run: Run, probabilities: Run | None = None, *, cached: bool = False) -> SystemResult:
    return SystemResult(run, 1.0, 0.5, probabilities=probabilities, cached=cached)


def blended(
    shop: Dataset,
    answers: Mapping[str, SystemResult],
    fitted_on: Mapping[str, SystemResult] | None = None,
    **settings: object,
) -> tuple[SystemResult, float]:
    system = BlendSystem.model_validate({"type": "blend", "name": "both", "systems": list(answers), **settings})
    requests = requests_of(shop)

    def fitted() -> tuple[Sequence[Request], Mapping[str, SystemResult]]:
        assert fitted_on is not None, "a given weight needs no fit"
        return requests[1:], fitted_on

    return blend(system, answers, requests, shop, fitted, 10)


def test_scores_have_mean_0_and_deviation_1_within_a_query(shop: Dataset) -> None:
    for scores in standard_scores(answer(BAD), requests_of(shop)):
        assert sum(scores) == pytest.approx(0)
        assert sum(score * score for score in scores) / len(scores) == pytest.approx(1)
    alike = {query: dict.fromkeys(ids, 5.0) for query, ids in GOOD.items()}
    assert standard_scores(answer(alike), requests_of(shop)) == [[0, 0, 0]] * 2


def test_a_probability_counts_as_its_log_odds(shop: Dataset) -> None:
    chances = {"q1": {"l1": 0.9, "l2": 0.5, "l3": 0.0}, "q2": {"l2": 1.0, "l3": 0.5, "l4": 0.1}}
    odds = {
        "q1": {"l1": math.log(9), "l2": 0.0, "l3": log_odds(0.0)},
        "q2": {"l2": log_odds(1.0), "l3": 0.0, "l4": -math.log(9)},
    }
    found = standard_scores(answer(GOOD, chances), requests_of(shop))
    for one, other in zip(found, standard_scores(answer(odds), requests_of(shop)), strict=True):
        assert one == pytest.approx(other)


def test_a_given_weight(shop: Dataset) -> None:
    both = {"good": answer(GOOD), "bad": answer(BAD, cached=True)}
    found, weight = blended(shop, both, weight=1.0)
    assert weight == 1
    assert [list(found.run[query]) for query in GOOD] == [list(GOOD[query]) for query in GOOD]
    assert (found.seconds, found.load_seconds, found.cached) == (2.0, 1.0, True)
    found, _ = blended(shop, both, weight=0.25)
    assert [list(found.run[query]) for query in GOOD] == [list(BAD[query]) for query in GOOD]


def test_the_weight_is_fitted_on_other_queries(shop: Dataset) -> None:
    both = {"one": answer(GOOD), "other": answer(BAD)}
    # on the query of the fit, the second system is the good one
    found, weight = blended(shop, both, {"one": answer(BAD), "other": answer(GOOD)})
    assert [list(found.run[query]) for query in GOOD] == [list(BAD[query]) for query in GOOD]
    assert weight < 0.5
    # every weight is as good as any other: the middle
    assert blended(shop, both, {"one": answer(GOOD), "other": answer(GOOD)})[1] == 0.5
    assert 0.5 in WEIGHTS


def test_of_weights_that_the_queries_cannot_tell_apart_the_middle_one_is_taken() -> None:
    unlike = {0.0: [0.2, 0.2, 0.2], 0.5: [0.5, 0.9, 0.6], 0.8: [0.8, 0.6, 0.8], 1.0: [0.9, 0.6, 0.9]}
    assert fit_weight(unlike) == 0.5  # loses 0.4 and 0.3, wins 0.3: less than one standard error
    sure = {**unlike, 0.5: [0.5, 0.3, 0.6]}
    assert fit_weight(sure) == 1.0  # loses 0.3 or 0.4 each time; 0.8 loses 0.07 on average, and errs by 0.03
    assert fit_weight({weight: values[:1] for weight, values in unlike.items()}) == 1.0
