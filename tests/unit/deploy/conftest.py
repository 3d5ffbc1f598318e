"""The files of ``deploy/``, held to the gateway that they run: without it there is nothing to compare."""

from __future__ import annotations

from importlib.util import find_spec

_NEEDED = ("fastapi", "limits", "prometheus_client", "yaml")

collect_ignore_glob = [] if all(map(find_spec, _NEEDED)) else ["test_*.py"]
