"""For the tests of re-tuning: a shop with shoppers, whose ranker learns from what they do."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from eval.feedback import FeedbackConfig, simulate
from eval.retune.config import RetuneConfig
from eval.retune.rounds import retune
from eval.retune.trial import train_here
from genrank.data.dataset import Dataset, DatasetQuery
from genrank.experiment.splits import digest
from genrank.models.versions import AdapterVersions
from genrank.search.feedback.log import FeedbackLog
from genrank.types import Query

DAY = datetime(2026, 1, 1)
RANKER = """\
dataset: data
groups: [lexical, exact]
rounds: 30
leaves: 5
leaf_candidates: 5
"""


@dataclasses.dataclass
class Shop:
    """A shop in a folder, the current one."""

    folder: Path
    dataset: Dataset
    config: RetuneConfig

    @property
    def versions(self) -> AdapterVersions:
        return AdapterVersions(self.config.adapters)

    def served(self) -> int:
        found = self.versions.current()
        assert found is not None
        return found.number

    def shop(self, day: int, *, inverted: bool = False) -> None:
        """Half of the queries are asked 30 times each."""
        asked = [self.dataset.request(query) for query in self.dataset.queries if query.split == "train"]
        behaviour = FeedbackConfig(dataset="data", lists=30, size=15, eta=0.5)
        time = DAY + timedelta(days=day)
        log = FeedbackLog(self.config.feedback.log)
        simulate(log, self.dataset, asked, behaviour, 0, day=f"{day} ", time=time, inverted=inverted)

    def round(
        self, day: int, program: Callable[[Sequence[str], Path, Sequence[int]], int] = train_here
    ) -> tuple[str, dict[str, Any]]:
        return retune(self.config, self.folder / "rounds", now=DAY + timedelta(days=day, hours=5), program=program)


def open_shop(bazaar: Dataset, folder: Path) -> Shop:
    """A shop in a folder, which must be the current one; its first ranker has learned from grades at random."""
    candidates = {key: {one: float(-i) for i, one in enumerate(ids)} for key, ids in bazaar.qrels.items()}
    # as other texts, each query is one of its own
    queries = [
        DatasetQuery(Query(f"{one.query.text} {digest(str(i))[:6]}", one.query.query_id), "test" if i % 2 else "train")
        for i, one in enumerate(bazaar.queries)
    ]
    dataset = dataclasses.replace(bazaar, queries=queries, candidates=candidates, first_stage="made up")
    dataset.save("data")
    draw = random.Random(0)
    qrels = {key: {one: draw.randrange(3) for one in own} for key, own in dataset.qrels.items()}
    dataclasses.replace(dataset, qrels=qrels).save("nonsense")
    Path("ranker.yaml").write_text(RANKER)
    Path("first.yaml").write_text(RANKER.replace("dataset: data", "dataset: nonsense"))
    arguments = ["eval.baseline", "train", "--config", "first.yaml", "--out", "first"]
    assert train_here(arguments, folder / "first.log", ()) == 0
    config = RetuneConfig.model_validate(
        {
            "adapters": "adapters",
            "feedback": {"log": "log", "listings": "data", "least_queries": 10},
            "replay": {"round_share": 0.5, "original_share": 0.0},
            "train": {"type": "baseline", "config": "ranker.yaml"},
            "held_out": {"dataset": "data"},
        }
    )
    versions = AdapterVersions("adapters")
    versions.promote(versions.add("first").name)
    return Shop(folder, dataset, config)
