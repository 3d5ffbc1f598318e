"""Finds out what kind of server answers at an address, and makes the engine for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genrank.remote.chat_engine import ChatEngine
from genrank.remote.completions import UnservedError
from genrank.remote.http import Connection, RefusedError
from genrank.remote.models import served_models
from genrank.remote.vllm_server import VLLMServer

if TYPE_CHECKING:
    import httpx


def connect(
    url: str,
    model: str | None = None,
    *,
    adapter: str | None = None,
    pictures: bool = False,
    trust_remote_code: bool = False,
    transport: httpx.AsyncBaseTransport | None = None,
) -> VLLMServer | ChatEngine:
    """The engine for the server at an address.

    A server that says it is vLLM, and returns the scores of chosen tokens, is a `VLLMServer`; any other is a
    `ChatEngine`, and so is vLLM where the model is to see pictures, which only chat messages hold. Create one of these
    yourself for its other options, or where the address is that of a proxy.

    Args:
        url: Such as ``http://127.0.0.1:8000/v1``.
        model: The model's name on the server; by default its only model.
        adapter: Folder of a LoRA adapter that the server serves under the folder's name.
        pictures: Whether the model is to see pictures.
        trust_remote_code: Whether to run code in the model's folder to load the tokenizer; read it first.
        transport: Makes the requests in place of the network, for tests.

    Raises:
        InputError: When the address is not one.
        ModelNotFoundError: When the server does not serve the model or the adapter.
        ModelError: When the tokenizer here is not the server's.
        EngineError: When the server does not answer.
        MissingExtraError: When httpx, or for vLLM transformers, is not installed.
    """
    if pictures:
        return ChatEngine(url, model, adapter=adapter, transport=transport)
    connection = Connection(url, transport=transport)
    try:
        models = served_models(connection.wait(connection.get("/models")), connection.url)
    except (RefusedError, UnservedError):
        models = []
    finally:
        connection.close()
    if any(one.by_vllm for one in models):
        try:
            return VLLMServer(url, model, adapter=adapter, trust_remote_code=trust_remote_code, transport=transport)
        except UnservedError:
            pass
    return ChatEngine(url, model, adapter=adapter, transport=transport)
