"""Loads the model and serves it until a signal says stop."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from typing import Any

import uvicorn

from genrank.cascade import Cascade
from genrank.pictures import Pictures
from genrank.reranker import Reranker
from genrank.server import logs
from genrank.server.app import create_app
from genrank.server.config import Config, ModelConfig
from genrank.server.gateway import Gateway, Ranker

_OWN = frozenset({"name", "aliases", "instructions", "snapshot", "then", "then_top", "then_scores"})


def load_ranker(config: ModelConfig, pictures: Pictures | None = None) -> Ranker:
    """The reranker that a configuration describes.

    Args:
        config: All but the pictures.
        pictures: Which pictures the model sees; with a second stage, the first one alone.

    Raises:
        GenrankError: See `genrank.Reranker`.
    """
    options: dict[str, Any] = config.model_dump(exclude=set(_OWN))
    if config.fallback is not None:
        from genrank.rankers.gbdt import load_fallback

        options["fallback"] = load_fallback(config.fallback)
    reranker = Reranker(options.pop("model"), pictures=pictures, **options)
    if config.snapshot:
        reranker.open_snapshot(config.snapshot)
    if config.then is None:
        return reranker
    second = Reranker(engine=reranker.engine, decoding=config.then, seed=config.seed, blend=False)
    return Cascade(reranker, second, top=config.then_top, scores=config.then_scores)


def serve(ranker: Ranker, config: Config, keys: Sequence[str]) -> None:
    """Serve a reranker in this thread until SIGTERM or SIGINT; running requests may finish before it returns."""
    logs.set_up(config.telemetry.log_level)
    server = make_server(ranker, config, keys)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn raises it again when all is shut down
    try:
        server.run()
    finally:
        signal.signal(signal.SIGTERM, before)


def make_server(ranker: Ranker, config: Config, keys: Sequence[str]) -> uvicorn.Server:
    """The server, ready to run."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(Gateway(ranker, config), keys),
            host=config.server.host,
            port=config.server.port,
            log_config=None,
            access_log=False,  # it would log query strings
            server_header=False,
            timeout_graceful_shutdown=math.ceil(config.server.shutdown),
        )
    )
