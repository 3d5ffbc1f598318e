"""How likely shoppers are to click or buy a listing, as a second score beside the model's.

For a query and a listing that was shown for it, the estimate is what a look at it is worth: clicks (or carts, or
purchases) for each expected look, by the position-based click model of `genrank.search.feedback.bias`. It is drawn
towards the listing's own mean over all queries, which is drawn towards the mean of all listings, each as if `prior`
more looks had found it. So an estimate on little data says little.

`ClickEstimates.standard_scores` puts the estimates of one query on the scale of `genrank.blending`, with what was never
looked at for that query at 0: such listings keep the model's order among themselves, and a query that nobody asked
before keeps it as it is.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from genrank.blending import standardised
from genrank.errors import DataFormatError, InputError
from genrank.files import read_text, write_atomically
from genrank.text.clean import clean

if TYPE_CHECKING:  # serving reads a file; only `ClickEstimates.of` needs pyarrow and DuckDB
    from genrank.search.feedback.log import FeedbackLog, Kind

PRIOR = 20.0
"""The default strength of the means, in looks."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Looks:
    """What the log says of a listing for a query.

    Attributes:
        examined: Expected number of looks: the sum of the propensities of the ranks at which it was shown.
        worth: What they brought: the number of lists in which it was clicked, times what a click is worth, and so on.
    """

    examined: float
    worth: float


class ClickEstimates:
    """What a look at a listing is worth, by query.

    Args:
        looks: By query and listing id. Queries that differ only in letter case and white space are one.
        prior: How strong the means are, in looks; over 0.

    Raises:
        InputError: When `prior` is not over 0, or a number is negative or not finite.
    """

    def __init__(self, looks: Mapping[str, Mapping[str, Looks]], *, prior: float = PRIOR) -> None:
        if not (math.isfinite(prior) and prior > 0):
            raise InputError(f"must be a number over 0, got {prior}", field="prior")
        self.prior = prior
        self._pairs: dict[str, dict[str, Looks]] = {}
        self._listings: dict[str, Looks] = {}
        examined = worth = 0.0
        for query, some in looks.items():
            pairs = self._pairs.setdefault(_key(query), {})
            for listing_id, one in some.items():
                if not all(math.isfinite(number) and number >= 0 for number in (one.examined, one.worth)):
                    raise InputError(
                        f"must be numbers from 0 on, got {one} for {listing_id}", field=f"looks[{query!r}]"
                    )
                for table in (pairs, self._listings):
                    known = table.get(listing_id, Looks(0.0, 0.0))
                    table[listing_id] = Looks(known.examined + one.examined, known.worth + one.worth)
                examined, worth = examined + one.examined, worth + one.worth
        self.mean: float = worth / examined if examined else 0.0
        """What a look is worth, over all listings."""

    @classmethod
    def of(
        cls,
        log: FeedbackLog,
        propensities: Sequence[float] | None = None,
        *,
        worth: Mapping[Kind, float] | None = None,
        prior: float = PRIOR,
        most_lists: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Self:
        """Estimate from a log.

        Args:
            log: The log.
            propensities: Chance of a look by rank, from rank 1 on, such as those of
                `genrank.search.feedback.bias.estimate`; None takes those in the log.
            worth: What each kind of event is worth, 0 or more: ``{"click": 1}``, the default, estimates clicks,
                ``{"purchase": 1}`` conversions, ``{"click": 1, "purchase": 20}`` both together.
            prior: See `ClickEstimates`.
            most_lists: See `genrank.search.feedback.bias.attractions`.
            since: Lists shown from then on, UTC.
            until: Lists shown before then, UTC.

        Raises:
            InputError: When an argument is wrong, or `propensities` is None and a list was logged without them.
            EngineError: As in `FeedbackLog.query`.
            MissingExtraError: When pyarrow or DuckDB is not installed.
        """
        from genrank.search.feedback.bias import FAR_AHEAD, LONG_AGO, attractions

        worth = {"click": 1.0} if worth is None else worth
        if not worth:
            raise InputError('must hold at least one kind of event, such as {"click": 1}', field="worth")
        looks: dict[str, dict[str, Looks]] = defaultdict(dict)
        for kind, value in worth.items():
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"must be a number from 0 on, got {value}", field=f"worth[{kind!r}]")
            found = attractions(
                log,
                propensities,
                kind=kind,
                most_lists=most_lists,
                since=since or LONG_AGO,
                until=until or FAR_AHEAD,
            )
            for one in found:
                before = looks[one.query].get(one.listing_id)
                gained = value * one.clicked + (before.worth if before else 0.0)
                looks[one.query][one.listing_id] = Looks(one.examined, gained)
        return cls(looks, prior=prior)

    def estimate(self, query: str, listing_id: str) -> float:
        """What a look at a listing is worth for a query; with one kind of event of worth 1, its chance.

        Without data it is the listing's mean, and without data on the listing the mean of all.
        """
        listing = self._drawn(self._listings.get(listing_id), self.mean)
        return self._drawn(self._pairs.get(_key(query), {}).get(listing_id), listing)

    def standard_scores(self, query: str, listing_ids: Sequence[str]) -> list[float]:
        """Scores for `genrank.blending.weighted`.

        The logarithms of the estimates have mean 0 and standard deviation 1 among the listings that were looked at for
        this query, and each is then multiplied by ``looks / (looks + prior)``.

        Args:
            query: What the shopper typed.
            listing_ids: ``[n]`` the candidates.

        Returns:
            ``[n]``, higher is better; 0 for a listing that was never looked at for this query.
        """
        pairs = self._pairs.get(_key(query), {})
        seen = [one for one in listing_ids if one in pairs and pairs[one].examined > 0] if self.mean else []
        logs = standardised([math.log(self.estimate(query, one)) for one in seen])
        scores = {
            one: value * pairs[one].examined / (pairs[one].examined + self.prior)
            for one, value in zip(seen, logs, strict=True)
        }
        return [scores.get(one, 0.0) for one in listing_ids]

    def save(self, path: str | Path) -> None:
        """Write the estimates as a JSON file.

        Raises:
            OSError: When it cannot be written.
        """
        pairs = {
            query: {key: [one.examined, one.worth] for key, one in some.items()} for query, some in self._pairs.items()
        }
        fields = {"format": _FORMAT, "prior": self.prior, "looks": pairs}
        with write_atomically(Path(path)) as part:
            part.write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataFormatError: When it is not such a file.
            OSError: When it cannot be read.
        """
        expected = f"click estimates of format {_FORMAT}, as ClickEstimates.save writes them"
        try:
            fields: Any = json.loads(read_text(Path(path)))
            if fields["format"] != _FORMAT:
                raise DataFormatError(str(path), 0, expected, f"format {fields['format']!r}")
            looks = {
                query: {key: Looks(float(examined), float(worth)) for key, (examined, worth) in some.items()}
                for query, some in fields["looks"].items()
            }
            return cls(looks, prior=float(fields["prior"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, DataFormatError):
                raise
            raise DataFormatError(str(path), 0, expected, f"{type(error).__name__}: {error}") from None

    def _drawn(self, looks: Looks | None, mean: float) -> float:
        """The mean of some looks, drawn towards another mean."""
        return mean if looks is None else (looks.worth + self.prior * mean) / (looks.examined + self.prior)


def _key(query: str) -> str:
    return clean(query).lower()
