"""Reads and checks prompt templates: the TOML files in ``prompts/``, or your own."""

from __future__ import annotations

import functools
import hashlib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
import tomli_w

from genrank.errors import ConfigError, first_problem
from genrank.files import prompts_folder, read_text
from genrank.prompting.fields import FIELD_VALUES
from genrank.prompting.history import EVENT_WORDS
from genrank.prompting.intent import IntentForm
from genrank.text.language import Language
from genrank.types import Decoding

Section = Literal["query", "history", "candidates"]
"""A part of the prompt that holds data."""
_LATER_KEYS = (
    "order",
    "identifiers",
    "values",
    "events",
    "answer_close",
    "past",
    "chat",
    "grade",
    "intent",
)  # not hashed where unused


class Limits(pydantic.BaseModel, extra="forbid", frozen=True):
    """The most tokens of each section, whatever the budget.

    Attributes:
        query: The query's text.
        history: All interactions together.
        interaction: One interaction.
        listing: One candidate, without its question.
        fields: One field of a listing, its label included; a field without an entry is limited only by `listing`.
    """

    query: int = pydantic.Field(default=64, ge=8)
    history: int = pydantic.Field(default=256, ge=0)
    interaction: int = pydantic.Field(default=32, ge=8)
    listing: int = pydantic.Field(default=64, ge=8)
    fields: dict[str, Annotated[int, pydantic.Field(ge=1)]] = {}


class ReasonExample(pydantic.BaseModel, extra="forbid", frozen=True):
    """A request for a reason with a good answer, which the model reads before its own.

    Attributes:
        query: What the shopper typed.
        history: The shopper's past as it stands in a prompt, with its heading and its line ends; may be empty.
        listing: The listing as it stands in a prompt.
        reason: The answer: one sentence.
    """

    query: str
    history: str = ""
    listing: str
    reason: str


class ReasonForm(pydantic.BaseModel, extra="forbid", frozen=True):
    """How the reason of one listing is asked for, in the words of one language.

    A reason has a conversation of its own, the same for every decoding: the system text, the examples as turns, then
    the query, the history, the listing and the task. A model without a chat template reads the same as plain text.

    Attributes:
        system: The system text.
        query: Holds ``{query}``.
        history_head: Comes before the interactions; left out without a history.
        interaction: Holds ``{event}`` and ``{listing}``.
        events: Words for the events; those left out are in English.
        listing: Holds ``{listing}`` at its end.
        task: Comes after the listing, for a model with a chat template.
        plain_end: Comes after the listing for a model without one; the reason follows, after a space.
        fields: Listing fields, the most important first, each with a format that holds ``{value}``.
        limits: Token limits by section.
        examples: Requests with their answers; a request with a history shows those with one, any other those without.
            From a single one a small model copies the facts.
    """

    system: str
    query: str
    history_head: str = ""
    interaction: str = ""
    events: dict[str, str] = {}
    listing: str
    task: str
    plain_end: str
    fields: dict[str, str]
    limits: Limits = Limits()
    examples: tuple[ReasonExample, ...]

    @pydantic.model_validator(mode="after")
    def _check(self) -> ReasonForm:
        self.template("reason", chat=True)
        return self

    def template(self, name: str, *, chat: bool) -> Template:
        """The form as the template of a single listing's prompt, without its examples.

        Args:
            name: The template's name.
            chat: Whether the model has a chat template.
        """
        if split_form("listing", self.listing, "listing")[-1]:
            raise ValueError("listing must end with {listing}; put what follows it into task or plain_end")
        return Template(
            name=name,
            version=1,
            description="",
            source="",
            system=self.system,
            query=self.query,
            history_head=self.history_head,
            interaction=self.interaction,
            events=self.events,
            candidate=self.listing,
            instruction=self.task if chat else self.plain_end,
            fields=self.fields,
            limits=self.limits,
        )


class Template(pydantic.BaseModel, extra="forbid", frozen=True):
    """A prompt template: a TOML file in ``prompts/``, or your own.

    Its keys decide which decodings it supports: with `question` it is for ``inline``; with `instruction` and an
    ``{identifier}`` in `candidate`, for ``first-token`` and ``listwise``; with `instruction` (or, without `chat`, with
    `plain_end`), `yes` and `no`, and neither `question` nor ``{identifier}``, for ``pointwise``, where a prompt holds a
    single candidate.

    In a file, ``base = "inline"`` takes every key that is left out from the template ``inline``; ``listwise`` and
    ``pointwise`` are the other bases.

    Attributes:
        name: The template's name.
        version: Increased with each change of wording.
        description: What is special about the template.
        source: Who wrote it, or the paper it follows.
        system: The system text.
        chat: Whether to use the model's chat template, if it has one. A trained model does not need the tokens that
            this takes.
        order: The sections in the order in which the model reads them. With a question, the candidates come last: the
            model answers a question from the text before it. For ``pointwise``, what comes before the query is the same
            for every query, so its keys and values can be kept.
        query: Holds ``{query}``.
        intent: How what the query means is said, right after the query; left out where it is not known. None: the
            prompt does not say. In a file, the table ``[intent]``.
        history_head: Comes before the interactions; left out without a history.
        interaction: Holds ``{event}`` and ``{listing}``.
        events: Words for the events; those left out are in English.
        past: Comes after a candidate that is also in the history, and holds ``{event}``: of the shopper's events with
            it, the one with the highest weight in `usefulness`. Empty: the prompt does not say.
        grade: Comes after a candidate, and holds ``{grade}``, which says how the first stage scored it: 0 for the
            request's lowest score to 9 for its highest, in equal steps. Left out where the scores are equal or a
            candidate has none. Empty: the prompt does not say.
        candidates_head: Comes before the candidates.
        candidate: Holds ``{identifier}`` and, at its end, ``{listing}``. ``inline`` works without an identifier too,
            ``pointwise`` only without one.
        identifiers: Whether candidates are named by ``letters`` or by ``numbers``.
        question: The question after each candidate, for ``inline`` decoding; may be empty. May repeat ``{query}``, but
            not at its end.
        yes: Answers to the question, or for ``pointwise`` to the instruction, that mean a fit; only their first tokens
            are read.
        no: Answers that mean no fit.
        candidate_end: Comes after each candidate (and its question).
        instruction: Comes after all sections, except for ``inline``. May repeat ``{query}``. For ``pointwise`` it is
            the question.
        plain_end: Comes after the instruction if the model has no chat template.
        answer_open: Beginning of a listwise answer, before the first identifier.
        answer_between: Comes between two identifiers.
        answer_close: Comes after the last identifier.
        fields: Listing fields, the most important first, each with a format that holds ``{value}``.
        values: How a field's value is written: as ``text``; as ``lines``, with each attribute on its own line, indented
            by two spaces; or as ``json``, where a value that is cut loses its end.
        reason: How to ask for a reason, by the language of the query (``en``, ``zh``, ``other``); the first form serves
            the languages without one. Empty: no reasons. In a file, ``reason = "pointwise"`` takes the table of the
            template ``pointwise``.
        limits: Token limits by section.
        digest: First 16 hex digits of the SHA-256 of the template's content.
    """

    name: str
    version: int
    description: str
    source: str
    system: str
    chat: bool = True
    order: tuple[Section, ...] = get_args(Section)
    query: str
    intent: IntentForm | None = None
    history_head: str = ""
    interaction: str = ""
    events: dict[str, str] = {}
    past: str = ""
    grade: str = ""
    candidates_head: str = ""
    candidate: str
    identifiers: Literal["letters", "numbers"] = "letters"
    question: str = ""
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()
    candidate_end: str = "\n"
    instruction: str = ""
    plain_end: str = ""
    answer_open: str = "["
    answer_between: str = "] > ["
    answer_close: str = "]"
    fields: dict[str, str]
    values: Literal["text", "lines", "json"] = "text"
    reason: dict[Language, ReasonForm] = {}
    limits: Limits = Limits()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Template:
        split_form("query", self.query, "query")
        if sorted(self.order) != sorted(get_args(Section)):
            raise ValueError(f"order must hold each of {list(get_args(Section))} once, got {list(self.order)}")
        if split_form("candidate", self.candidate, *self._candidate_holds)[-1]:
            raise ValueError("candidate must end with {listing}; put what follows it into question or candidate_end")
        if self.history_head:
            split_form("interaction", self.interaction, "event", "listing")
        if self.past:
            split_form("past", self.past, "event")
        if self.grade:
            split_form("grade", self.grade, "grade")
        if unknown := sorted(self.events.keys() - EVENT_WORDS):
            raise ValueError(f"events.{unknown[0]} is not an event; known are {sorted(EVENT_WORDS)}")
        split_query_form("instruction", self.instruction)
        if self.question and not split_query_form("question", self.question)[-1]:
            raise ValueError("question must not end with {query}: its answer is read after the template's own words")
        if self.question and self.order[-1] != "candidates":
            raise ValueError("order must end with candidates if there is a question; the model sees nothing after it")
        for field, form in self.fields.items():
            if field not in FIELD_VALUES:
                raise ValueError(f"fields.{field} is not a listing field; known are {sorted(FIELD_VALUES)}")
            split_form(f"fields.{field}", form, "value")
        if next(iter(self.fields), "") != "title":
            raise ValueError("the first of fields must be title, which is never left out")
        if unknown := sorted(self.limits.fields.keys() - self.fields):
            raise ValueError(f"limits.fields.{unknown[0]} is not one of fields, which are {list(self.fields)}")
        if self.question and not (self.yes and self.no):
            raise ValueError("a question needs yes and no answers")
        return self

    @functools.cached_property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the template's content."""
        unused = {key for key in _LATER_KEYS if getattr(self, key) == Template.model_fields[key].default}
        exclude: dict[str, Any] = dict.fromkeys(("description", "source", *unused), True)
        content = self.model_dump_json(exclude=exclude if self.limits.fields else exclude | {"limits": {"fields"}})
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """The decodings that the template supports."""
        return tuple(name for name in get_args(Decoding) if not self.misfit(name))

    def misfit(self, decoding: str) -> str:
        """Why the template does not support a decoding; empty when it does."""
        if decoding == "inline":
            return "" if self.question else "asks no question"
        if decoding == "pointwise":
            if self.question or "identifier" in self._candidate_holds:
                return "shows several candidates"
            asks = self.instruction or (self.plain_end and not self.chat)
            return "" if asks and self.yes and self.no else "does not ask for yes or no"
        if "identifier" not in self._candidate_holds:
            return "names no candidates"
        return "" if self.instruction else "gives no instruction"

    def check(self, decoding: Decoding) -> None:
        """Check that the template supports a decoding.

        Raises:
            ConfigError: When it does not; says why, and which decodings it supports.
        """
        if why := self.misfit(decoding):
            suited = " and ".join(self.decodings) or "no decoding"
            raise ConfigError(f"prompt template {self.name} {why}; it suits {suited}, not {decoding}")

    def to_toml(self) -> str:
        """The whole template as a TOML file that needs no base and no defaults."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    @property
    def _candidate_holds(self) -> tuple[str, ...]:
        """The placeholders of `candidate`."""
        return ("identifier", "listing") if "{identifier}" in self.candidate else ("listing",)


def split_form(field: str, form: str, *names: str) -> list[str]:
    """The texts around the placeholders in `form`, which must hold each of `names` once, in this order."""
    parts = re.split(r"\{([a-z]+)\}", form)
    if tuple(parts[1::2]) != names:
        wanted, found = (", ".join(f"{{{name}}}" for name in group) or "none" for group in (names, parts[1::2]))
        raise ValueError(f"{field} must hold the placeholders {wanted}, in this order; found {found}")
    return parts[::2]


def split_query_form(field: str, form: str) -> list[str]:
    """The texts around ``{query}``, which `form` may hold once."""
    return split_form(field, form, *(["query"] if "{query}" in form else []))


def load_template(name: str | Path) -> Template:
    """Load a prompt template by name, or from a ``.toml`` file.

    Raises:
        ConfigError: When there is no such template, or it is not valid; the message names the key.
    """
    try:
        values = _read(name)
        if "base" in values:
            base = values.pop("base")
            roots = [known for known in template_names() if "base" not in _read(known)]
            if base not in roots:
                raise ConfigError(f"prompt template {name}: base: must be one of {roots}, got {base!r}")
            values = _read(base) | values
        if isinstance(values.get("reason"), str):
            values["reason"] = _reason_of(values["reason"], name)
        return Template.model_validate(values)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"prompt template {name}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"prompt template {name}: not TOML: nested too deeply") from None
    except pydantic.ValidationError as error:
        key, message = first_problem(error.errors(include_url=False))
        raise ConfigError(f"prompt template {name}: " + (f"{key}: {message}" if key else message)) from None


def _reason_of(other: str, name: str | Path) -> Any:
    """The reason prompt of another template."""
    try:
        return _read(other).get("reason")
    except ConfigError as error:
        raise ConfigError(f"prompt template {name}: reason: {error}") from None


def _read(name: str | Path) -> dict[str, Any]:
    """The keys in a template's file, without those of its base."""
    if str(name).endswith(".toml"):
        path = Path(name)
        try:
            text = read_text(path)
        except OSError as error:
            raise ConfigError(f"cannot read the prompt template {path}: {error.strerror or error}") from None
        except ValueError as error:
            raise ConfigError(f"cannot read the prompt template {path}: {error}") from None
    else:
        resource = prompts_folder() / f"{name}.toml"
        if not resource.is_file():
            raise ConfigError(f"no prompt template {name!r}; known are {template_names()}, or pass a .toml file")
        text = resource.read_text(encoding="utf-8")
    return tomllib.loads(text)


def template_names() -> list[str]:
    """Names of the templates that ship with genrank."""
    folder = prompts_folder()
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
