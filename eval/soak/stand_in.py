"""A server that speaks vLLM's language without a model: ``python -m eval.soak.stand_in FOLDER --port N``.

Its scores are made up, and the same for the same prompt. It starts in a fraction of a second, so that a soak can kill
it often. FOLDER holds the tokenizer that `save_tokenizer` writes.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_CONTEXT = 16384
_WORDS = ("yes", "Yes", "no", "No")
_TEXT = b"It fits."


def save_tokenizer(folder: Path) -> str:
    """Write the tokenizer of a model that reads bytes, but for yes and no; returns the folder as a model's name."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    pieces = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = []
    for word in _WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                pieces.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
        pieces.append(f"\u0120{word}")  # a space, as byte-level tokenizers write it
        merges.append(("\u0120", word))
    made = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    make: Any = PreTrainedTokenizerFast
    make(tokenizer_object=made, eos_token="<end>").save_pretrained(folder)
    config = {"model_type": "llama", "vocab_size": len(pieces), "max_position_embeddings": _CONTEXT}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


class _Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True

    def __init__(self, port: int, model: str, seconds: float) -> None:
        from tokenizers import Tokenizer

        super().__init__(("127.0.0.1", port), _Handler)
        self.model = model
        self.seconds = seconds
        self.tokenizer: Any = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a completion."""
        prompts = body["prompt"]
        if isinstance(prompts, str):
            prompts = [self.tokenizer.encode(prompts, add_special_tokens=False).ids]
        time.sleep(self.seconds * len(prompts))
        wanted = body.get("logprob_token_ids") or ()
        choices = []
        for i, ids in enumerate(prompts):
            seed = zlib.crc32(repr(ids).encode())
            scores = {f"token_id:{token}": -(zlib.crc32(b"%d %d" % (seed, token)) % 10_000) / 500 for token in wanted}
            written = self.tokenizer.encode(_TEXT.decode(), add_special_tokens=False).ids[: body.get("max_tokens", 16)]
            choices.append(
                {
                    "index": i,
                    "text": self.tokenizer.decode(written),
                    "finish_reason": "stop",
                    "logprobs": {"top_logprobs": [scores]} if wanted else None,
                    "token_ids": written if body.get("return_token_ids") else None,
                    "prompt_token_ids": ids if body.get("return_token_ids") else None,
                }
            )
        return {"id": "cmpl-1", "object": "text_completion", "model": self.model, "choices": choices}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        card = {"id": self.server.model, "owned_by": "vllm", "root": self.server.model, "max_model_len": _CONTEXT}
        found = {"/health": {}, "/v1/models": {"object": "list", "data": [card]}}.get(self.path)
        self._answer(404 if found is None else 200, found or {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/completions":
            self._answer(200, self.server.complete(body))
        else:
            self._answer(404, {"error": {"message": f"there is no {self.path}"}})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def main() -> None:
    """Serve until the process is killed."""
    parser = argparse.ArgumentParser("python -m eval.soak.stand_in", description="vLLM's server without a model.")
    parser.add_argument("model", help="folder of a tokenizer")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.001, help="for each prompt (%(default)s)")
    arguments = parser.parse_args()
    _Server(arguments.port, arguments.model, arguments.seconds).serve_forever()


if __name__ == "__main__":
    main()
