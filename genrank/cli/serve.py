"""``genrank serve``: the HTTP gateway."""

from __future__ import annotations

import argparse

from genrank.cli.console import quiet_libraries, say

_FLAGS = {
    "host": "server.host",
    "port": "server.port",
    "deadline": "server.deadline",
    "playground": "server.playground",
    "model": "model.model",
    "adapter": "model.adapter",
    "name": "model.name",
    "engine": "model.engine",
    "dtype": "model.dtype",
    "prompt": "model.prompt",
    "decoding": "model.decoding",
    "snapshot": "model.snapshot",
    "fallback": "model.fallback",
    "index": "search.index",
    "shoppers": "search.shoppers",
    "understand": "search.understand",
    "log": "search.log",
    "keys_file": "auth.keys_file",
    "rate_limit": "auth.rate_limit",
    "open": "auth.open",
    "redis": "cache.redis",
    "otlp": "telemetry.otlp",
    "log_level": "telemetry.log_level",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank serve`` to the command line."""
    serve = commands.add_parser(
        "serve",
        help="serve rankings over HTTP",
        description="Serve a model over the rerank APIs of Cohere, Jina, Voyage, vLLM and TEI. Every setting can stand "
        "in a TOML file; a flag counts before the environment, and that before the file. Keys come from "
        "GENRANK_API_KEYS, separated by commas, or a file. All that is wrong is reported at once.",
    )
    serve.add_argument("--config", metavar="FILE", help="TOML file of all settings")
    serve.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=int, metavar="N", help="port; 0 takes a free one (8080)")
    serve.add_argument("--deadline", type=float, metavar="SECONDS", help="for each request (30)")
    serve.add_argument(
        "--playground",
        action=argparse.BooleanOptionalAction,
        help="a page at / to try rankings with (only where no other machine can reach it)",
    )
    serve.add_argument("--model", help="known name, local folder or hub name")
    serve.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    serve.add_argument("--name", help="what clients call the model (the last part of its or the adapter's name)")
    serve.add_argument(
        "--engine",
        metavar="E",
        help="transformers, vllm, or a server's address, whose key is in GENRANK_API_KEY (transformers)",
    )
    serve.add_argument("--dtype", help="number format of the weights, such as int8 on a CPU (auto)")
    serve.add_argument("--prompt", metavar="P", help="name of a prompt template, or a .toml file")
    serve.add_argument("--decoding", help="how it ranks (what suits the adapter and the prompt)")
    serve.add_argument("--snapshot", metavar="FILE", help="listings that genrank warm read beforehand (none)")
    serve.add_argument(
        "--fallback", metavar="FOLDER", help="trained BERT + GBDT that orders what the model does not (none)"
    )
    serve.add_argument("--index", metavar="FOLDER", help="search what genrank index wrote, at /v1/search (none)")
    serve.add_argument("--understand", action="store_true", default=None, help="read what each search means")
    serve.add_argument("--shoppers", metavar="FILE", help="what shoppers did, for their searches (none)")
    serve.add_argument("--log", metavar="FOLDER", help="log what searches showed, and take /v1/events (none)")
    serve.add_argument("--keys-file", metavar="FILE", help="one key a line")
    serve.add_argument(
        "--rate-limit", metavar="RATE", help="rankings and searches for each key, such as 600/minute (none)"
    )
    serve.add_argument("--open", action="store_true", default=None, help="serve others without keys")
    serve.add_argument("--redis", metavar="URL", help="keep answers in Redis (in memory)")
    serve.add_argument("--otlp", metavar="URL", help="OpenTelemetry collector for traces (none)")
    serve.add_argument("--log-level", help="debug, info, warning or error (info)")
    serve.add_argument("--check", action="store_true", help="check the settings, and load nothing")
    serve.set_defaults(command=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    from genrank.server.config import load_config
    from genrank.server.run import load_ranker, serve

    flags = {place: getattr(arguments, flag) for flag, place in _FLAGS.items()}
    config, keys = load_config(arguments.config, flags)
    if arguments.check:
        say(f"the settings are right; keys: {len(keys)}")
        return 0
    quiet_libraries()
    serve(load_ranker(config.model, config.pictures.settings()), config, keys)
    return 0
