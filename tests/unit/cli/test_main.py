from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from genrank.cli.main import main


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["rerank"],
        ["rerank", "x.jsonl", "--no-such-option"],
        ["rerank", "x.jsonl", "--decoding", "pairwise"],
        ["rerank", "x.jsonl", "--strategy", "knockout"],
        ["rerank", "x.jsonl", "--window", "many"],
        ["rerank", "x.jsonl", "--format", "xml"],
        ["models"],
        ["models", "fetch"],
        ["models", "fetch", "smollm2-135m", "--source", "floppy"],
        ["prompts"],
        ["prompts", "show"],
        ["prompts", "render"],
        ["prompts", "render", "inline", "--decoding", "pairwise"],
    ],
    ids=" ".join,
)
def test_a_call_that_cannot_be_parsed_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: genrank" in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"genrank {version('genrank')}\n"


def test_the_command_line_starts_without_torch_and_transformers() -> None:
    program = (
        "import sys, genrank.cli.main\n"
        "try: genrank.cli.main.main(['rerank', 'no-such-file'])\n"
        "finally: print(sorted({'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
