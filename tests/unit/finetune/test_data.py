from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from finetune import data
from finetune.data import (
    SCORED_BY,
    Form,
    Skipped,
    examples_fingerprint,
    make_example,
    make_examples,
    make_reason_example,
)
from finetune.windows import TrainingWindow, WindowOptions, draw_windows
from genrank.data.dataset import sample_shop
from genrank.engines.base import ScoreRequest
from genrank.errors import BudgetError
from genrank.prompting.renderer import Renderer
from genrank.prompting.template import load_template
from genrank.reranker import Reranker
from genrank.testing import AnyRequest, ScriptedEngine, WordTokenizer
from genrank.types import Candidate, Intent, Listing, Query, Request, Strategy

FORMS: tuple[Form, ...] = ("pointwise", "inline", "listwise")
CHANCE = random.Random(0)


def window(*gains: float) -> TrainingWindow:
    candidates = tuple(Candidate(Listing(f"l{i}", f"lamp {i}", brand="Lux")) for i in range(len(gains)))
    return TrainingWindow(Query("red lamp", "q1"), (), candidates, gains)


def renderers(*, chat: bool = True) -> dict[Form, Renderer]:
    tokenizer = WordTokenizer(chat=chat)
    return {form: Renderer(load_template(form), tokenizer) for form in FORMS}


def test_what_the_query_means_is_rendered_as_in_serving() -> None:
    tokenizer = WordTokenizer()
    renderer = Renderer(load_template("pointwise-intent"), tokenizer)
    one = dataclasses.replace(window(1.0, 0.0), intent=Intent("q", "en", "q", most_price=9.0))
    example = make_example(one, "pointwise", renderer, 500, CHANCE)
    assert tokenizer.decode(example.input_ids).count("The search means: at most 9\n") == 2


def write(window: TrainingWindow, place: int, chance: random.Random) -> str:
    return f"It is {window.candidates[place].listing.title}."


@pytest.mark.parametrize("form", FORMS)
def test_training_and_serving_render_the_same_tokens(form: Form) -> None:
    shop = sample_shop()
    made = list(draw_windows(shop, "train", WindowOptions(least=2, most=20, random_negatives=3)))[:20]
    made = [dataclasses.replace(one, history=shop.queries[i].history) for i, one in enumerate(made)]
    tokenizer = WordTokenizer()
    own = {form: Renderer(load_template(form), tokenizer)}
    examples = list(make_examples(made, own, max_tokens=4000))
    asked: list[ScoreRequest] = []

    def flat(request: AnyRequest) -> list[list[float]]:
        assert isinstance(request, ScoreRequest)
        asked.append(request)
        return [[0.0] * len(request.targets)] * len(request.reads)

    engine = ScriptedEngine(flat, tokenizer=tokenizer)
    strategy: Strategy = "each" if form == "pointwise" else "single"
    reranker = Reranker(engine=engine, decoding=SCORED_BY[form], strategy=strategy, passes=1)
    reranker.rerank_batch([Request(one.query, one.candidates, one.history) for one in made])
    assert len(examples) == len(made)
    assert len(asked) == sum(len(one.starts) for one in examples)
    requests = iter(asked)
    for example in examples:
        reads = []
        for start in example.starts:
            request = next(requests)
            assert tuple(example.input_ids[start : start + len(request.ids)]) == tuple(request.ids)
            reads += [start + place for place in request.reads]
        if form == "listwise":
            assert set(example.reads) == set(reads)
            assert tuple(request.targets) == tuple(token for (token,) in example.above)
        else:
            assert list(example.reads) == reads
            assert tuple(request.targets) == (*example.above[0], *example.below[0])


def test_a_permutation_learns_no_preference_between_equals_and_nothing_that_is_filled_in() -> None:
    own = renderers()["listwise"]
    example = make_example(window(0, 3, 0, 3), "listwise", own, 4000, CHANCE)
    identifiers = own.answer.identifiers[:4]
    start = example.answers[0] + 1
    step = 1 + len(own.answer.between)
    assert example.answers == [start - 1 + step * i for i in range(3)]  # the last one is forced
    assert example.reads == [start - 1] * 4
    written = [identifiers.index(example.input_ids[start + step * i]) for i in range(4)]
    assert {*written[:2]} == {1, 3}
    assert {*written[2:]} == {0, 2}
    best, second, worst = example.choices
    assert {*best} == {identifiers[1], identifiers[3]}
    assert second == [identifiers[written[1]]]
    assert {*worst} == {identifiers[0], identifiers[2]}
    assert example.gains == (0, 3, 0, 3)


@pytest.mark.parametrize("form", ["pointwise", "inline"])
def test_scores_alone_are_learned_from_judgements(form: Form) -> None:
    example = make_example(window(0, 1, 2), form, renderers()[form], 4000, CHANCE)
    answer = renderers()[form].answer
    assert (example.answers, example.choices) == ([], [])
    assert len(example.reads) == 3
    assert example.input_ids[example.reads[-1] + 1 :] == []
    if form == "pointwise":
        assert [read + 1 for read in example.reads] == [*example.starts[1:], len(example.input_ids)]
    else:
        assert example.starts == [0]
    assert len(example.above[0]) == len(answer.yes)
    assert example.to_row()["length"] == len(example.input_ids)


@pytest.mark.parametrize("chat", [True, False])
def test_a_reason_is_a_row_of_its_own_with_the_prompt_of_serving(chat: bool) -> None:
    own = renderers(chat=chat)["inline"]
    shown = window(0, 3)
    example = make_reason_example(shown, 1, own, 4000, "It is lamp 1.")
    prompt = own.prepare(shown.query, shown.candidates).reason(1, max_tokens=4000)
    assert tuple(example.input_ids[: len(prompt.ids)]) == prompt.ids
    assert (example.form, example.reads, example.above, example.below, example.gains) == ("reason", [], [], [], [])
    assert example.answers == list(range(len(prompt.ids) - 1, len(example.input_ids) - 1))
    tokens = [example.input_ids[place + 1] for place in example.answers]
    assert [[token] for token in tokens] == example.choices
    *said, end = tokens
    assert own.tokenizer.decode(said).strip() == "It is lamp 1."
    assert end == (own.tokenizer.turn()[0] if chat else own.reason_ends[0])


def test_a_reason_without_room_or_words_is_left_out() -> None:
    own: dict[Form, Renderer] = {"inline": renderers()["inline"]}
    (plain,) = make_examples([window(0, 3)], own, max_tokens=4000)
    skipped = Skipped()
    room = len(plain.input_ids)
    made = make_examples([window(0, 3)], own, max_tokens=room, reasons=1.0, write_reason=write, skipped=skipped)
    assert list(made) == [plain]
    assert skipped.why == {f"reason: more than {room} tokens": 1}
    assert list(make_examples([window(0, 3)], own, max_tokens=4000, reasons=1.0, write_reason=lambda *_: "")) == [plain]


def test_only_the_best_get_reasons_and_only_where_something_fits() -> None:
    asked: list[tuple[int, float]] = []

    def record(window: TrainingWindow, place: int, chance: random.Random) -> str:
        asked.append((place, window.gains[place]))
        return "It fits."

    windows = [window(0, 3, 3, 1), window(-1.0, 0.0)] * 20
    examples = list(make_examples(windows, renderers(), max_tokens=4000, reasons=0.5, write_reason=record))
    assert {place for place, _ in asked} == {1, 2}
    assert 4 < len(asked) < 16
    assert len(examples) == 40 * len(FORMS) + len(asked)
    assert sum(example.form == "reason" for example in examples) == len(asked)
    assert {gain for _, gain in asked} == {3}


def test_what_does_not_fit_is_counted() -> None:
    skipped = Skipped()
    wide = window(*range(20))
    assert list(make_examples([wide, window(0, 1)], renderers(), max_tokens=150, skipped=skipped)) != []
    assert skipped.why == {"inline: more than 150 tokens": 1, "listwise: more than 150 tokens": 1}
    with pytest.raises(BudgetError):
        make_example(wide, "inline", renderers()["inline"], 150, CHANCE)


def test_the_fingerprint_hangs_on_settings_and_data(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = examples_fingerprint({"most": 20}, [tmp_path])
    assert first == examples_fingerprint({"most": 20}, [tmp_path])
    assert first != examples_fingerprint({"most": 10}, [tmp_path])
    (tmp_path / "a").write_text("2")
    assert first != examples_fingerprint({"most": 20}, [tmp_path])


def test_the_code_on_which_examples_depend_is_there() -> None:
    assert all(list(data._ROOT.glob(pattern)) for pattern in data._CODE), "a file that was moved is no longer hashed"
