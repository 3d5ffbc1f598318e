"""The judgements of a run as files from which trec_eval computes the same figures.

trec_eval takes a grade for its gain and orders *all* judged listings ideally; `genrank.experiment.metrics` has the
dataset's gains and the best order of the candidates. So there are two files:

- ``qrels/gains.trec`` holds every candidate with its gain as a whole number, 0 for one without a judgement. On it,
  ``trec_eval -m ndcg_cut`` gives the nDCG of ``results.json``.
- ``qrels/grades.trec`` holds all judgements of the queries with their grades: nDCG as papers report it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from genrank.data.dataset import Grade
from genrank.data.trec import Qrels, write_qrels

MAX_GAIN = 100_000
"""The highest whole gain; trec_eval needs memory for each number up to it."""


def whole_gains(grades: Mapping[int, Grade]) -> dict[int, int]:
    """The gain of each grade as a whole number, all by the same factor, which nDCG does not see.

    The factor is the least of 1, 10, 100, .. that makes all of them whole. Where there is none, the highest becomes
    `MAX_GAIN` and the others are rounded, so that nDCG differs by about 0.00001; no gain is rounded to 0.

    Args:
        grades: Gains of 0 and more.
    """
    gains = {grade: meaning.gain for grade, meaning in grades.items()}
    most = max(gains.values(), default=0.0)
    factor = 1.0
    while factor * most <= MAX_GAIN:
        whole = {grade: round(gain * factor) for grade, gain in gains.items()}
        if all(abs(whole[grade] - gain * factor) <= 1e-9 * gain * factor for grade, gain in gains.items()):
            return whole
        factor *= 10
    return {grade: max(round(gain * MAX_GAIN / most), 1) if gain else 0 for grade, gain in gains.items()}


def write_trec_qrels(
    out: Path, candidates: Mapping[str, Collection[str]], qrels: Qrels, grades: Mapping[int, Grade]
) -> None:
    """Write ``qrels/gains.trec`` and ``qrels/grades.trec``, see the top of this module.

    Args:
        out: The results folder.
        candidates: Listing ids by query.
        qrels: Judgements.
        grades: The gain of each grade.
    """
    gains = whole_gains(grades)
    folder = out / "qrels"
    folder.mkdir(parents=True, exist_ok=True)
    judged = {query: qrels.get(query, {}) for query in candidates}
    worth = {
        query: {key: gains[judged[query][key]] if key in judged[query] else 0 for key in ids}
        for query, ids in candidates.items()
    }
    write_qrels(folder / "gains.trec", worth)
    write_qrels(folder / "grades.trec", judged)
