from pathlib import Path

from genrank.data.dataset import Dataset
from genrank.experiment.fingerprints import code_fingerprint, requests_fingerprint
from genrank.types import Candidate, Request


def test_requests_differ_in_order_and_content(shop: Dataset) -> None:
    requests = [shop.request(query) for query in shop.queries]
    first = requests_fingerprint(requests)
    assert first == requests_fingerprint(requests)
    turned = [Request(requests[0].query, requests[0].candidates[::-1]), *requests[1:]]
    scored = [Request(requests[0].query, (Candidate(requests[0].candidates[0].listing, 1.0),)), *requests[1:]]
    assert len({first, *(requests_fingerprint(one) for one in (turned, scored, requests[1:], requests[::-1]))}) == 5


def test_code_differs_by_the_programs_that_rank_with_the_library(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("x = 1\n")
    assert code_fingerprint() == code_fingerprint()
    assert code_fingerprint() != code_fingerprint(program)
