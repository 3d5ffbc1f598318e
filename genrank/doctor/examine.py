"""All checks, in the order in which they are shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError

from genrank.doctor.check import Check
from genrank.doctor.deep import check_torch, check_vllm
from genrank.doctor.extras import check_python, installed_version, read_extras
from genrank.doctor.machine import check_cpu, check_environment, check_gpu, gpus
from genrank.doctor.server import check_server
from genrank.doctor.storage import check_storage


def examine(
    *, server: str | None = None, deep: bool = False, environment: Mapping[str, str] = os.environ
) -> list[Check]:
    """Look at everything that genrank needs.

    Args:
        server: Address of a server that is to run the model; None asks none.
        deep: Whether to import torch and vLLM, read models' files whole, and connect to the server. Without it, the
            checks take less than a second, and the server at most five.
        environment: The environment variables, of which the names are shown.

    Raises:
        InputError: When the server's address is not one.
    """
    devices = gpus()
    checks = []
    try:
        extras = read_extras()
    except PackageNotFoundError:
        checks.append(Check("genrank", "failed", "it is not installed as a package", "pip install -e . (in a clone)"))
    else:
        checks += [check_python(), extras.check_core(), extras.check_engine()]
        checks += [extras.check(name, gpu=bool(devices)) for name in extras.names]
    checks += [check_cpu(), check_gpu(devices, installed_version("torch"))]
    if deep:
        checks += [*check_torch(), *check_vllm()]
    checks += check_storage(deep=deep)
    if server is not None:
        has_transformers = installed_version("transformers") is not None
        checks.append(check_server(server, deep=deep, transformers=has_transformers))
    return [*checks, check_environment(environment)]
