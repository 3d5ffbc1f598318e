from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.remote.pieces import PieceTokenizer


@given(st.text(alphabet=st.characters()))
def test_pieces_cover_a_text_and_decode_to_it(text: str) -> None:
    (encoded,) = PieceTokenizer().encode([text])
    assert PieceTokenizer().decode(encoded.ids) == text
    assert [*encoded.starts, len(text)] == [0, *encoded.ends], "each piece begins where the one before ends"
    assert all(piece >= 0 for piece in encoded.ids)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("red dress", 2),
        ("strawberry", 2),
        ("AA", 2),
        ("连衣裙", 3),
        ("[A] > [B]", 7),
        ("2026", 2),
        ("yes", 1),
        (" Yes", 1),
        ("", 0),
    ],
)
def test_pieces_are_about_as_many_as_tokens(text: str, count: int) -> None:
    (encoded,) = PieceTokenizer().encode([text])
    assert len(encoded.ids) == count


def test_messages_are_what_stands_between_the_marks() -> None:
    tokenizer = PieceTokenizer()
    before, after = tokenizer.frame("Judge.")
    question, answer = ([*one.ids] for one in tokenizer.encode(["Is it red?\n", "Yes."]))
    shown = [*before, *question, *after, *answer, *tokenizer.turn(), *question, *after]
    expected = [
        {"role": "system", "content": "Judge."},
        {"role": "user", "content": "Is it red?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Is it red?"},
    ]
    assert tokenizer.messages(shown) == expected
    assert tokenizer.messages([*shown, *answer]) == expected, "an answer that has begun is left out"
    assert tokenizer.begun([*shown, *answer]) == "Yes."
    assert tokenizer.begun(shown) == tokenizer.begun(before) == tokenizer.begun([]) == ""


def test_the_texts_of_the_pieces_name_the_turns() -> None:
    tokenizer = PieceTokenizer()
    before, after = tokenizer.frame("Judge.")
    assert tokenizer.texts([*before, *after]) == ["<system>", "Judge", ".", "<user>", "<assistant>"]


def test_without_a_chat_frame_there_is_one_message() -> None:
    tokenizer = PieceTokenizer()
    before, after = tokenizer.frame("Judge.", chat=False)
    (question,) = tokenizer.encode(["Is it red?"])
    assert tokenizer.messages([*before, *question.ids, *after]) == [{"role": "user", "content": "Judge.\n\nIs it red?"}]
    assert tokenizer.frame("")[0] == tokenizer.frame("", chat=False)[0] == tokenizer.turn()
