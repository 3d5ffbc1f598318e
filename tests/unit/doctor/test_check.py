from __future__ import annotations

import pytest

from genrank.doctor.check import Check, State


@pytest.mark.parametrize(("state", "fix"), [("ok", "run me"), ("missing", ""), ("failed", "")])
def test_what_is_not_ok_comes_with_a_command_and_only_that(state: State, fix: str) -> None:
    with pytest.raises(ValueError, match=f"cpu is {state}"):
        Check("cpu", state, "words", fix)
