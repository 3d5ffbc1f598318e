"""``genrank prompts``: list, show and render prompt templates."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, get_args

from genrank.cli.console import Cell, Table, print_table, quiet_libraries, say
from genrank.data.dataset import sample_shop
from genrank.data.jsonl import read_requests
from genrank.errors import DataFormatError, InputError
from genrank.models.registry import DEFAULT_MODEL
from genrank.types import Decoding, Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from genrank.prompting.template import Template


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank prompts`` to the command line."""
    prompts = commands.add_parser("prompts", help="list, show and try prompt templates").add_subparsers(
        required=True, metavar="ACTION"
    )
    listed = prompts.add_parser("list", help="the templates that ship with genrank")
    listed.add_argument("--json", action="store_true", help="a JSON array instead of a table")
    listed.set_defaults(command=_prompts_list)
    show = prompts.add_parser("show", help="a template as a complete TOML file, to start your own from")
    show.add_argument("name", metavar="NAME", help="name of a prompt template, or a .toml file")
    show.set_defaults(command=_prompts_show)
    render = prompts.add_parser(
        "render",
        help="the text that a model would read",
        description="Print the exact text that a model would read, special tokens included, for the first window of "
        "one request. Only the model's tokenizer is loaded. Token counts and cuts go to stderr.",
    )
    render.add_argument("name", metavar="NAME", help="name of a prompt template, or a .toml file")
    render.add_argument("--request", metavar="FILE", help="request lines; - reads standard input (the sample shop)")
    render.add_argument("--query-id", metavar="ID", help="which of the requests (the first)")
    render.add_argument("--model", default=DEFAULT_MODEL, help="known name, local folder or hub name (%(default)s)")
    render.add_argument(
        "--trust-remote-code", action="store_true", help="run code that lies in the model's folder; read it first"
    )
    render.add_argument("--decoding", choices=get_args(Decoding), help="the template's first")
    render.add_argument("--window", type=int, metavar="N", help="candidates in a window; not for pointwise (20)")
    render.add_argument("--max-prompt-tokens", type=int, metavar="N", help="token budget of the prompt")
    render.add_argument(
        "--messages", action="store_true", help="the body of a chat request, as JSON for any OpenAI client"
    )
    render.add_argument(
        "--reasons",
        type=int,
        metavar="K",
        help="with --messages: ask for a JSON object with the ranking and reasons for the first K (0: none)",
    )
    render.set_defaults(command=_prompts_render)


def _prompts_list(arguments: argparse.Namespace) -> int:
    from genrank.prompting.template import load_template, template_names

    templates = [load_template(name) for name in template_names()]
    if arguments.json:
        rows = [
            {
                "name": template.name,
                "version": template.version,
                "hash": template.digest,
                "decodings": list(template.decodings),
                "description": template.description,
                "source": template.source,
            }
            for template in templates
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    lines = []
    for template in templates:
        row = (f"{template.name}@{template.version}", template.digest, "\n".join(template.decodings))
        lines.append([Cell(text) for text in (*row, template.description)])
    whole = ("name", "hash", "decodings")
    print_table(Table((*whole, "description"), lines, whole=frozenset(whole)), sys.stdout)
    return 0


def _prompts_show(arguments: argparse.Namespace) -> int:
    from genrank.prompting.template import load_template

    template = load_template(arguments.name)
    print(f"# hash {template.digest}\n{template.to_toml()}", end="")
    return 0


def _prompts_render(arguments: argparse.Namespace) -> int:
    from genrank.prompting.messages import chat_messages
    from genrank.prompting.renderer import Renderer
    from genrank.prompting.template import load_template

    template = load_template(arguments.name)
    decoding: Any = arguments.decoding or next(iter(template.decodings), "inline")
    if arguments.reasons is not None:
        template, decoding = _json_question(arguments, template), "listwise"
    template.check(decoding)
    request = _one_request(arguments.request, arguments.query_id)
    tokenizer, context = _load_tokenizer(arguments.model, arguments.trust_remote_code)
    from genrank.engines.tokenizer import HubTokenizer
    from genrank.reranker import Reranker
    from genrank.testing import ScriptedEngine

    reads = HubTokenizer(tokenizer)
    reranker = Reranker(  # only checks the options and works out the budget
        engine=ScriptedEngine([], context=context, tokenizer=reads),
        prompt=template,
        decoding=decoding,
        window=arguments.window,
        max_prompt_tokens=arguments.max_prompt_tokens,
    )
    candidates = request.candidates[: 1 if reranker.strategy == "each" else reranker.window]
    budget = reranker.max_prompt_tokens
    prompt = Renderer(template, reads).render(
        request.query, candidates, request.history, request.intent, max_tokens=budget, decoding=decoding
    )
    if arguments.messages:
        messages = chat_messages(prompt, template, reads, decoding)
        body = {"model": arguments.model, "messages": messages, "temperature": 0}
        print(json.dumps(body, indent=2, ensure_ascii=False))
    else:
        print(tokenizer.decode(list(prompt.ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    for section, tokens in prompt.tokens.items():
        cut = prompt.cuts.get(section, 0)
        say(f"{section:12}{tokens:6} tokens" + (f", {cut} cut" if cut else ""))
    say(f"{'in all':12}{len(prompt.ids):6} tokens of at most {budget}")
    if reranker.strategy == "each":
        say(f"candidate 1 of {len(request.candidates)}: each has a prompt of its own")
    elif len(candidates) < len(request.candidates):
        say(f"candidates 1 to {len(candidates)} of {len(request.candidates)}: one window")
    return 0


def _json_question(arguments: argparse.Namespace, template: Template) -> Template:
    """The template that asks for a ranking with reasons as JSON."""
    from genrank.prompting.messages import json_question

    if not arguments.messages:
        raise InputError("only with --messages", field="--reasons")
    if arguments.reasons < 0:
        raise InputError(f"must not be negative, got {arguments.reasons}", field="--reasons")
    if arguments.decoding not in (None, "listwise"):
        raise InputError(f"a ranking as JSON is listwise, got {arguments.decoding}; leave it out", field="--decoding")
    return json_question(template, arguments.reasons)


def _one_request(path: str | None, query_id: str | None) -> Request:
    """The request with this id, or else the first, of a file or of the sample shop."""
    if path is None:
        shop = sample_shop()
        for query in shop.queries:
            if query_id in (None, query.query.query_id):
                return shop.request(query)
        first, *_, last = sorted(query.query.query_id for query in shop.queries)
        raise InputError(f"the sample shop has no query {query_id!r}; it has {first} to {last}", field="--query-id")
    for _, request in read_requests(path):
        if isinstance(request, DataFormatError):
            raise request
        if query_id in (None, request.query.query_id):
            return request
    raise InputError(f"no request of {path} has the id {query_id!r}", field="--query-id")


def _load_tokenizer(model: str, trust_remote_code: bool) -> tuple[PreTrainedTokenizerBase, int]:
    """A model's tokenizer, and the most tokens that the model takes."""
    from genrank.engines.tokenizer import load_config, load_tokenizer, longest_context
    from genrank.models.store import resolve

    quiet_libraries()
    folder = resolve(model)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    return tokenizer, longest_context(config.get_text_config())
