"""Which models a server serves, and under which names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrank.errors import ModelNotFoundError
from genrank.remote.completions import UnservedError

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An entry of ``/v1/models``.

    Attributes:
        name: What requests call it.
        root: Where vLLM loaded it from; empty if the server does not say.
        parent: The model that an adapter changes; empty for a model.
        context: The most tokens that it takes; 0 if the server does not say.
        by_vllm: Whether the server says that it is vLLM.
    """

    name: str
    root: str = ""
    parent: str = ""
    context: int = 0
    by_vllm: bool = False


def served_models(answer: Any, url: str) -> list[ServedModel]:
    """Read the answer of ``/v1/models``.

    Raises:
        UnservedError: When it is not a list of models.
    """
    cards = answer.get("data") if isinstance(answer, dict) else None
    found = [
        ServedModel(
            card["id"],
            root=_text(card.get("root")),
            parent=_text(card.get("parent")),
            context=_context(card),
            by_vllm=card.get("owned_by") == "vllm",
        )
        for card in (cards if isinstance(cards, list) else ())
        if isinstance(card, dict) and isinstance(card.get("id"), str)
    ]
    if not found:
        raise UnservedError(f"{url}/models lists no models; check that the address is that of an OpenAI-compatible API")
    return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _context(card: dict[str, Any]) -> int:
    """The context's length, where vLLM or llama.cpp gives it."""
    meta = card.get("meta")
    given = (card.get("max_model_len"), meta.get("n_ctx") if isinstance(meta, dict) else None)
    return next((value for value in given if type(value) is int and value > 0), 0)


def find_model(models: list[ServedModel], name: str | None, url: str) -> ServedModel:
    """The model of this name, or the server's only one.

    Raises:
        ModelNotFoundError: When the server has no such model, or several and none is named.
    """
    bases = [model for model in models if not model.parent]
    if name is None:
        if len({model.root or model.name for model in bases}) == 1:
            return bases[0]
        raise ModelNotFoundError(f"the server at {url} serves {_names(bases)}; say which one with model=")
    for model in bases:
        if name in (model.name, model.root):
            return model
    raise ModelNotFoundError(
        f"the server at {url} does not serve {name}, but {_names(bases)}; pass one of these as model=, or start the "
        f"server with: genrank vllm --model {name}"
    )


def find_adapter(models: list[ServedModel], adapter: str, url: str) -> ServedModel:
    """The adapter that is served under the name of this folder.

    Raises:
        ModelNotFoundError: When the server has no such adapter.
    """
    name = adapter_name(adapter)
    adapters = [model for model in models if model.parent]
    for model in adapters:
        if model.name == name:
            return model
    others = f"only {_names(adapters)}" if adapters else "no adapter"
    raise ModelNotFoundError(
        f"the server at {url} does not serve an adapter named {name}, {others}; start the server with: "
        f"genrank vllm --adapter {adapter}"
    )


def adapter_name(adapter: str) -> str:
    """The name under which an adapter is served: that of its folder."""
    return Path(adapter).expanduser().resolve().name


def _names(models: list[ServedModel]) -> str:
    shown = [model.name for model in models[:_SHOWN]] + ["..."] * (len(models) > _SHOWN)
    return ", ".join(shown) or "none"
