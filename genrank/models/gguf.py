"""Converts a GGUF file into a bfloat16 checkpoint: ``python -m genrank.models.gguf FILE FOLDER``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from genrank.errors import (
    DownloadError,
)
from genrank.files import raise_if_full


def convert_in_child(gguf: Path, staging: Path) -> None:
    """Run `_convert` in a separate process.

    It takes gigabytes of memory, draws progress bars and changes settings of transformers. None of that should affect
    the caller's process.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    environment.pop("PYTHONWARNINGS", None)
    # when the parent dies, for whatever reason, this pipe closes and the child ends too
    theirs, ours = os.pipe()
    try:
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "genrank.models.gguf", str(gguf), str(staging)],
            env=environment,
            stdin=theirs,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    finally:
        os.close(theirs)
        os.close(ours)
    if ran.returncode < 0:
        raise DownloadError(f"the conversion was killed by signal {-ran.returncode}; it needs up to 5 GB of memory")
    if ran.returncode:
        raise_if_full(ran.stderr, staging)
        why = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DownloadError(f"the GGUF file could not be converted: {why}")


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(1)


def _convert(gguf: str, out: str, *, watch: bool = False) -> None:
    """Write a GGUF file as a bfloat16 checkpoint with its tokenizer; with `watch`, stop when stdin closes.

    Raises:
        RuntimeError: When the saved tokenizer does not match the GGUF file.
    """
    if watch:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    import torch
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers import __version__ as version
    from transformers.utils import quantization_config as quantisation

    reader = GGUFReader(gguf)

    def said(key: str) -> Any:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    origin: dict[str, Any] = {
        "pretrained_model_name_or_path": str(Path(gguf).parent),
        "gguf_file": Path(gguf).name,
        "trust_remote_code": False,
    }
    # transformers ignores the file's request for a BOS token, and Gemma is useless without one
    wants_bos = bool(said("tokenizer.ggml.add_bos_token"))
    tokenizer = AutoTokenizer.from_pretrained(**origin, **({"add_bos_token": True} if wants_bos else {}))
    if said("tokenizer.ggml.pre") == "smollm":
        # transformers does not know that SmolLM splits digits first, so "\n\n1" would not be tokenised as in training
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    # transformers 5.16 mixes some of these up, such as SmolLM's <|im_start|> and its EOS
    special = {
        kind: tokenizer.convert_ids_to_tokens(int(said(f"tokenizer.ggml.{key}_token_id")))
        for kind, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if said(f"tokenizer.ggml.{key}_token_id") is not None
    }
    for kind, token in special.items():
        setattr(tokenizer, f"{kind}_token", token)
    if getattr(tokenizer, "clean_up_tokenization_spaces", False):
        tokenizer.clean_up_tokenization_spaces = False  # set by 5.16; it would eat spaces before punctuation
    tokenizer.save_pretrained(out)

    # transformers 5.19 keeps the weights quantised by default; 5.16 always unpacks them, and has no GgufConfig
    config = getattr(quantisation, "GgufConfig", None)
    dense = {"quantization_config": config(dequantize=True)} if config else {}
    model = AutoModelForCausalLM.from_pretrained(**origin, **dense, dtype=torch.bfloat16)
    model.save_pretrained(out)
    saved = json.loads((Path(out) / "config.json").read_text(encoding="utf-8"))
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        saved.pop(key, None)
    (Path(out) / "config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    again = AutoTokenizer.from_pretrained(out, trust_remote_code=False)
    if (again("hi").input_ids[0] == again.bos_token_id) != wants_bos:
        raise RuntimeError(
            f"the tokenizer should {'' if wants_bos else 'not '}begin a text with BOS, but does the opposite"
        )
    if len(again("The capital of Germany is").input_ids) > 10:  # 5.16 loses Gemma's merges
        raise RuntimeError(f"transformers {version} reads this tokenizer wrongly; get transformers 5.19 or newer")
    if wrong := [kind for kind, token in special.items() if getattr(again, f"{kind}_token") != token]:
        raise RuntimeError(f"the tokenizer's special tokens are not the GGUF file's: {', '.join(wrong)}")
    if again.chat_template != said("tokenizer.chat_template"):
        raise RuntimeError("the tokenizer's chat template is not the GGUF file's")


if __name__ == "__main__":
    _convert(sys.argv[1], sys.argv[2], watch=True)
