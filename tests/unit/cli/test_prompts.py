from __future__ import annotations

import json
from pathlib import Path

import pytest

from genrank.cli.main import main
from genrank.data.dataset import sample_shop
from genrank.data.jsonl import read_requests
from genrank.models.registry import DEFAULT_MODEL
from genrank.prompting.template import load_template, template_names
from genrank.reranker import Reranker
from genrank.testing import ScriptedEngine, WordTokenizer
from genrank.types import Request


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models whose tokenizer was asked for; in place of each comes one that knows words."""
    asked: list[str] = []

    class Words:
        def __init__(self) -> None:
            self.words = WordTokenizer()

        def decode(self, ids: list[int], **_: object) -> str:
            return self.words.decode(ids)

    def load(model: str, _: bool) -> tuple[Words, int]:
        asked.append(model)
        return Words(), 1000

    monkeypatch.setattr("genrank.cli.prompts._load_tokenizer", load)
    monkeypatch.setattr("genrank.engines.tokenizer.HubTokenizer", lambda tokenizer: tokenizer.words)
    return asked


def test_prompts_list_names_every_template_with_its_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "list"]) == 0
    out = capsys.readouterr().out
    for name in template_names():
        template = load_template(name)
        assert f"{name}@{template.version} " in out
        assert template.digest in out
    assert main(["prompts", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == template_names()
    row = next(row for row in rows if row["name"] == "listwise")
    template = load_template("listwise")
    assert row == {
        "name": "listwise",
        "version": template.version,
        "hash": template.digest,
        "decodings": ["first-token", "listwise"],
        "description": template.description,
        "source": template.source,
    }


def test_prompts_show_is_a_file_to_begin_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "show", "inline-zh"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"# hash {load_template('inline-zh').digest}\n")
    path = tmp_path / "mine.toml"
    path.write_text(out, encoding="utf-8")
    assert load_template(path) == load_template("inline-zh")


def test_prompts_render_prints_what_the_model_would_read(
    requests: Path, tokenizer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", "render", "listwise", "--request", str(requests), "--query-id", "q2"]) == 0
    out, err = capsys.readouterr()
    engine = ScriptedEngine([[[0.0, 0.0, 0.0]]])
    _, (_, request) = read_requests(requests)
    assert isinstance(request, Request)
    Reranker(engine=engine, decoding="first-token").rerank_batch([request])
    assert out == engine.tokenizer.decode(engine.requests[0].ids) + "\n"
    assert out.startswith("<system>You rank")
    counts = {line.split()[0]: int(line.split()[1]) for line in err.splitlines()[:-1]}
    assert list(counts) == ["system", "query", "history", "candidates", "instruction"]
    # the model takes 1,000 tokens; 20 identifiers and what stands between them, "] > [", leave the rest
    between = len(engine.tokenizer.encode(["] > ["])[0].ids)
    assert (
        err.splitlines()[-1].split()
        == f"in all {sum(counts.values())} tokens of at most {1000 - 20 * (1 + between)}".split()
    )
    assert tokenizer == [DEFAULT_MODEL]


def test_prompts_render_takes_the_sample_shop_and_shows_one_window(
    tokenizer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    call = "prompts render inline --query-id q-en-07 --model other --window 2 --max-prompt-tokens 300"
    assert main(call.split()) == 0
    out, err = capsys.readouterr()
    assert out.count("Relevant to the query:") == 2
    assert "candidates 1 to 2 of 19: one window" in err
    assert "of at most 300" in err
    assert " cut" in err
    assert tokenizer == ["other"]


def test_prompts_render_shows_one_candidate_where_each_has_a_prompt(
    tokenizer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", "render", "pointwise", "--query-id", "q-en-07"]) == 0
    out, err = capsys.readouterr()
    listing = next(query for query in sample_shop().queries if query.query.query_id == "q-en-07")
    first, second = sample_shop().request(listing).candidates[:2]
    assert out.count(first.listing.title) == 1
    assert second.listing.title not in out
    assert "candidate 1 of 19: each has a prompt of its own" in err
    assert main(["prompts", "render", "pointwise", "--window", "5"]) == 2
    assert "window: decoding pointwise asks about each candidate once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "inlin"], "no prompt template 'inlin'; known are ['inline', "),
        (["render", "inlin"], "no prompt template 'inlin'; known are ['inline', "),
        (
            ["render", "listwise", "--decoding", "inline"],
            "asks no question; it suits first-token and listwise",
        ),
        (["render", "inline", "--decoding", "listwise"], "gives no instruction; it suits inline, not listwise"),
        (["render", "inline", "--query-id", "q"], "the sample shop has no query 'q'; it has q-en-01 to q-zh-"),
        (["render", "inline", "--window", "1"], "window: must be at least 2, got 1"),
        (["render", "inline", "--max-prompt-tokens", "9"], "max_prompt_tokens: 9 tokens cannot hold"),
        (["render", "inline", "--max-prompt-tokens", "2000"], "must be within 1..1000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_of_prompts_ends_with_2(
    arguments: list[str], message: str, tokenizer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_prompts_render_of_a_file_without_the_request(
    requests: Path, tokenizer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", "render", "inline", "--request", str(requests), "--query-id", "q9"]) == 2
    assert f"no request of {requests} has the id 'q9'" in capsys.readouterr().err
    requests.write_text("{", encoding="utf-8")
    assert main(["prompts", "render", "inline", "--request", str(requests)]) == 1
    assert f"{requests}:1: expected one JSON object" in capsys.readouterr().err


def test_prompts_render_of_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    assert main(["prompts", "render", "inline", "--model", "smollm2-135m"]) == 1
    assert "genrank models fetch smollm2-135m" in capsys.readouterr().err


def test_prompts_render_messages_is_the_body_of_a_chat_request(
    requests: Path, tokenizer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", "render", "pointwise", "--request", str(requests), "--messages", "--model", "served"]) == 0
    out, err = capsys.readouterr()
    body = json.loads(out)
    assert (body["model"], body["temperature"]) == ("served", 0)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][1]["content"].startswith("Listing: Title 0\nA shopper searched for: dress\n")
    assert "candidate 1 of 3" in err


def test_prompts_render_messages_can_ask_for_a_ranking_with_reasons(
    requests: Path, tokenizer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    render = ["prompts", "render", "listwise", "--request", str(requests), "--messages", "--reasons"]
    assert main([*render, "2"]) == 0
    asked = json.loads(capsys.readouterr().out)["messages"][1]["content"]
    assert '{"ranking": ["C", "A", "B"], "reasons": {"C": "...", "A": "..."}}' in asked
    assert "[A] Title 0\n[B] Title 1\n[C] Title 2\n" in asked
    assert main([*render, "0"]) == 0
    assert "reasons" not in json.loads(capsys.readouterr().out)["messages"][1]["content"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["listwise", "--reasons", "2"], "--reasons: only with --messages"),
        (["listwise", "--messages", "--reasons", "-1"], "--reasons: must not be negative, got -1"),
        (["listwise", "--messages", "--reasons", "1", "--decoding", "first-token"], "--decoding: a ranking as JSON"),
        (["inline", "--messages", "--reasons", "1"], "listwise"),
        (["inline", "--messages"], "decoding inline reads places inside the prompt"),
        (["listwise-numbers", "--messages", "--reasons", "1"], "names listings by numbers"),
    ],
)
def test_prompts_render_messages_refuses_what_no_chat_request_can_ask(
    arguments: list[str], message: str, tokenizer: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", "render", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
