from __future__ import annotations

import pytest

from genrank.cli.main import main
from genrank.models.registry import KNOWN_MODELS


def test_models_list_names_every_known_model_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    for name in KNOWN_MODELS:
        assert name in out


def test_models_fetch_of_an_unknown_name_ends_with_1_and_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "fetch", "smollm2-135n"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "'smollm2-135n' is not a known model; did you mean 'smollm2-135m'?" in err
