"""Runs `tests/clients/calls.py` under another interpreter and asks it for calls."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

_CALLS = Path(__file__).with_name("calls.py")
_QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
_SECRET = ("COHERE_", "CO_API_", "JINA", "VOYAGE_", "HUGGINGFACE_", "HF_", "HOSTED_VLLM_", "PYTHONPATH")


class RaisedError(Exception):
    """A client raised; ``CLASS: message``."""


class Worker:
    """A process that holds clients, so that each is imported once.

    Args:
        python: The interpreter.
        log: Where its stderr goes.
    """

    def __init__(self, python: Path, log: Path) -> None:
        settings = {key: value for key, value in os.environ.items() if not key.startswith(_SECRET)} | _QUIET
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [python, "-P", str(_CALLS)],  # -P: the scripts beside it are no modules
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=settings,
            )

    def __call__(self, name: str, **arguments: Any) -> Any:
        """What a function of `tests/clients/calls.py` returns.

        Raises:
            RaisedError: When the client raised.
        """
        streams = self._process.stdin, self._process.stdout
        assert streams[0] is not None
        assert streams[1] is not None
        streams[0].write(json.dumps([name, arguments]) + "\n")
        streams[0].flush()
        line = streams[1].readline()
        assert line, self._log.read_text(encoding="utf-8", errors="replace")[-4000:]
        answer = json.loads(line)
        if "raised" in answer:
            raise RaisedError(f"{answer['raised']}: {answer['message']}")
        return answer["returned"]

    def close(self) -> None:
        """End the process; it has nothing to save."""
        self._process.kill()
        self._process.communicate()
