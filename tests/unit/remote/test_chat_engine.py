"""The engine for plain chat endpoints, against a stand-in with an oracle behind it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest

from genrank.engines.base import PermuteRequest, ScoreRequest, TextRequest
from genrank.errors import EngineError, InputError, ModelNotFoundError
from genrank.pictures import Pictures
from genrank.remote.chat_engine import ChatEngine
from genrank.remote.http import FailedError, RefusedError
from genrank.reranker import Reranker
from genrank.testing import OracleEngine
from genrank.types import Listing, Pictured, Ranking
from tests.chat_double import ChatDouble
from tests.picture_rig import data_url, file

URL = "http://chat:8000/v1"
GRADES = {str(i): grade / 2 for i, grade in enumerate(random.Random(1).sample(range(12), 12))}
TITLES = [f"title {i}" for i in range(12)]


@contextmanager
def engine(server: ChatDouble, model: str | None = "m", **options: Any) -> Iterator[ChatEngine]:
    with closing(ChatEngine(URL, model, transport=server.transport, **options)) as made:
        yield made


def ranked(server: ChatDouble, titles: int = 12, **options: Any) -> Ranking:
    with engine(server) as made:
        return Reranker(engine=made, **options).rerank("q", TITLES[:titles])


def ids(ranking: Ranking) -> list[str]:
    return [item.listing_id for item in ranking]


@pytest.mark.parametrize(
    ("abilities", "name"),
    [
        ({"enforces": ["grammar", "json_schema"], "top": 20}, "chat (grammar, top 20 log-probabilities)"),
        ({"refuses": ["grammar"], "enforces": ["json_schema"]}, "chat (json_schema)"),
        ({"enforces": ["json_schema"]}, "chat (json_schema)"),
        ({"enforces": ["json_schema", "json_object"]}, "chat (json_schema)"),
        ({"enforces": ["json_object"]}, "chat (json_object)"),
        ({"refuses": ["response_format"]}, "chat (text)"),
        ({}, "chat (text)"),
        ({"top": 20}, "chat (text, top 20 log-probabilities)"),
        ({"top": 5}, "chat (text, top 5 log-probabilities)"),
        ({"refuses": ["logprobs"], "top": 20, "enforces": ["json_schema"]}, "chat (json_schema)"),
    ],
)
def test_the_best_that_the_endpoint_does_is_found_by_its_answers(abilities: dict[str, Any], name: str) -> None:
    server = ChatDouble(GRADES, **abilities)
    ranking = ranked(server, decoding="listwise")
    assert ids(ranking) == ids(Reranker(engine=OracleEngine(GRADES), decoding="listwise").rerank("q", TITLES))
    assert (ranking.provenance.engine, ranking.provenance.outcome) == (name, "model")
    last = server.bodies[-1]
    form = "grammar" if "grammar" in last else last.get("response_format", {"type": "text"})["type"]
    assert form == name.removeprefix("chat (").split(",")[0].removesuffix(")")


@pytest.mark.parametrize(("forgetful", "most"), [(False, 1), (True, 5)])
def test_under_a_grammar_the_model_chooses_among_the_listings_that_are_left(forgetful: bool, most: int) -> None:
    grades = {str(i): grade / 2 for i, grade in enumerate(random.Random(2).sample(range(20), 20))}
    titles = [f"title {i}" for i in range(20)]
    server = ChatDouble(grades, enforces=["grammar"], forgetful=forgetful)
    with engine(server) as made:
        before = len(server.bodies)
        ranking = Reranker(engine=made).rerank("q", titles)
    twin = Reranker(engine=OracleEngine(grades), decoding="listwise").rerank("q", titles)
    assert ids(ranking) == ids(twin)
    provenance = ranking.provenance
    assert (provenance.engine, provenance.outcome, provenance.repairs) == ("chat (grammar)", "model", ())
    asked = len(server.bodies) - before
    assert 1 <= asked <= most
    assert provenance.tokens.completion == 5 * asked
    assert provenance.tokens.prompt == 70


def test_a_server_that_no_longer_obeys_is_asked_in_the_next_best_way() -> None:
    server = ChatDouble(GRADES, enforces=["grammar", "json_schema"])
    server.say = lambda messages: "Best first: " + " > ".join(f"[{name}]" for name in server.order(messages))
    with engine(server) as made:
        reranker = Reranker(engine=made)
        for enforced, name in (
            (["grammar"], "chat (grammar)"),
            (["json_object"], "chat (json_object)"),
            ([], "chat (text)"),
            (["grammar"], "chat (text)"),
        ):
            server.enforces = enforced
            ranking = reranker.rerank("q", TITLES)
            assert (ranking.provenance.engine, ranking.provenance.outcome) == (name, "model")
            assert ids(ranking) == ids(Reranker(engine=OracleEngine(GRADES), decoding="listwise").rerank("q", TITLES))


def test_an_order_cut_off_under_a_grammar_is_bad_output() -> None:
    server = ChatDouble(GRADES, enforces=["grammar"])
    with engine(server) as made:
        server.enforces, server.say, server.finish_reason = [], lambda _: "[", "length"
        provenance = Reranker(engine=made).rerank("q", TITLES).provenance
    assert (provenance.outcome, provenance.cause, provenance.engine) == ("fallback", "bad-output", "chat (grammar)")
    assert "holds no order (finish_reason 'length'; raise max_tokens" in provenance.why


def test_one_odd_answer_is_no_reason_to_give_the_grammar_up() -> None:
    server = ChatDouble(GRADES, enforces=["grammar"])
    with engine(server) as made:
        server.odd = ["Sorry."]
        reranker = Reranker(engine=made)
        first, second = (reranker.rerank("q", TITLES).provenance for _ in range(2))
    assert (first.outcome, first.cause, first.engine) == ("fallback", "bad-output", "chat (grammar)")
    assert "holds no order ('Sorry.')" in first.why
    assert (second.outcome, second.engine) == ("model", "chat (grammar)")


def test_fields_that_the_server_fails_at_are_left_out() -> None:
    server = ChatDouble(GRADES, fails=["logprobs"], enforces=["grammar"])
    with engine(server, attempts=1) as made:
        assert made.name == "chat (grammar)"
    with pytest.raises(FailedError, match="HTTP 500"), engine(ChatDouble({}, fails=["model"]), attempts=1):
        pass


def test_a_wrong_key_is_told_at_once() -> None:
    server = ChatDouble(GRADES, refuses=["model"], refusal=401)
    with pytest.raises(RefusedError, match="put the server's key into the environment variable GENRANK_API_KEY"):
        ChatEngine(URL, "m", transport=server.transport)
    assert len(server.bodies) == 1


def test_pointwise_reads_the_likeliest_first_tokens() -> None:
    ranking = ranked(ChatDouble(GRADES, top=20))
    twin = Reranker(engine=OracleEngine(GRADES)).rerank("q", TITLES)
    assert (ranking.provenance.decoding, ranking.provenance.outcome) == ("pointwise", "model")
    assert ids(ranking) == ids(twin)
    score = next(item.score for item in ranking if item.listing_id == "3")
    assert score == pytest.approx(1 / (1 + 2.718281828459045 ** -GRADES["3"]), abs=1e-6)


def test_without_likeliest_tokens_it_ranks_listwise_and_refuses_pointwise() -> None:
    server = ChatDouble(GRADES)
    assert ranked(server).provenance.decoding == "listwise"
    with pytest.raises(InputError, match=r"the engine chat \(text\) serves only listwise, got pointwise"):
        ranked(server, decoding="pointwise")


def test_messages_hold_the_template_and_no_beginning_of_an_answer() -> None:
    server = ChatDouble(GRADES)
    ranked(server, 2, decoding="listwise")
    system, user = server.bodies[-1]["messages"]
    assert system["role"] == "system"
    assert system["content"].startswith("You rank the search results")
    assert user["role"] == "user"
    assert user["content"].endswith("[A] title 0\n[B] title 1\nRank the listings above for the search query: the best "
                                    "first, in the form [B] > [A] > [C].")  # fmt: skip
    assert server.bodies[-1]["temperature"] == 0.0


def test_a_reason_is_asked_for_with_its_examples_as_turns() -> None:
    server = ChatDouble(GRADES, say=lambda _: "<think>Hm.</think>\n\nA lamp of title 0.\nSo it fits.")
    with engine(server) as made:
        (item,) = Reranker(engine=made, decoding="listwise").rerank("title", TITLES[:1], reasons=1)
        roles = [message["role"] for message in server.bodies[-1]["messages"]]
        assert roles[0] == "system"
        assert roles[1:] == ["user", "assistant"] * ((len(roles) - 2) // 2) + ["user"]
        assert len(roles) > 4
        ids = made.tokenizer.frame("")[0] + list(made.tokenizer.encode(["Why?"])[0].ids)
        (end,) = made.tokenizer.encode(["\n"])[0].ids
        (written,) = made.write([TextRequest(ids, 9, (end,))])
    assert written is not None
    assert written.text == "A lamp of title 0."
    assert (written.tokens.prompt, written.tokens.cached, written.tokens.completion) == (70, 64, 5)
    assert item.listing_id == "0"


def test_text_that_ends_inside_its_thinking_is_no_text() -> None:
    with engine(ChatDouble({}, say=lambda _: "<think>Let me see")) as made:
        (written,) = made.write([TextRequest(made.tokenizer.frame("")[0], 9)])
    assert written is not None
    assert written.text == ""


@pytest.mark.parametrize(
    ("said", "order", "repairs"),
    [
        ("[C] > [A]", ["2", "0", "1", "3"], ["named 2 of 4 listings"]),
        ("[C] > [A] > [C] > [B] > [D]", ["2", "0", "1", "3"], ["again (1 times)"]),
        ("[C] > [C] > [B]", ["2", "1", "0", "3"], ["named 2 of 4 listings", "again (1 times)"]),
    ],
)
def test_what_an_order_lacks_is_added_and_counted(said: str, order: list[str], repairs: list[str]) -> None:
    ranking = ranked(ChatDouble(GRADES, say=lambda _: said), 4)
    assert ids(ranking) == order
    provenance = ranking.provenance
    assert (provenance.outcome, provenance.cause) == ("repaired", "bad-output")
    assert len(provenance.repairs) == len(repairs)
    assert all(words in repair for words, repair in zip(repairs, provenance.repairs, strict=True))


@pytest.mark.parametrize(
    ("said", "finish_reason", "words"),
    [
        ("I cannot help with that.", "stop", "names 0 of 4 listings"),
        ("", "stop", "names 0 of 4 listings"),
        ("<think>First I", "length", "inside its thinking (finish_reason 'length'; raise max_tokens"),
        ('{"ranking": ["C", "A"', "length", "inside a JSON object"),
    ],
)
def test_an_answer_without_an_order_is_the_models_fault(said: str, finish_reason: str, words: str) -> None:
    ranking = ranked(ChatDouble(GRADES, say=lambda _: said, finish_reason=finish_reason), 4)
    assert ids(ranking) == ["0", "1", "2", "3"]
    assert (ranking.provenance.outcome, ranking.provenance.cause) == ("fallback", "bad-output")
    assert words in ranking.provenance.why


def test_a_single_listing_is_not_asked_about() -> None:
    server = ChatDouble(GRADES)
    with engine(server) as made:
        reranker = Reranker(engine=made)
        before = len(server.bodies)
        assert ids(reranker.rerank("q", ["title 1"])) == ["0"]
    assert len(server.bodies) == before


def test_an_answer_that_is_neither_yes_nor_no_is_a_repair() -> None:
    server = ChatDouble(GRADES, top=20)
    with engine(server) as made:
        reranker = Reranker(engine=made)
        server.likeliest = [{"token": "Sure", "logprob": -0.1}]
        provenance = reranker.rerank("q", TITLES[:2]).provenance
    assert provenance.outcome == "repaired"
    assert provenance.repairs == (
        "no answer about 0: the likeliest token is 'Sure'",
        "no answer about 1: the likeliest token is 'Sure'",
    )


def test_decodings_that_need_the_tokens_themselves_are_refused() -> None:
    with engine(ChatDouble(GRADES, top=20)) as made:
        for decoding in ("inline", "first-token"):
            with pytest.raises(InputError, match="serves only pointwise, listwise"):
                Reranker(engine=made, decoding=decoding)
        ids = made.tokenizer.frame("")[0]
        with pytest.raises(EngineError, match="at the end of a prompt only"):
            made.score([ScoreRequest((*ids, *ids), (0, 1), (5,))])


def test_names_that_the_reader_of_answers_does_not_know_are_refused() -> None:
    with engine(ChatDouble(GRADES)) as made:
        with pytest.raises(InputError, match="52 one-token identifiers, got 53"):
            Reranker(engine=made, window=53)
        numbers = [made.tokenizer.encode([name])[0].ids[0] for name in ("1", "2")]
        with pytest.raises(EngineError, match="names listings by letters"):
            made.permute([PermuteRequest(made.tokenizer.frame("")[0], numbers, ())])


def test_options_override_and_remove_fields() -> None:
    server = ChatDouble(GRADES, refuses=["max_tokens", "temperature"], enforces=["json_schema"])
    options = {"max_tokens": None, "temperature": None, "max_completion_tokens": 500}
    with engine(server, options=options) as made:
        ranking = Reranker(engine=made).rerank("q", TITLES)
    assert ranking.provenance.engine == "chat (json_schema)"
    assert server.bodies[-1]["max_completion_tokens"] == 500


def test_an_endpoint_that_refuses_everything_says_why() -> None:
    with (
        pytest.raises(RefusedError, match=r"HTTP 400 .*unknown field model"),
        engine(ChatDouble({}, refuses=["model"])),
    ):
        pass


def test_the_model_and_its_context_are_found_where_the_server_lists_them() -> None:
    listed = {"id": "only", "meta": {"n_ctx": 3000}}
    with engine(ChatDouble({}, models=[listed]), None) as made:
        assert (made.model, made.context) == ("only", 3000)
    with engine(ChatDouble({}, models=[listed]), None, context=500) as made:
        assert made.context == 500
    with engine(ChatDouble({}, models=None), "x") as made:  # no list at all
        assert (made.model, made.context) == ("x", 8192)
    with pytest.raises(EngineError, match="/v1/models"), engine(ChatDouble({}, models=None), None):
        pass
    many = [{"id": f"m{i}"} for i in range(3)]
    with pytest.raises(ModelNotFoundError, match="m0, m1, m2; say which"), engine(ChatDouble({}, models=many), None):
        pass


def test_an_adapter_is_asked_for_by_its_folders_name() -> None:
    server = ChatDouble({}, models=[{"id": "m"}, {"id": "shop", "parent": "m"}])
    with engine(server, None, adapter="adapters/shop") as made:
        assert (made.model, made.adapter) == ("m", "adapters/shop")
    assert {body["model"] for body in server.bodies} == {"shop"}
    with pytest.raises(ModelNotFoundError, match="adapter named other"), engine(server, adapter="other"):
        pass


HUGE = [{"token": "yes", "logprob": 10**400}]


@pytest.mark.parametrize(
    "change",
    [
        lambda body: {},
        lambda body: {"choices": []},
        lambda body: {"choices": [{"message": None}]},
        lambda body: {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{}]}}]},
        lambda body: {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": HUGE}]}}]},
        lambda body: [],
    ],
)
def test_what_is_no_chat_completion_is_an_engine_error(change: Callable[[Any], Any]) -> None:
    server = ChatDouble(GRADES)
    serve = server._serve
    broken = False

    def handler(request: httpx.Request) -> httpx.Response:
        response = serve(request)
        return httpx.Response(200, json=change(json.loads(response.content))) if broken else response

    with closing(ChatEngine(URL, "m", transport=httpx.MockTransport(handler))) as made:
        broken = True
        ranking = Reranker(engine=made).rerank("q", TITLES)
    assert (ranking.provenance.outcome, ranking.provenance.cause) == ("fallback", "engine-error")
    assert "gave no chat completion" in ranking.provenance.why


def shop(reds: dict[int, int]) -> list[Listing]:
    """Twelve listings; those in `reds` have a picture of so much red, from 0 to 255."""
    return [
        Listing(f"p{i}", title, image_url=data_url(file((reds[i], 0, 0))) if i in reds else "")
        for i, title in enumerate(TITLES)
    ]


def pictured(server: ChatDouble, listings: list[Listing], **options: Any) -> Ranking:
    with engine(server) as made, Reranker(engine=made, pictures=Pictures(data_urls=True, **options)) as reranker:
        return reranker.rerank("q", listings)


def test_a_picture_goes_beside_the_listings_text() -> None:
    pytest.importorskip("PIL")
    server = ChatDouble({}, top=20, sees="redness")
    reds = {0: 10, 3: 250, 5: 120}
    ranking = pictured(server, shop(reds))
    assert ids(ranking)[:3] == ["p3", "p5", "p0"]
    assert ranking.provenance.outcome == "model"
    assert ranking.provenance.pictures == Pictured(used=3, without=9)
    asked = [body["messages"] for body in server.bodies[-12:]]
    with_picture = [messages for messages in asked if isinstance(messages[-1]["content"], list)]
    assert len(with_picture) == 3
    for messages in with_picture:
        assert messages[0]["role"] == "system"
        first, second = messages[-1]["content"]
        assert (first["type"], second["type"]) == ("image_url", "text")
        assert re.search(r"Listing: title [035]\b", second["text"])
    plain = [messages for messages in asked if messages not in with_picture]
    with engine(server) as made:
        Reranker(engine=made).rerank("q", shop({}))
    texts = [body["messages"] for body in server.bodies[-12:]]
    assert [messages for messages in plain if messages not in texts] == [], "as they are without pictures"
    assert sorted(messages[-1]["content"][1]["text"] for messages in with_picture) == sorted(
        messages[-1]["content"] for messages in texts if messages not in plain
    )


def test_a_listing_whose_picture_cannot_be_had_is_ranked_without() -> None:
    pytest.importorskip("PIL")
    server = ChatDouble({"4": 3.0}, top=20, sees="redness")
    listings = shop({1: 200})
    listings[4] = Listing("p4", TITLES[4], image_url="https://img.shop.example/4.jpg")
    listings[5] = Listing("p5", TITLES[5], image_url=data_url(b"no picture"))
    ranking = pictured(server, listings)
    assert ids(ranking)[:2] == ["p1", "p4"]
    assert ranking.provenance.pictures == Pictured(1, 9, {"source": 1, "format": 1})
    assert ranking.to_dict()["provenance"]["pictures"]["failed"] == {"source": 1, "format": 1}


@pytest.mark.parametrize("sees", ["refuses", "ignores"])
def test_a_model_that_sees_no_pictures_is_refused_at_once(sees: Any) -> None:
    pytest.importorskip("PIL")
    with pytest.raises(
        InputError, match="sees none; serve a model that looks at pictures, or leave pictures out"
    ) as why:
        pictured(ChatDouble(GRADES, top=20, sees=sees), shop({}))
    assert why.value.field == "pictures"


def test_a_pictures_tokens_are_those_that_the_endpoint_counts() -> None:
    pytest.importorskip("PIL")
    with engine(ChatDouble({}, top=20, sees="redness")) as made:
        assert made.picture_tokens(64) == 49
    with engine(ChatDouble({}, top=20, sees="redness", counts=False)) as made:
        assert made.picture_tokens(64) == 1024
    with engine(ChatDouble({}, top=20, sees="redness"), context=600) as made:
        reranker = Reranker(engine=made, pictures=Pictures(data_urls=True))
        assert reranker.max_prompt_tokens == 551
        reranker.close()
