"""Whether a difference is more than noise: paired tests and bootstrap intervals over queries.

Everything compares the same queries' values under two systems. A single query says nothing: its interval is the value
itself and its p-values are 1. No result is ever NaN.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from genrank.errors import InputError, MissingExtraError

TIE = 1e-9
"""Differences up to this are ties."""

_BATCH_CELLS = 1_000_000

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system against a reference, query by query.

    Attributes:
        difference: Mean of the system's values minus mean of the reference's.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        p_student: Two-sided p of the paired Student's t-test; `p_randomisation` where the differences do not vary
            from query to query, since Student's t is undefined there.
        p_randomisation: Two-sided p of Fisher's randomisation test; never 0.
        wins: Queries on which the system is better.
        ties: Queries on which the two differ by at most `TIE`.
        losses: Queries on which the reference is better.
    """

    difference: float
    low: float
    high: float
    p_student: float
    p_randomisation: float
    wins: int
    ties: int
    losses: int


def compare(
    values: Sequence[float], reference: Sequence[float], *, seed: int = 0, resamples: int = 10_000
) -> Comparison:
    """Compare two systems on the same queries.

    With ``d_q = value_q - reference_q``: the interval is `interval` of the ``d_q``, Student's t-test asks whether their
    mean is 0, and the randomisation test (Smucker, Allan & Carterette 2007) how often swapping the two systems' values
    query by query, at random, gives a mean at least as far from 0: ``p = (times + 1) / (resamples + 1)``, the observed
    labelling being one of them (Phipson & Smyth 2010, arXiv 1603.05766). Both tests are ranx's.

    Args:
        values: The system's, ``[queries]``.
        reference: The reference's, ``[queries]``, in the same order of queries.
        seed: Seed of the bootstrap and the randomisation.
        resamples: Resamples of each, 1 or more.

    Raises:
        InputError: When there is no value, the two do not have the same length, a value is not a finite number, or
            `resamples` is less than 1.
        MissingExtraError: When ranx or scipy is not installed.
    """
    one, other = _finite(values, "values"), _finite(reference, "reference")
    if len(one) != len(other):
        raise InputError(f"{len(other)} values, but there are {len(one)} of the system", field="reference")
    differences = one - other
    differences[np.abs(differences) <= TIE] = 0.0
    low, high = interval(differences, seed, resamples=resamples)
    p_randomisation = _randomisation(differences, seed, resamples)
    return Comparison(
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_student=p_randomisation if _constant(differences) else _student(differences),
        p_randomisation=p_randomisation,
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
    )


def interval(values: Sequence[float] | _Floats, seed: int = 0, *, resamples: int = 10_000) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean.

    Bias-corrected and accelerated (BCa; Efron 1987) by scipy, or by percentiles where BCa is undefined. Values that do
    not vary, such as a single one, give ``(value, value)``.

    Args:
        values: ``[queries]``.
        seed: Seed of the resampling.
        resamples: Number of resamples, 1 or more.

    Raises:
        InputError: When there is no value, one is not a finite number, or `resamples` is less than 1.
        MissingExtraError: When scipy is not installed.
    """
    found = _finite(values, "values")
    if resamples < 1:
        raise InputError(f"must be 1 or more, got {resamples}", field="resamples")
    if _constant(found):
        return float(found.mean()), float(found.mean())
    for method in ("BCa", "percentile"):
        low, high = _bootstrap(found, seed, resamples, method)
        if np.isfinite(low) and np.isfinite(high):
            break
    return low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down procedure (Holm 1979), in the order given.

    ``p_(i)' = max over j <= i of min(1, (m - j + 1) * p_(j))`` for the ``m`` values in rising order.

    Raises:
        InputError: When a value is not 0 to 1.
        MissingExtraError: When statsmodels is not installed.
    """
    if not p_values:
        return []
    odd = [p for p in p_values if not 0 <= p <= 1]
    if odd:
        raise InputError(f"each must be 0 to 1, got {odd[0]}", field="p_values")
    try:
        from statsmodels.stats.multitest import multipletests
    except ImportError:
        raise MissingExtraError("statsmodels", "eval") from None
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def _finite(values: Sequence[float] | _Floats, field: str) -> _Floats:
    found = np.array(values, dtype=np.float64)
    if not len(found):
        raise InputError("there is no query", field=field)
    if not np.isfinite(found).all():
        place = int(np.flatnonzero(~np.isfinite(found))[0])
        raise InputError(f"must be finite numbers, got {found[place]}", field=f"{field}[{place}]")
    return found


def _constant(values: _Floats) -> bool:
    return bool(np.ptp(values) <= TIE)


def _bootstrap(values: _Floats, seed: int, resamples: int, method: str) -> tuple[float, float]:
    try:
        from scipy.stats import bootstrap
    except ImportError:
        raise MissingExtraError("scipy", "eval") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BCa says so where it is undefined; its NaN is seen by the caller
        found = cast(Any, bootstrap)(
            (values,),
            np.mean,
            n_resamples=resamples,
            batch=max(1, _BATCH_CELLS // len(values)),
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return float(found.low), float(found.high)


def _student(differences: _Floats) -> float:
    try:
        from ranx.statistical_tests import paired_student_t_test
    except ImportError:
        raise MissingExtraError("ranx", "eval") from None
    return float(paired_student_t_test(differences, np.zeros_like(differences))[0])


def _randomisation(differences: _Floats, seed: int, resamples: int) -> float:
    # Swapping (value, reference) is swapping (d, 0); queries without a difference change nothing. In whole numbers of
    # ties' width, equal sums are equal bit by bit, and none is missed by rounding.
    moved = np.round(differences[differences != 0] / TIE)
    if len(moved) <= 1:
        return 1.0
    p, _ = _fisher()(moved, np.zeros_like(moved), resamples, 0.05, seed)
    return float((round(p * resamples) + 1) / (resamples + 1))


@functools.cache
def _fisher() -> Callable[..., Any]:
    """Compile ranx's test for one thread: its seed reaches none of the threads that it would start."""
    try:
        import numba
        from ranx.statistical_tests import fisher_randomization_test
    except ImportError:
        raise MissingExtraError("ranx", "eval") from None
    compiled: Callable[..., Any] = numba.njit(fisher_randomization_test.py_func)
    return compiled
