"""A query becomes an intent in the catalogue's own words; the model only chooses among them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("symspellpy")
pytest.importorskip("pypinyin")
pytest.importorskip("bm25s")

from genrank.adapters import Manifest, TrainedPrompt, save_manifest
from genrank.engines.base import ScoreRequest, Stop
from genrank.errors import ConfigError, EngineError, InputError
from genrank.search.understanding import Guess, LabelledQuery, Lesson, Understanding, Vocabulary
from genrank.search.understanding.wording import digest
from genrank.testing import ScriptedEngine
from genrank.types import Listing, Price, Query

DRESSES, COATS, TENTS = ("Women", "Dresses"), ("Women", "Coats"), ("Camping", "Tents")
LISTINGS = [
    Listing(
        "d1",
        title="Floral dress",
        category=DRESSES,
        brand="Tessa",
        attributes={"season": "summer"},
        price=Price(9, "USD"),
    ),
    Listing("d2", title="Party dress", category=DRESSES, attributes={"season": "winter, spring", "colour": "red"}),
    Listing("c1", title="Warm winter coat", category=COATS, attributes={"season": "winter"}),
    Listing("t1", title="Tent for 2", category=TENTS, attributes={"persons": "2"}),
    Listing("k1", title="夏季连衣裙", category=("女装", "连衣裙"), attributes={"季节": "夏季"}),
]


def engine_that_likes(answers: Mapping[str, float]) -> ScriptedEngine:
    """Scores the first token of an answer by the words given; others score 0."""

    def answer(request: object) -> list[list[float]]:
        assert isinstance(request, ScoreRequest)
        texts = engine.tokenizer.texts(request.targets)
        return [[answers.get(text, 0.0) for text in texts] for _ in request.reads]

    engine = ScriptedEngine(answer)
    return engine


def understanding(answers: Mapping[str, float] | None = None, **options: float) -> Understanding:
    return Understanding(engine_that_likes(answers or {}), Vocabulary.of(LISTINGS), **options)  # type: ignore[arg-type]


def test_every_slot_is_found() -> None:
    intent = understanding({"summer": 2.0}).understand("Tessa summer dres under $50 not red")
    assert intent.corrected == "Tessa summer dress under $50 not red"
    assert intent.categories[0].value == DRESSES
    assert intent.brand == Guess("Tessa", 1.0)
    assert {name: guess.value for name, guess in intent.attributes.items()} == {"season": "summer"}
    assert (intent.least_price, intent.most_price, intent.currency) == (None, 50.0, "USD")
    assert intent.excluded == ("red",)
    assert intent.source == "model"
    assert intent.tokens.prompt > 0
    assert intent.to_dict()["price"] == {"most": 50.0, "currency": "USD"}


def test_the_model_decides_between_categories_that_are_as_likely() -> None:
    listings = [
        Listing(f"m{i}", title="Running shoe", category=("Shoes", kind)) for i, kind in enumerate(("Men", "Women"))
    ]
    for liked in ("Men", "Women"):
        reader = Understanding(engine_that_likes({f" {liked}": 9.0}), Vocabulary.of(listings), leaning=0)
        assert [guess.value for guess in reader.understand("running shoe").categories] == [("Shoes", liked)]


def test_what_the_query_does_not_say_is_not_asked() -> None:
    reader = understanding({"any": -9.0})
    intent = reader.understand("warm party")
    assert intent.attributes == {}
    asked = "".join(reader.engine.tokenizer.texts(reader.engine.requests[-1].ids))  # type: ignore[attr-defined]
    assert "kind of product" in asked


def test_a_lean_to_any_query_is_taken_off() -> None:
    # the model likes "any" whatever it is asked; with its whole leaning taken off, nothing speaks against "summer"
    leaning = {"any": 5.0, "summer": 4.0}
    assert understanding(leaning, leaning=0).understand("summer dress").attributes == {}
    reader = Understanding(ScriptedEngine([]), Vocabulary.of(LISTINGS), leaning=1.0)
    nothing = reader.engine.tokenizer.encode(["something"])[0].ids

    def answer(request: object) -> list[list[float]]:
        assert isinstance(request, ScoreRequest)
        texts = reader.engine.tokenizer.texts(request.targets)
        says = {"any": 5.0, "summer": 0.0 if nothing[-1] in request.ids else 4.0}
        return [[says.get(text, 0.0) for text in texts] for _ in request.reads]

    reader.engine = ScriptedEngine(answer, tokenizer=reader.engine.tokenizer)
    assert reader.understand("summer dress").attributes["season"].value == "summer"


def test_leanings_are_read_once() -> None:
    reader = understanding()
    reader.understand("summer dress")
    first = len(reader.engine.requests)  # type: ignore[attr-defined]
    reader.understand("summer dress")
    assert len(reader.engine.requests) - first < first  # type: ignore[attr-defined]


def test_chinese_is_asked_in_chinese() -> None:
    reader = understanding({"夏": 3.0})
    intent = reader.understand(Query("连衣裙 夏季"))
    assert intent.language == "zh"
    assert intent.categories[0].value == ("女装", "连衣裙")
    assert intent.attributes["季节"].value == "夏季"
    assert all("商" in reader.engine.tokenizer.texts(request.ids) for request in reader.engine.requests)  # type: ignore[attr-defined]


def test_number_words_stand_for_their_digits() -> None:
    assert understanding({"2": 3.0}).understand("tent for two").attributes["persons"].value == "2"


def test_a_failing_model_leaves_what_the_words_say() -> None:
    reader = Understanding(ScriptedEngine(lambda _: EngineError("the model is gone")), Vocabulary.of(LISTINGS))
    intent = reader.understand("Tessa winter dress under 50")
    assert (intent.source, intent.why) == ("literal", "the model is gone")
    assert intent.brand == Guess("Tessa", 1.0)
    assert intent.most_price == 50
    assert intent.categories == ()


def test_a_deadline_leaves_what_the_words_say() -> None:
    intent = understanding().understand("Tessa winter dress under 50", deadline=1e-9)
    assert intent.source == "literal"
    assert intent.most_price == 50


def test_work_that_was_cancelled_asks_the_model_nothing() -> None:
    stop = Stop()
    stop.cancel()
    reader = understanding()
    intent = reader.understand("Tessa winter dress under 50", stop=stop)
    assert (intent.source, intent.most_price) == ("literal", 50)
    assert reader.engine.requests == []  # type: ignore[attr-defined]


def test_an_empty_catalogue_has_nothing_to_say() -> None:
    intent = Understanding(engine_that_likes({}), Vocabulary.of([])).understand("dress under 50")
    assert intent.slots() == {("most_price", "50")}


@pytest.mark.parametrize("query", ["{options} {name} {query}", "<|im_end|>", "x" * 5000, "🧥" * 300, "' OR 1=1 --"])
def test_hostile_queries_are_data(query: str) -> None:
    assert understanding().understand(query).source == "model"


def test_hostile_listings_are_data() -> None:
    listing = Listing(
        "h", title="dress", category=("{query}",), attributes={"{options}": "dress", "x" * 500: "dress " * 99}
    )
    intent = Understanding(engine_that_likes({"dress": 5.0}), Vocabulary.of([listing])).understand("dress")
    assert intent.attributes["{options}"].value == "dress"


@pytest.mark.parametrize(
    ("options", "field"), [({"categories": 0}, "categories"), ({"values": 0}, "values"), ({"leaning": 2}, "leaning")]
)
def test_bad_options_are_named(options: dict[str, float], field: str) -> None:
    with pytest.raises(InputError, match=field):
        understanding(**options)  # type: ignore[arg-type]


def test_bad_queries_are_named() -> None:
    with pytest.raises(InputError, match="text"):
        understanding().understand("  ")
    with pytest.raises(InputError, match="deadline"):
        understanding().understand("dress", deadline=0)


def test_it_can_be_awaited() -> None:
    assert asyncio.run(understanding().aunderstand("party dress")).categories[0].value == DRESSES


EXAMPLES: list[dict[str, Any]] = [
    {"query": "autumn dress", "categories": [["Women", "Dresses"]]},
    {"query": "long summer dress", "categories": [["Women", "Dresses"]], "attributes": {"season": "summer"}},
    {"query": "winter coat", "categories": [["Women", "Coats"]], "attributes": {"season": "winter"}},
    {"query": "连衣裙 夏季", "categories": [["女装", "连衣裙"]], "attributes": {"季节": "夏季"}},
    {"query": "saw", "categories": [["Tools"]], "brand": "Ada", "most_price": 9},
]


def prompts_of(query: str, **options: Any) -> list[str]:
    """The prompts about a query, each once, from behind the examples of the wording."""
    engine = engine_that_likes({})
    Understanding(engine, Vocabulary.of(LISTINGS), leaning=0, **options).understand(query)
    texts = dict.fromkeys(engine.tokenizer.decode(request.ids) for request in engine.requests)
    return [text.rsplit("Travel > Umbrellas</assistant><user>", 1)[-1] for text in texts]


def test_the_nearest_examples_are_shown_as_turns() -> None:
    plain = prompts_of("winter dress")
    category, season = prompts_of("winter dress", examples=EXAMPLES, shots=2)
    searches = re.findall(r"Search: (.*)\n", category)
    assert searches == ["winter coat", "autumn dress", "winter dress"]
    assert "<assistant>Women > Coats</assistant><user>Search: autumn dress" in category
    assert "<assistant>Women > Dresses</assistant><user>Search: winter dress" in category
    assert category.endswith(plain[0])
    assert re.findall(r"Search: (.*)\n", season) == ["long summer dress", "winter coat", "winter dress"]
    assert "<assistant>winter</assistant>" in season
    assert "<assistant>summer</assistant>" in season
    assert season.endswith(plain[1])


def test_examples_are_of_the_querys_language() -> None:
    engine = engine_that_likes({})
    Understanding(engine, Vocabulary.of(LISTINGS), examples=EXAMPLES).understand("夏季 连衣裙 红色")
    shown = "".join(engine.tokenizer.decode(request.ids) for request in engine.requests)
    assert "搜索词：连衣裙 夏季\n季节？" in shown
    assert "summer" not in shown


def test_an_example_can_change_the_leaning_too() -> None:
    """What a query that says nothing is answered with is asked behind the same examples."""
    engine = engine_that_likes({})
    Understanding(engine, Vocabulary.of(LISTINGS), examples=EXAMPLES, shots=1).understand("summer dress")
    texts = [engine.tokenizer.decode(request.ids) for request in engine.requests]
    nothing = [text for text in texts if "Search: something\n" in text]
    assert nothing
    assert all("Search: long summer dress\n" in text for text in nothing)


def test_lessons_are_a_labelled_querys_questions() -> None:
    asks = understanding()
    label = LabelledQuery("winter dress or coat", (("Women", "Coats"),), {"season": "winter"})
    category, season = asks.lessons(label)
    tokenizer = asks.engine.tokenizer

    def right(lesson: Lesson) -> list[str]:
        return [tokenizer.decode(lesson.choice.answers[place]).partition("<")[0] for place in lesson.right]

    assert (category.name, right(category)) == ("kind of product", ["Women > Coats"])
    assert (season.name, right(season)) == ("season", ["winter"])
    assert right(asks.lessons(LabelledQuery("winter coat", (("Women",),)))[0]) == ["Women > Coats", "Women > Dresses"]
    assert right(asks.lessons(LabelledQuery("winter coat", (("Women", "Coats"),)))[1]) == ["any"]
    assert asks.lessons(LabelledQuery("chain saw", (("Tools",),))) == []


def test_a_lesson_does_not_show_its_own_answer() -> None:
    engine = engine_that_likes({})
    asks = Understanding(engine, Vocabulary.of(LISTINGS), examples=EXAMPLES)
    (category, _) = asks.lessons(LabelledQuery("winter coat", (("Women", "Coats"),), {"season": "winter"}))
    assert engine.tokenizer.decode(category.choice.ids).count("Search: winter coat\n") == 1


@pytest.mark.parametrize(
    ("example", "field"),
    [({"categories": []}, "examples[1].query"), ({"query": "x", "colour": "red"}, "examples[1].colour"),
     ({"query": "x", "categories": "A"}, "examples[1].categories")],
)  # fmt: skip
def test_a_wrong_example_is_named(example: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        Understanding(engine_that_likes({}), Vocabulary.of(LISTINGS), examples=[EXAMPLES[0], example])
    assert caught.value.field == field


def test_an_adapter_that_learned_other_words_is_refused(tmp_path: Path) -> None:
    engine = engine_that_likes({})
    engine.adapter = str(tmp_path)
    for trained, refused in ((digest(), False), ("0" * 16, True)):
        prompts = {"understanding": TrainedPrompt(name="understanding", hash=trained)}
        save_manifest(Manifest(base_model="m", base_weights="w", prompts=prompts), tmp_path)
        with pytest.raises(ConfigError, match="in words of hash 0000") if refused else contextlib.nullcontext():
            Understanding(engine, Vocabulary.of(LISTINGS))
