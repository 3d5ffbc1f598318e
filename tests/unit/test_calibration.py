import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from genrank.calibration import Calibration, load_calibration, save_calibration, stored_calibration
from genrank.errors import ConfigError, InputError

FITTED = Calibration("inline", 2.5, -0.5, "crowd dev, 30 queries", "m", "0123456789abcdef")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_inline_bends_the_log_odds() -> None:
    found = Calibration("inline", 2.0, bias=0.3).apply([sigmoid(3.0), sigmoid(-1.0), 0.5])
    assert found == pytest.approx([sigmoid(3.0 / 2 + 0.3), sigmoid(-1.0 / 2 + 0.3), sigmoid(0.3)])


def test_first_token_bends_the_softmax() -> None:
    weights = [math.exp(x) for x in (3.0, 1.0, -2.0)]
    softer = [math.exp(x / 4) for x in (3.0, 1.0, -2.0)]
    found = Calibration("first-token", 4.0).apply([weight / sum(weights) for weight in weights])
    assert found == pytest.approx([weight / sum(softer) for weight in softer])


@pytest.mark.parametrize("decoding", ["inline", "first-token"])
def test_temperature_1_changes_nothing(decoding: str) -> None:
    scores = [0.2, 0.5, 0.3]
    assert Calibration(decoding, 1.0).apply(scores) == pytest.approx(scores)  # type: ignore[arg-type]


SCORES = st.floats(0, 1)


@example([0.0, 0.0], "first-token", 1.0, 0.0)
@example([1.0, 1 - 2**-53, 1 - 2**-52], "inline", 1e-6, 500.0)
@example([0.3, math.nextafter(0.3, 1), 0.0, 5e-324], "inline", 1e6, -500.0)
@example([1.0, 0.0, 1e-300], "first-token", 1e-6, 0.0)
@given(
    st.lists(SCORES, max_size=20),
    st.sampled_from(["inline", "first-token"]),
    st.floats(1e-6, 1e6),
    st.floats(-500, 500),
)
def test_the_order_never_changes(scores: list[float], decoding: str, temperature: float, bias: float) -> None:
    calibration = Calibration(decoding, temperature, bias if decoding == "inline" else 0.0)  # type: ignore[arg-type]
    found = calibration.apply(scores)
    assert all(0 <= chance <= 1 for chance in found)
    for i in range(len(scores)):
        for j in range(len(scores)):
            assert (scores[i] < scores[j]) == (found[i] < found[j])
    if scores and decoding == "first-token":
        assert sum(found) == pytest.approx(1)


def test_an_empty_window_is_empty() -> None:
    assert Calibration("first-token", 2.0).apply([]) == Calibration("inline", 2.0).apply([]) == []


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan, math.inf])
def test_scores_are_checked(score: float) -> None:
    with pytest.raises(InputError, match=r"scores\[1\]: must be 0 to 1, got"):
        FITTED.apply([0.5, score])


def test_scores_of_something_else_are_refused() -> None:
    FITTED.check(decoding="inline", prompt_hash="0123456789abcdef", model="m")
    Calibration("inline", 2.0).check(decoding="inline", prompt_hash="any", model="any")
    for changed, words in (
        ({"decoding": "listwise"}, "fitted for the decoding inline, not for listwise"),
        ({"prompt_hash": "ff"}, "fitted with the prompt hash 0123456789abcdef, not ff"),
        ({"model": "n"}, r"fitted with the model m, not n; fit one .* with python -m eval.calibrate"),
    ):
        with pytest.raises(ConfigError, match=words):
            FITTED.check(**{"decoding": "inline", "prompt_hash": "0123456789abcdef", "model": "m"} | changed)


def test_is_kept_beside_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "genrank.json").write_text('{"trained_on": "x", "calibration": 1}', encoding="utf-8")
    path = save_calibration(FITTED, tmp_path)
    assert path == tmp_path / "genrank.json"
    assert load_calibration(tmp_path, "inline") == load_calibration(str(path), "inline") == FITTED
    assert json.loads(path.read_text(encoding="utf-8"))["trained_on"] == "x"
    assert [p.name for p in tmp_path.iterdir()] == ["genrank.json"]


def test_is_kept_in_a_file_or_folder_that_is_made(tmp_path: Path) -> None:
    for path, file in (("a/mine.json", "a/mine.json"), ("b", "b/genrank.json")):
        assert save_calibration(FITTED, tmp_path / path) == tmp_path / file
        assert load_calibration(tmp_path / path, "inline") == FITTED


def test_a_broken_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "genrank.json"
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"genrank\.json: must hold a JSON object, got list"):
        save_calibration(FITTED, tmp_path)
    assert path.read_text(encoding="utf-8") == "[1]"


def test_each_decoding_has_its_own(tmp_path: Path) -> None:
    other = Calibration("first-token", 3.0)
    for calibration in (FITTED, other, FITTED):
        save_calibration(calibration, tmp_path)
    assert load_calibration(tmp_path, "inline") == FITTED
    assert load_calibration(tmp_path, "first-token") == other


USE = {"decoding": "inline", "prompt_hash": "0123456789abcdef", "model": "m"}


def test_an_adapters_own_is_taken_only_where_it_fits(tmp_path: Path) -> None:
    assert stored_calibration(tmp_path, **USE) is None
    (tmp_path / "genrank.json").write_text('{"trained_on": "x"}', encoding="utf-8")
    assert stored_calibration(tmp_path, **USE) is None
    save_calibration(FITTED, tmp_path)
    assert stored_calibration(tmp_path, **USE) == FITTED
    for other in ({"decoding": "first-token"}, {"prompt_hash": "ff"}, {"model": "n"}):
        assert stored_calibration(tmp_path, **USE | other) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "has no calibration.inline; fit one with python -m eval.calibrate"),
        ('{"calibration": []}', "has no calibration.inline"),
        ('{"calibration": {"inline": 1}}', "has no calibration.inline"),
        ({}, r"calibration\.inline\.temperature: is missing"),
        ({"temperature": 2, "temprature": 1}, r"\.temprature: unknown key; the known keys are temperature, bias"),
        ({"temperature": 2, "decoding": "inline"}, r"\.decoding: unknown key"),
        ({"temperature": 0}, r"calibration\.temperature: must be a number within 1e-06\.\.1e\+06, got 0"),
        ({"temperature": math.inf}, r"calibration\.temperature: must be a number within .*, got inf"),
        ({"temperature": "2"}, r"calibration\.temperature: must be a number within .*, got '2'"),
        ({"temperature": True}, r"calibration\.temperature: must be a number within .*, got True"),
        ({"temperature": 10**400}, r"calibration\.temperature: must be a number"),
        ({"temperature": 2, "bias": math.nan}, r"calibration\.bias: must be a number within -500\.\.500, got nan"),
        ({"temperature": 2, "bias": 501}, r"calibration\.bias: must be a number within -500\.\.500, got 501"),
        ({"temperature": 2, "model": 3}, r"calibration\.model: must be a text, got 3"),
        ({"temperature": None}, r"calibration\.inline\.temperature: is missing"),
    ],
)
def test_a_broken_calibration_is_named(tmp_path: Path, text: object, words: str) -> None:
    written = text if isinstance(text, str) else json.dumps({"calibration": {"inline": text}})
    (tmp_path / "genrank.json").write_text(written, encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        load_calibration(tmp_path, "inline")
    assert str(tmp_path / "genrank.json") in str(caught.value)


@pytest.mark.parametrize("decoding", ["listwise", "", []])
def test_other_decodings_are_refused(decoding: object) -> None:
    with pytest.raises(ConfigError, match=r"calibration\.decoding: must be pointwise, inline or first-token, got"):
        Calibration(decoding, 2.0)  # type: ignore[arg-type]


def test_first_token_has_no_bias() -> None:
    with pytest.raises(ConfigError, match=r"calibration\.bias: must be 0 for first-token"):
        Calibration("first-token", 2.0, bias=1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "mine.json"):
        with pytest.raises(ConfigError, match=r"there is no .*\.json; fit one with python -m eval\.calibrate"):
            load_calibration(path, "inline")
    (tmp_path / "latin.json").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not JSON"):
        load_calibration(tmp_path / "latin.json", "inline")


def test_null_in_an_optional_key_is_as_if_left_out(tmp_path: Path) -> None:
    stored = {"temperature": 2, "bias": None, "fitted_on": None, "model": None, "prompt_hash": None}
    (tmp_path / "genrank.json").write_text(json.dumps({"calibration": {"inline": stored}}), encoding="utf-8")
    assert load_calibration(tmp_path, "inline") == Calibration("inline", 2)
