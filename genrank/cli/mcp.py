"""``genrank mcp``: the tool ``rerank`` for agents."""

from __future__ import annotations

import argparse
import contextlib
import signal
from typing import get_args

from genrank.cli.console import quiet_libraries, say
from genrank.errors import InputError
from genrank.models.registry import DEFAULT_MODEL
from genrank.types import Decoding, Dtype


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank mcp`` to the command line."""
    mcp = commands.add_parser(
        "mcp",
        help="serve rankings to agents over MCP",
        description="Serve one tool, rerank, over the Model Context Protocol: on standard input and output, as agents "
        "start it, or over HTTP on this machine. The model is loaded before the first message is answered; fetch it "
        "beforehand with: genrank models fetch NAME.",
    )
    mcp.add_argument("--http", type=int, metavar="PORT", help="serve at http://127.0.0.1:PORT/mcp (stdin and stdout)")
    mcp.add_argument("--model", help=f"known name, local folder or hub name ({DEFAULT_MODEL}); a server's only model")
    mcp.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    mcp.add_argument("--engine", default="transformers", metavar="E", help="as for genrank rerank (%(default)s)")
    mcp.add_argument(
        "--dtype", choices=get_args(Dtype), default="auto", help="number format of the weights (%(default)s)"
    )
    mcp.add_argument("--prompt", metavar="P", help="name of a prompt template, or a .toml file")
    mcp.add_argument("--decoding", choices=get_args(Decoding), help="as for genrank rerank")
    mcp.add_argument("--snapshot", metavar="FILE", help="listings that genrank warm read beforehand (none)")
    mcp.add_argument("--deadline", type=float, default=30.0, metavar="SECONDS", help="for each call (%(default)g)")
    mcp.set_defaults(command=_mcp)


def _mcp(arguments: argparse.Namespace) -> int:
    from genrank.integrations.mcp import create_server, protocol_stream, serve_http, serve_stdio
    from genrank.reranker import Reranker

    if arguments.http is not None and not 1 <= arguments.http <= 65535:
        raise InputError(f"must be a port within 1..65535, got {arguments.http}", field="--http")
    quiet_libraries()
    with contextlib.ExitStack() as stack:
        stdout = stack.enter_context(protocol_stream()) if arguments.http is None else None
        reranker = stack.enter_context(
            Reranker(
                arguments.model,
                adapter=arguments.adapter,
                engine=arguments.engine,
                dtype=arguments.dtype,
                prompt=arguments.prompt,
                decoding=arguments.decoding,
            )
        )
        if arguments.snapshot:
            say(f"{reranker.open_snapshot(arguments.snapshot):,} listings in {arguments.snapshot}")
        server = create_server(reranker, deadline=arguments.deadline)
        if stdout is None:
            serve_http(server, arguments.http)
        else:
            say("genrank mcp: ready on standard input and output")
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a read of standard input cannot be interrupted otherwise
            serve_stdio(server, stdout)
    return 0
