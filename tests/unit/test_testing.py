from __future__ import annotations

import pytest

from genrank.engines.base import PermuteRequest, ScoreRequest, ScoreResult, Stop, TextRequest
from genrank.errors import EngineError
from genrank.testing import AnyRequest, OracleEngine, ScriptedAnswer, ScriptedEngine, WordTokenizer
from genrank.types import Tokens


@pytest.mark.parametrize(
    "text", ["", "red dress", "  a\n\tb ", "连衣裙 夏季", "[A] > [B]", "half \ud83d", "a_b-c's 12.5"]
)
def test_word_tokens_cover_a_text_and_decode_to_it(text: str) -> None:
    tokenizer = WordTokenizer()
    (encoded,) = tokenizer.encode([text])
    assert tokenizer.decode(encoded.ids) == text
    assert [*encoded.starts, len(text)] == [0, *encoded.ends], "each token begins where the one before ends"


def test_a_word_is_one_token_and_so_is_a_chinese_character() -> None:
    counts = [len(encoded.ids) for encoded in WordTokenizer().encode(["red summer dress", "连衣裙", "[A]", ""])]
    assert counts == [3, 3, 3, 0]


def test_equal_words_have_equal_ids_and_others_have_not() -> None:
    (first, second) = WordTokenizer().encode(["a b a", "b"])
    assert len(set(first.ids)) == 3  # "a", " b" and " a"
    assert second.ids[0] not in first.ids


def test_a_frame_with_and_without_a_chat() -> None:
    chat, plain = WordTokenizer(), WordTokenizer(chat=False)
    before, after = chat.frame("Judge.")
    assert (chat.decode(before), chat.decode(after)) == ("<system>Judge.</system><user>", "</user><assistant>")
    before, after = plain.frame("Judge.")
    assert (plain.decode(before), after) == ("Judge.\n\n", [])


SCORE = ScoreRequest((1, 2, 3), (1, 2), (7, 8), ("a", "b"))
PERMUTE = PermuteRequest((1, 2), (7, 8), (), ("a", "b"))
TEXT = TextRequest((1,), 9)


def test_a_script_is_answered_in_order_and_what_was_asked_is_recorded() -> None:
    engine = ScriptedEngine([[[1.0, 2.0], [3.0, 4.0]], (1, 0), "It fits."])
    (score,), (permute,), (text,) = engine.score([SCORE]), engine.permute([PERMUTE]), engine.write([TEXT])
    assert score
    assert permute
    assert text
    assert (score.scores, permute.order, text.text) == ([[1.0, 2.0], [3.0, 4.0]], (1, 0), "It fits.")
    assert (score.tokens, permute.tokens) == (Tokens(prompt=3), Tokens(prompt=2, completion=2))
    assert engine.requests == [SCORE, PERMUTE, TEXT]
    assert engine.calls == 3


def test_a_script_may_be_a_function_and_an_exception_is_raised() -> None:
    engine = ScriptedEngine(lambda request: EngineError("lost") if isinstance(request, TextRequest) else [[0.0]])
    assert engine.score([SCORE]) == [ScoreResult([[0.0]], Tokens(prompt=3))]
    with pytest.raises(EngineError, match="lost"):
        engine.write([TEXT])


def test_a_script_that_is_at_its_end_is_an_engine_that_fails() -> None:
    with pytest.raises(EngineError, match="no further answer"):
        ScriptedEngine([]).write([TEXT])


def test_the_oracle_ranks_by_grade_under_every_kind_of_request() -> None:
    engine = OracleEngine({"b": 3.0})
    one_place = ScoreRequest((1, 2, 3), (2,), (7, 8), ("a", "b"))
    inline, first_token = engine.score([SCORE, one_place])
    (permuted,) = engine.permute([PERMUTE])
    assert inline
    assert inline.scores == [[0.0, 0.0], [3.0, 0.0]]  # a place each, yes first
    assert first_token
    assert first_token.scores == [[0.0, 3.0]]
    assert permuted
    assert permuted.order == (1, 0)


def test_a_stopped_engine_answers_what_it_had() -> None:
    stop = Stop()

    def answer(request: AnyRequest) -> ScriptedAnswer:
        stop.cancel()
        return [[0.0]]

    first, second, third = ScriptedEngine(answer).score([SCORE] * 3, stop=stop)
    assert first
    assert (second, third) == (None, None)
    assert stop.finished(SCORE) is first


def test_a_closed_engine_answers_nothing() -> None:
    with ScriptedEngine([[[0.0]]]) as engine:
        assert engine.score([SCORE])
    engine.close()
    assert engine.closed
    with pytest.raises(EngineError, match="closed"):
        engine.score([SCORE])


def test_texts_of_tokens_join_to_the_text() -> None:
    tokenizer = WordTokenizer()
    (encoded,) = tokenizer.encode(["red dress, 连衣裙"])
    assert tokenizer.texts(encoded.ids) == ["red", " dress", ",", " 连", "衣", "裙"]
