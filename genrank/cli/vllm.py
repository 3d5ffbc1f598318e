"""``genrank vllm``: starts vLLM's own server, with the adapter and genrank's plug-in."""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from genrank.cli.console import quiet_libraries, say
from genrank.models.registry import DEFAULT_MODEL


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank vllm`` to the command line."""
    vllm = commands.add_parser(
        "vllm",
        help="start vLLM's server with a model and an adapter",
        usage="genrank vllm [--model M] [--adapter A] [--trust-remote-code] [--print] [any flag of vllm serve ...]",
        description="Start vLLM's OpenAI-compatible server: the model and the adapter under their names, prefix "
        "caching, genrank's permutation plug-in, and the model's own chat template. The command goes to stderr, then "
        "it takes the place of this process. All other flags are passed on, and take precedence: --port, --host, "
        "--tensor-parallel-size, --data-parallel-size, --quantization ... Use the server with: genrank rerank "
        "--engine http://127.0.0.1:8000/v1, or any OpenAI client.",
        allow_abbrev=False,
    )
    vllm.add_argument("--model", default=DEFAULT_MODEL, help="known name, local folder or hub name (%(default)s)")
    vllm.add_argument("--adapter", help="folder of a LoRA adapter, served under the folder's name")
    vllm.add_argument(
        "--trust-remote-code", action="store_true", help="run code that lies in the model's folder; read it first"
    )
    vllm.add_argument("--print", action="store_true", help="only print the command, to stdout")
    vllm.set_defaults(command=_vllm, passes_on=True)


def _vllm(arguments: argparse.Namespace) -> int:
    from genrank.remote.launch import server_command

    quiet_libraries()
    command = server_command(
        arguments.model,
        adapter=arguments.adapter,
        trust_remote_code=arguments.trust_remote_code,
        flags=arguments.unknown,
    )
    if arguments.print:
        print(shlex.join(command))
        return 0
    say(shlex.join(command))
    sys.stdout.flush()
    return os.execv(command[0], command)  # it never returns
