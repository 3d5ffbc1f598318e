"""What the commands share: where words go, and whose bars are kept off the terminal."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Keep the libraries' own bars and warnings off the terminal; ours tell what happens."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
