from __future__ import annotations

import pytest

from genrank.errors import ConfigError
from genrank.permutation import IDENTIFIERS
from genrank.prompting.messages import chat_messages, json_question
from genrank.prompting.renderer import Prompt, Renderer
from genrank.prompting.template import Template, load_template
from genrank.remote.answers import read_answer
from genrank.remote.pieces import PieceTokenizer
from genrank.testing import WordTokenizer
from genrank.types import Candidate, Decoding, Listing, Query

CANDIDATES = [Candidate(Listing(str(i), f"title {i}")) for i in range(3)]


def rendered(template: Template, tokenizer: WordTokenizer | PieceTokenizer, decoding: Decoding) -> Prompt:
    candidates = CANDIDATES[:1] if decoding == "pointwise" else CANDIDATES
    return Renderer(template, tokenizer).render(Query("lamp"), candidates, max_tokens=1000, decoding=decoding)


@pytest.mark.parametrize(
    ("name", "decoding"), [("listwise", "listwise"), ("listwise", "first-token"), ("pointwise", "pointwise")]
)
def test_messages_make_the_prompt_again_up_to_the_beginning_of_the_answer(name: str, decoding: Decoding) -> None:
    template, tokenizer = load_template(name), WordTokenizer()
    prompt = rendered(template, tokenizer, decoding)
    system, user = chat_messages(prompt, template, tokenizer, decoding)
    assert (system["role"], user["role"]) == ("system", "user")
    text = f"<system>{system['content']}</system><user>{user['content']}</user><assistant>"
    assert tokenizer.decode(prompt.ids) == text + ("[" if name == "listwise" else "")


def test_they_are_what_the_engine_for_chats_sends() -> None:
    template, tokenizer = load_template("listwise"), PieceTokenizer()
    prompt = rendered(template, tokenizer, "listwise")
    sent = tokenizer.messages(prompt.ids)
    made = chat_messages(prompt, template, tokenizer, "listwise")
    assert [(one["role"], one["content"].strip()) for one in made] == [(one["role"], one["content"]) for one in sent]


def test_without_a_system_text_there_is_no_message_for_it() -> None:
    template, tokenizer = load_template("listwise").model_copy(update={"system": ""}), WordTokenizer()
    (user,) = chat_messages(rendered(template, tokenizer, "listwise"), template, tokenizer, "listwise")
    assert user["content"].startswith("Search query: lamp")


@pytest.mark.parametrize(
    ("name", "chat", "decoding", "words"),
    [
        ("inline", True, "inline", "inside the prompt"),
        ("listwise", False, "listwise", "no chat template"),
        ("pointwise-lean", True, "pointwise", "pointwise-lean uses no chat"),
    ],
)
def test_a_prompt_that_is_no_chat_is_refused(name: str, chat: bool, decoding: Decoding, words: str) -> None:
    template, tokenizer = load_template(name), WordTokenizer(chat=chat)
    with pytest.raises(ConfigError, match=words):
        chat_messages(rendered(template, tokenizer, decoding), template, tokenizer, decoding)


@pytest.mark.parametrize("reasons", [0, 2])
def test_a_question_for_json_shows_a_form_that_the_reader_reads(reasons: int) -> None:
    template = json_question(load_template("listwise"), reasons)
    (form,) = [line for line in template.instruction.splitlines() if line.startswith("{")]
    answer = read_answer(form, 3)
    assert answer.order == (2, 0, 1)
    assert bool(answer.reasons) == bool(reasons)
    assert ("first 2" in template.instruction) == bool(reasons)
    assert IDENTIFIERS[2] == "C"


@pytest.mark.parametrize(("name", "words"), [("inline", "listwise"), ("listwise-numbers", "takes letters")])
def test_a_question_for_json_names_listings_by_letters(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        json_question(load_template(name))
