"""A model that genrank runs as a teacher, on the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")

from finetune.teachers import Label, Tally, make_teacher
from genrank.data.dataset import sample_shop
from genrank.experiment.journal import Journal
from genrank.experiment.systems import GenrankSystem
from genrank.reranker import Reranker
from genrank.types import Decoding


@pytest.mark.parametrize("decoding", ["pointwise", "inline", "first-token"])
def test_probabilities_are_labels_and_other_scores_become_ranks(tiny: Path, tmp_path: Path, decoding: Decoding) -> None:
    shop = sample_shop()
    requests = [shop.request(query, 5) for query in shop.split("train")[:2]]
    teacher = make_teacher(GenrankSystem(type="genrank", name="teacher", model=str(tiny), decoding=decoding), 0)
    found = teacher.label(requests, Journal(tmp_path / "answers.jsonl"), Tally())
    for request in requests:
        label = found[request.query.query_id]
        assert isinstance(label, Label)
        items = Reranker(str(tiny), decoding=decoding).rerank(request.query, request.candidates, request.history).items
        scores = {item.listing_id: (6 - item.rank) / 5 if decoding == "first-token" else item.score for item in items}
        assert list(label.scores) == pytest.approx([scores[one.listing.listing_id] for one in request.candidates])
