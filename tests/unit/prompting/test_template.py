from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w

from genrank.errors import ConfigError
from genrank.prompting.template import load_template, template_names
from genrank.types import Decoding
from tests.prompt_rig import FIELDS, make_template

ENGLISH: dict[str, Any] = FIELDS["reason"]["en"]


def _toml(fields: dict[str, Any]) -> str:
    return tomli_w.dumps(fields)


def test_the_templates_of_the_house_load_and_are_named_like_their_files() -> None:
    assert {"inline", "listwise"} <= set(template_names())
    for name in template_names():
        assert load_template(name).name == name


def test_a_template_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(_toml(FIELDS), encoding="utf-8")
    assert load_template(path) == load_template(str(path)) == make_template()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "Query:"}, "query must hold the placeholders {query}, in this order; found none"),
        ({"query": "{query} {query}"}, "query must hold the placeholders {query}"),
        ({"candidate": "{listing} [{identifier}]"}, "candidate must hold the placeholders {identifier}, {listing}"),
        ({"candidate": "[{identifier}] {listing}."}, "candidate must end with {listing}"),
        ({"candidate": "[{identifier}] {identifier}{listing}"}, "candidate must hold the placeholders"),
        ({"order": ["query", "candidates"]}, "order must hold each of ['query', 'history', 'candidates'] once"),
        ({"order": ["query", "query", "candidates"]}, "order must hold each of"),
        ({"order": ["candidates", "history", "query"]}, "order must end with candidates if there is a question"),
        ({"order": ["system"]}, "order[0]: "),
        ({"question": "\nFit for {query}"}, "question must not end with {query}"),
        ({"question": "\n{query}, {query}?"}, "question must hold the placeholders {query}"),
        ({"question": "\nFit {listing}?"}, "question must hold the placeholders none"),
        ({"instruction": "Rank {listing}."}, "instruction must hold the placeholders none"),
        ({"events": {"buy": "bought"}}, "events.buy is not an event; known are ['cart', 'click'"),
        ({"past": " (before)"}, "past must hold the placeholders {event}"),
        ({"identifiers": "roman"}, "identifiers: "),
        ({"values": "xml"}, "values: "),
        ({"base": "nothing"}, "base: must be one of ['inline', 'listwise', 'pointwise'], got 'nothing'"),
        ({"base": "inline-json"}, "base: must be one of ['inline', 'listwise', 'pointwise'], got 'inline-json'"),
        ({"interaction": "- {listing}\n"}, "interaction must hold the placeholders {event}, {listing}"),
        ({"interaction": ""}, "interaction must hold the placeholders {event}, {listing}"),
        (
            {"reason": {"en": {**ENGLISH, "query": "Why?"}}},
            "reason.en: query must hold the placeholders {query}, in this order; found none",
        ),
        ({"reason": {"en": {**ENGLISH, "listing": "{listing}."}}}, "reason.en: listing must end with {listing}"),
        (
            {"reason": {"en": {**ENGLISH, "fields": {"title": "{value}", "colour": "{value}"}}}},
            "reason.en: fields.colour",
        ),
        ({"reason": {"de": ENGLISH}}, "reason.de"),
        ({"fields": {"title": "{value}", "colour": "{value}"}}, "fields.colour is not a listing field; known are"),
        ({"fields": {"title": "{value}", "brand": "brand"}}, "fields.brand must hold the placeholders {value}"),
        ({"fields": {"brand": "{value}", "title": "{value}"}}, "the first of fields must be title"),
        ({"fields": {}}, "the first of fields must be title"),
        ({"yes": []}, "a question needs yes and no answers"),
        ({"no": []}, "a question needs yes and no answers"),
        ({"version": "one"}, "version: "),
        ({"systen": "Judge."}, "systen: "),
        ({"limits": {"listing": 7}}, "limits.listing: "),
        ({"limits": {"history": -1}}, "limits.history: "),
        ({"limits": {"candidate": 64}}, "limits.candidate: "),
    ],
)
def test_a_wrong_template_is_refused_with_the_key(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(_toml(FIELDS | change), encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(f"prompt template {path}: {message}")):
        load_template(path)


@pytest.mark.parametrize("missing", ["name", "version", "system", "query", "candidate", "fields"])
def test_a_missing_key_is_named(missing: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(_toml({key: value for key, value in FIELDS.items() if key != missing}), encoding="utf-8")
    with pytest.raises(ConfigError, match=f": {missing}: "):
        load_template(path)


def test_a_template_takes_what_it_leaves_out_from_its_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nbase = "inline"\nyes = [" sure"]\n[fields]\ntitle = "{value}"\n', encoding="utf-8")
    base = load_template("inline")
    change = {"name": "mine", "yes": (" sure",), "fields": {"title": "{value}"}}
    assert load_template(path) == base.model_copy(update=change)


@pytest.mark.parametrize("name", template_names())
def test_a_template_as_toml_is_the_same_template(name: str, tmp_path: Path) -> None:
    template = load_template(name)
    path = tmp_path / "again.toml"
    path.write_text(template.to_toml(), encoding="utf-8")
    assert load_template(path) == template
    assert load_template(path).digest == template.digest


def test_every_text_can_be_written_as_toml(tmp_path: Path) -> None:
    odd = "".join(map(chr, range(256))) + '"\\\u2028连衣裙'
    path = tmp_path / "odd.toml"
    path.write_text(make_template(system=odd, reason={}).to_toml(), encoding="utf-8", newline="")
    assert load_template(path).system == odd


def test_the_decodings_that_a_template_suits() -> None:
    assert make_template().decodings == ("inline", "first-token", "listwise")
    assert make_template(question="").decodings == ("first-token", "listwise")
    assert make_template(instruction="").decodings == ("inline",)
    assert make_template(candidate="{listing}").decodings == ("inline",)
    assert make_template(candidate="{listing}").misfit("listwise") == "names no candidates"
    shipped = {name: load_template(name).decodings for name in template_names()}
    assert all(shipped.values())
    assert set(get_args(Decoding)) == {decoding for found in shipped.values() for decoding in found}


def test_what_a_template_for_pointwise_needs() -> None:
    asked = {"question": "", "candidate": "{listing}"}
    assert make_template(**asked).decodings == ("pointwise",)
    assert make_template(**asked, instruction="", chat=False).decodings == ("pointwise",), "the plain end asks"
    assert make_template(**asked, instruction="").misfit("pointwise") == "does not ask for yes or no"
    assert make_template(**asked, yes=[], no=[]).misfit("pointwise") == "does not ask for yes or no"
    assert make_template().misfit("pointwise") == "shows several candidates"


def test_an_unknown_template_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=re.escape("no prompt template 'inlin'; known are ['inline', 'inline-bare', ")
    ):
        load_template("inlin")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot read"), (b"\xff\xfe", "cannot read"), (b"a =", "not TOML")]
)
def test_a_template_file_that_cannot_be_read(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_template(path)
    assert str(path) in str(caught.value)


def test_the_digest_is_that_of_what_the_model_reads() -> None:
    digest = make_template().digest
    assert re.fullmatch("[0-9a-f]{16}", digest)
    assert make_template(description="other", source="other").digest == digest
    reordered = {name: FIELDS["fields"][name] for name in ("title", "attributes", "brand")}
    for change in (
        {"system": "Judge!"},
        {"version": 2},
        {"yes": [" yes"]},
        {"limits": {"listing": 63}},
        {"fields": reordered},
        {"order": ["history", "query", "candidates"]},
        {"identifiers": "numbers"},
        {"values": "json"},
        {"events": {"view": "saw"}},
        {"past": " ({event} before)"},
    ):
        assert make_template(**change).digest != digest, change


def test_a_key_that_came_later_leaves_the_digests_of_before() -> None:
    """What was trained with a template says its digest: it is that of its version."""
    assert (load_template("inline").digest, load_template("listwise").digest) == (
        "4500d8d2d0b04428",
        "6580d989d40f6388",
    )
    assert (
        make_template(identifiers="letters", order=["query", "history", "candidates"]).digest == make_template().digest
    )


def test_field_limits_can_be_written_as_toml(tmp_path: Path) -> None:
    template = make_template(limits={"fields": {"title": 6}})
    path = tmp_path / "mine.toml"
    path.write_text(template.to_toml(), encoding="utf-8")
    assert load_template(path) == template


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_template_file_may_begin_with_a_byte_order_mark(bom: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(bom + _toml(FIELDS).encode())
    assert load_template(path) == make_template()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'name = "\xff"', "text that is not UTF-8: the byte 0xff"),
        (b"\xff\xfename", "UTF-16 in place of UTF-8 text; save it as UTF-8"),
        (b'\xef\xbb\xbfname = "\xe4"', "text that is not UTF-8: the byte 0xe4"),
    ],
)
def test_a_template_file_in_another_encoding_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"cannot read the prompt template {re.escape(str(path))}: {words}"):
        load_template(path)


def test_a_template_file_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("name = " + "[" * 5000)
    with pytest.raises(ConfigError, match="not TOML: nested too deeply"):
        load_template(path)


def test_a_template_takes_its_reason_prompt_from_another() -> None:
    assert load_template("inline").reason == load_template("pointwise").reason
    assert set(load_template("inline-zh").reason) == {"en", "zh"}


def test_a_reason_prompt_that_is_taken_from_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(_toml(FIELDS | {"reason": "nowhere"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.toml: reason: no prompt template 'nowhere'"):
        load_template(path)


def test_a_reason_prompt_of_ones_own_replaces_that_of_the_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        _toml(
            {"name": "mine", "version": 1, "base": "inline", "reason": {"en": ENGLISH}, "description": "", "source": ""}
        ),
        encoding="utf-8",
    )
    (form,) = load_template(path).reason.values()
    assert form.system == "Say why."
