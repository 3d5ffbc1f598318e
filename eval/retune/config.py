"""The configuration of `eval.retune`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from eval.baseline.config import Count
from eval.crossval import Training
from genrank.experiment.config import Strict
from genrank.search.feedback.log import Kind

Part = Annotated[float, Field(ge=0, lt=1)]


class FeedbackSettings(Strict):
    """What shoppers did, and how it becomes training data.

    Attributes:
        log: Folder of the `genrank.search.feedback.log.FeedbackLog`.
        listings: The catalogue: a JSONL file of listings, or a dataset folder.
        kind: Which events count as a click.
        ranks: Deeper ranks are left out of the estimate of position bias.
        prior: See `genrank.search.feedback.bias.attractions`.
        most_lists: The same; null counts all.
        least_examined: See `genrank.search.feedback.training.training_set`.
        least_queries: With fewer queries to learn from, the round waits for more feedback.
        settle_minutes: Lists shown later than so long ago wait for the next round: their clicks may still come.
    """

    log: str
    listings: str
    kind: Kind = "click"
    ranks: Count = 50
    prior: Annotated[float, Field(ge=0)] = 1.0
    most_lists: Count | None = 10
    least_examined: Annotated[float, Field(ge=0)] = 1.0
    least_queries: Count = 50
    settle_minutes: Annotated[float, Field(ge=0)] = 60.0


class ReplaySettings(Strict):
    """Older data that is learned again, so that it is not forgotten. Shares are of all queries of a round.

    Attributes:
        originals: Dataset folders whose train queries are replayed.
        original_share: Share of queries from these.
        round_share: Share of queries from the feedback of the rounds that led to the version that is served.
    """

    originals: tuple[str, ...] = ()
    original_share: Part = 0.25
    round_share: Part = 0.25

    @model_validator(mode="after")
    def _leaves_room(self) -> ReplaySettings:
        if self.original_share + self.round_share >= 1:
            raise ValueError("original_share and round_share must leave room for new feedback: below 1 together")
        return self


class HeldOutSettings(Strict):
    """The judged queries that decide. They are never learned.

    Attributes:
        dataset: A dataset folder, relative to the current directory (``~`` is the home directory), or ``sample-shop``.
        split: Split whose queries are ranked.
        max_candidates: Candidates of each query, the first stage's best.
        limit: Maximum number of queries; None takes all.
        k: Depth of the nDCG that decides.
    """

    dataset: str
    split: str = "test"
    max_candidates: Count = 20
    limit: Count | None = None
    k: Count = 10


class GateSettings(Strict):
    """When a new version is served.

    Attributes:
        margin: How much worse it may be: the lower end of the 95 % interval of the difference in nDCG must be above
            ``-margin``, against the version that is served and against the first of its line.
        alpha: It must not be significantly worse at this level either (`eval.compare`).
        invalid: By how much the shares of repaired and of fallback rankings may rise.
    """

    margin: Annotated[float, Field(ge=0)] = 0.01
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    invalid: Annotated[float, Field(ge=0, le=1)] = 0.0


class RetuneConfig(Strict):
    """How a shop's ranker is re-tuned.

    Attributes:
        adapters: Folder of the `genrank.models.versions.AdapterVersions`, one of which is served.
        feedback: What is learned.
        replay: What is learned again.
        train: How: a training as in `eval.crossval`. Its datasets are replaced by the round's, and ``sft`` goes on from
            the adapter that is served. Without ``dev``, ``sft`` ranks the dev queries of the held-out dataset.
        held_out: What decides.
        gate: How it decides.
        seed: Seed of the replayed queries.
    """

    adapters: str
    feedback: FeedbackSettings
    replay: ReplaySettings = ReplaySettings()
    train: Annotated[Training, Field(discriminator="type")]
    held_out: HeldOutSettings
    gate: GateSettings = GateSettings()
    seed: int = 0
