"""A server that is to run the model: whether it answers, and how genrank reads it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from genrank.doctor.check import Check
from genrank.errors import ConfigError, EngineError, GenrankError, MissingExtraError
from genrank.remote.completions import UnservedError
from genrank.remote.connect import connect
from genrank.remote.http import API_KEY, Connection, FailedError, RefusedError
from genrank.remote.models import ServedModel, served_models

if TYPE_CHECKING:
    import httpx

_TIMEOUT = 5.0  # seconds
_SHOWN = 5
_SET_KEY = f"export {API_KEY}=..."


def check_server(
    url: str, *, deep: bool = False, transformers: bool = True, transport: httpx.AsyncBaseTransport | None = None
) -> Check:
    """Ask a server which models it has and, when looking deep, connect to the first as a reranker would.

    Args:
        url: Such as ``http://127.0.0.1:8000/v1``.
        deep: Whether to connect. With vLLM, this loads the model's tokenizer.
        transformers: Whether transformers is installed, which reads the tokenizers of vLLM's models.
        transport: Makes the requests in place of the network, for tests.

    Raises:
        InputError: When the address is not one.
    """
    try:
        with closing(Connection(url, attempts=1, timeout=_TIMEOUT, transport=transport)) as connection:
            models = served_models(connection.wait(connection.get("/models")), connection.url)
    except MissingExtraError as error:
        return _failed(str(error).partition(";")[0], f"pip install 'genrank[{error.extra}]'")
    except ConfigError as error:
        return _failed(str(error), _SET_KEY)
    except RefusedError as error:
        hint = "; the address of a server that speaks OpenAI's API mostly ends in /v1" if error.status == 404 else ""
        return _failed(f"{error}{hint}", _SET_KEY if error.status in (401, 403) else f"curl {url.rstrip('/')}/models")
    except (FailedError, UnservedError) as error:
        return _failed(str(error), f"curl {url.rstrip('/')}/models")
    except EngineError as error:
        return _failed(str(error), "genrank vllm")
    by_vllm = any(one.by_vllm for one in models)
    if by_vllm and not transformers:
        words = "it is vLLM's, and the tokenizers of its models need transformers"
        return _failed(words, "pip install 'genrank[gateway]'")
    names = _names(models)
    if not deep:
        way = "by token ids, every decoding" if by_vllm else "by chat messages"
        return Check("server", "ok", f"serves {names}; read {way}; --deep tries it")
    try:
        with closing(connect(url, models[0].name, transport=transport)) as engine:
            return Check("server", "ok", f"serves {names}; read as {engine.name}")
    except GenrankError as error:
        return _failed(str(error), f"genrank vllm --model {models[0].name}")


def _failed(words: str, fix: str) -> Check:
    return Check("server", "failed", words, fix)


def _names(models: list[ServedModel]) -> str:
    names = [one.name for one in models]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
