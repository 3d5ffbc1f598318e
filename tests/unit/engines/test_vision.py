"""A model of transformers sees each listing's own picture, and reads texts without one as before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
transformers = pytest.importorskip("transformers", reason="get it with: pip install 'genrank[transformers]'")
pytest.importorskip("PIL", reason="Pillow is not installed: pip install 'genrank[pictures]'")

from genrank.engines.base import ScoreRequest, TextRequest  # noqa: E402
from genrank.engines.transformers import TransformersEngine  # noqa: E402
from genrank.engines.vision import SeeingTokenizer  # noqa: E402
from genrank.errors import EngineError, InputError, ModelError  # noqa: E402
from genrank.pictures import Picture, Pictures  # noqa: E402
from genrank.pictures.preparing import prepare  # noqa: E402
from genrank.prompting.template import load_template  # noqa: E402
from genrank.reranker import Reranker  # noqa: E402
from genrank.types import Listing, Pictured  # noqa: E402
from tests.picture_rig import data_url, file  # noqa: E402
from tests.tiny_vision import PARTS, TOKENS, make_tokenizer, make_vision  # noqa: E402

DATA = Pictures(data_urls=True)
TARGETS = (10, 20, 30, 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vision(tmp_path_factory.mktemp("tiny") / "vision")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[TransformersEngine]:
    with TransformersEngine(str(folder), dtype="float32", device="cpu", pictures=True) as made:
        yield made


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return transformers.AutoProcessor.from_pretrained(folder)


def coloured(colour: Any, size: tuple[int, int] = (40, 40)) -> Picture:
    return prepare(file(colour, size), DATA)


def request(engine: TransformersEngine, text: str, picture: Picture | None = None) -> ScoreRequest:
    before, after = engine.tokenizer.frame("Judge.")
    (body,) = engine.tokenizer.encode([text])
    ids = (*before, *body.ids, *after)
    return ScoreRequest(ids, (len(ids) - 1,), TARGETS, picture=picture, picture_at=len(before) if picture else 0)


def scores(engine: TransformersEngine, requests: list[ScoreRequest]) -> list[list[float]]:
    answers = engine.score(requests)
    return [list(answer.scores[0]) for answer in answers if answer]


COLOURS = ["red", "blue", "white", "black", (0, 90, 200)]
TEXTS = ["Listing: red bag", "Listing: a blue one, with a long handle", "x", "Listing: shoes", "包"]


def test_scores_are_those_of_transformers_own_processor_and_model(
    engine: TransformersEngine, model: Any, processor: Any
) -> None:
    for text, colour in zip(TEXTS, COLOURS, strict=True):
        picture = coloured(colour)
        said = [
            {"role": "system", "content": [{"type": "text", "text": "Judge."}]},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]},
        ]
        prompt = processor.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[prompt], images=[picture.image()], return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            expected = model(**inputs).logits[0, -1, list(TARGETS)]
        answer = engine.score([request(engine, text, picture)])[0]
        assert answer
        assert list(answer.scores[0]) == pytest.approx(expected.tolist(), abs=1e-4)
        assert answer.tokens.prompt == inputs["input_ids"].shape[1]


def test_the_picture_matters(engine: TransformersEngine) -> None:
    seen = scores(engine, [request(engine, "bag", coloured(colour)) for colour in COLOURS] + [request(engine, "bag")])
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert max(abs(x - y) for x, y in zip(one, other, strict=True)) > 0.01
    again = scores(engine, [request(engine, "bag", coloured("red")) for _ in range(2)])
    assert again[0] == pytest.approx(again[1], abs=1e-5)
    assert again[0] == pytest.approx(seen[0], abs=1e-4)


def test_pictures_are_not_mixed_up_in_a_batch(engine: TransformersEngine) -> None:
    """Prompts of different lengths, with and without pictures, in one call and one by one."""
    requests = [request(engine, text, coloured(colour)) for text in TEXTS[1:4] for colour in COLOURS[:3]]
    requests[2:2] = [request(engine, text) for text in TEXTS[1:4]]
    assert len(requests) == 12
    alone = [scores(engine, [one])[0] for one in requests]
    together = scores(engine, requests)
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    backwards = scores(engine, requests[::-1])[::-1]
    for one, other in zip(alone, backwards, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert len({tuple(round(x, 2) for x in one) for one in alone}) == 12, "they differ"


def test_texts_are_read_as_before(engine: TransformersEngine, model: Any) -> None:
    requests = [request(engine, text) for text in TEXTS]
    for one, found in zip(requests, scores(engine, requests), strict=True):
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([one.ids])).logits[0, -1, list(TARGETS)]
        assert found == pytest.approx(expected.tolist(), abs=1e-4)
    plain = list(requests[0].ids)
    (written,) = engine.write([TextRequest(plain, 5)])
    ids = torch.tensor([plain])
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    assert written
    assert written.text == engine.tokenizer.decode(expected[0, len(plain) :].tolist())


def test_a_prompt_with_a_picture_is_never_kept(engine: TransformersEngine) -> None:
    engine.forget()
    plain = request(engine, "Listing: red bag\nA shopper searched for: bag")
    head = len(plain.ids) - 10
    for colour in ("red", "blue"):
        one = ScoreRequest(plain.ids, plain.reads, TARGETS, (), 3, head, 2, coloured(colour), 3)
        answer = engine.score([one])[0]
        assert answer
        assert (answer.found, answer.tokens.cached, engine.held_bytes) == (False, 0, 0)


def shop(*colours: Any) -> list[Listing]:
    return [
        Listing(f"p{i}", f"bag {i}", image_url=data_url(file(colour, (40, 40))) if colour else "")
        for i, colour in enumerate(colours)
    ]


def test_a_reranker_shows_pictures(folder: Path) -> None:
    words = {"yes": ("yes",), "no": ("no",)}  # the tokenizer has no words, and all others begin with a space
    template = load_template("pointwise").model_copy(update=words)
    with Reranker(str(folder), dtype="float32", prompt=template, pictures=DATA) as reranker:
        ranking = reranker.rerank("red bag", shop("red", None, "blue", "white"))
        plain = reranker.rerank("red bag", shop(None, None, None, None))
        other = reranker.rerank("red bag", shop("blue", None, "blue", "white"))
    assert ranking.provenance.outcome == "model"
    assert ranking.provenance.pictures == Pictured(used=3, without=1)
    assert ranking.provenance.tokens.prompt == plain.provenance.tokens.prompt + 3 * TOKENS
    first, without, swapped = ({item.listing_id: item.score for item in one} for one in (ranking, plain, other))
    assert first["p1"] == pytest.approx(without["p1"], abs=1e-5)
    assert abs(first["p0"] - without["p0"]) > 1e-3
    assert abs(first["p0"] - swapped["p0"]) > 1e-3
    assert first["p2"] == pytest.approx(swapped["p2"], abs=1e-5)


def test_what_a_listing_says_is_no_picture(engine: TransformersEngine) -> None:
    """The text of the model's own stand-in for a picture stays text in data."""
    answer = engine.score([request(engine, "<image> red <image>", coloured("red"))])[0]
    assert answer
    assert answer.tokens.prompt == len(request(engine, "<image> red <image>").ids) + TOKENS


def test_the_most_tokens_of_a_picture(engine: TransformersEngine) -> None:
    assert engine.picture_tokens(384) == engine.picture_tokens(16) == TOKENS


def test_too_long_a_prompt_is_an_error(engine: TransformersEngine) -> None:
    text = "x" * (engine.context - 20)
    assert engine.score([request(engine, text[: -TOKENS - 5], coloured("red"))])
    with pytest.raises(EngineError, match="exceed the 2048"):
        engine.score([request(engine, text, coloured("red"))])


def test_a_template_may_want_texts_as_parts_of_a_message() -> None:
    plain, parts = SeeingTokenizer(make_tokenizer()), SeeingTokenizer(make_tokenizer(PARTS))
    assert parts.frame("Judge.") == plain.frame("Judge.")
    assert (
        (parts.turn(), parts.around_picture()) == (plain.turn(), "<image>\n") == (plain.turn(), plain.around_picture())
    )
    assert SeeingTokenizer(make_tokenizer(None)).around_picture() is None


def test_a_model_of_text_alone_is_refused_before_it_is_loaded(folder: Path, tmp_path: Path) -> None:
    config = transformers.LlamaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"is a LlamaForCausalLM .* looks at no pictures; leave pictures out, or"
    ) as why:
        Reranker(str(tmp_path), pictures=DATA)
    assert why.value.field == "pictures"
    with TransformersEngine(str(tmp_path)) as plain, pytest.raises(InputError, match="created without them") as why:
        Reranker(engine=plain, pictures=DATA)
    assert why.value.field == "pictures"
    with pytest.raises(InputError, match="int8 is for models of text alone"):
        TransformersEngine(str(folder), pictures=True, dtype="int8")


def test_a_folder_without_a_processor_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "processor_config.json").unlink()
    with pytest.raises(ModelError):
        TransformersEngine(str(copy), pictures=True)


def test_bfloat16_differs_little(folder: Path, engine: TransformersEngine) -> None:
    requests = [request(engine, text, coloured(colour)) for text, colour in zip(TEXTS, COLOURS, strict=True)]
    with TransformersEngine(str(folder), dtype="bfloat16", device="cpu", pictures=True) as rough:
        for one, other in zip(scores(engine, requests), scores(rough, requests), strict=True):
            assert one == pytest.approx(other, abs=0.3)
