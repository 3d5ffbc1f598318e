"""Prompt templates: TOML files of ``prompts/`` or of the user, read and checked."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
import tomli_w

from genrank.errors import ConfigError
from genrank.files import read_text
from genrank.prompting.fields import FIELD_VALUES
from genrank.prompting.history import EVENT_WORDS

Section = Literal["query", "history", "candidates"]
"""A part of the prompt that holds data."""
_LATER_KEYS = ("order", "identifiers", "values", "events", "answer_close", "past")  # not hashed where unused


class Limits(pydantic.BaseModel, extra="forbid", frozen=True):
    """The most tokens that a section may take, whatever the budget.

    Attributes:
        query: The query's text.
        history: All interactions together.
        interaction: One interaction.
        listing: One candidate, without its question.
        fields: One field of a listing, its label included; a field without an entry has the limits of its listing.
    """

    query: int = pydantic.Field(default=64, ge=8)
    history: int = pydantic.Field(default=256, ge=0)
    interaction: int = pydantic.Field(default=32, ge=8)
    listing: int = pydantic.Field(default=64, ge=8)
    fields: dict[str, Annotated[int, pydantic.Field(ge=1)]] = {}


class ReasonForm(pydantic.BaseModel, extra="forbid", frozen=True):
    """How a template asks for the reason of one listing.

    Attributes:
        system: What the model is now, at the head of the request.
        text: With ``{query}`` and ``{listing}``.
        chat_end: After it for a model with a chat template: what it is to do.
        plain_head: Before it for a model without one, which does better with examples.
        plain_end: After it for a model without one.
    """

    system: str
    text: str
    chat_end: str = ""
    plain_head: str = ""
    plain_end: str = ""


class Template(pydantic.BaseModel, extra="forbid", frozen=True):
    """A prompt template: a TOML file of ``prompts/``, or of the user.

    In a file, ``base = "inline"`` takes every key that is left out from that template of the house.

    Attributes:
        name: Its name.
        version: Counted up with each change of wording.
        description: What is special about it.
        source: Who wrote it, or the paper it follows.
        system: The system text.
        order: The sections in the order in which the model reads them. With a question the candidates come last,
            since a question is answered from what stands before it.
        query: With ``{query}``.
        history_head: Before the interactions; left out without a history.
        interaction: With ``{event}`` and ``{listing}``.
        events: Words for the events; those left out are in English.
        past: Behind a candidate that the history holds too, with ``{event}`` for the most that the shopper did with
            it, by its weight in `usefulness`. Empty: the model has to find that out itself.
        candidates_head: Before the candidates.
        candidate: With ``{identifier}`` and, at its end, ``{listing}``. Without an identifier only for ``inline``.
        identifiers: Whether candidates are named by ``letters`` or by ``numbers``.
        question: What the prompt asks after each candidate, for ``inline`` decoding; empty without one. May repeat
            ``{query}``, but not at its end.
        yes: Answers to the question that mean a fit; their first tokens are read.
        no: Answers that mean none.
        candidate_end: After each candidate (and its question).
        instruction: After all sections; not read by ``inline``. May repeat ``{query}``.
        plain_end: After the instruction where the model has no chat template.
        answer_open: Opening of a listwise answer, before the first identifier.
        answer_between: Between two identifiers.
        answer_close: After the last identifier.
        fields: Listing fields in the order of their weight, each with a format that holds ``{value}``.
        values: How a field's value is written: as ``text``; as ``lines``, with each attribute on a line of its own,
            indented by two spaces; or as ``json``, where a value that is cut loses its end.
        reason: How a reason is asked for; None: no reasons.
        limits: Token limits by section.
        digest: First 16 hex digits of the SHA-256 of the template's content.
    """

    name: str
    version: int
    description: str
    source: str
    system: str
    order: tuple[Section, ...] = get_args(Section)
    query: str
    history_head: str = ""
    interaction: str = ""
    events: dict[str, str] = {}
    past: str = ""
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
    reason: ReasonForm | None = None
    limits: Limits = Limits()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Template:
        split_form("query", self.query, "query")
        if sorted(self.order) != sorted(get_args(Section)):
            raise ValueError(f"order must hold each of {list(get_args(Section))} once, got {list(self.order)}")
        if split_form("candidate", self.candidate, *self._candidate_holds)[-1]:
            raise ValueError("candidate must end with {listing}; what follows it is question or candidate_end")
        if self.history_head:
            split_form("interaction", self.interaction, "event", "listing")
        if self.past:
            split_form("past", self.past, "event")
        if unknown := sorted(self.events.keys() - EVENT_WORDS):
            raise ValueError(f"events.{unknown[0]} is no event; known are {sorted(EVENT_WORDS)}")
        split_query_form("instruction", self.instruction)
        if self.question and not split_query_form("question", self.question)[-1]:
            raise ValueError("question must not end with {query}: its answer is read after the template's own words")
        if self.question and self.order[-1] != "candidates":
            raise ValueError("order must end with candidates where there is a question; it sees nothing behind it")
        if self.reason:
            split_form("reason.text", self.reason.text, "query", "listing")
        for field, form in self.fields.items():
            if field not in FIELD_VALUES:
                raise ValueError(f"fields.{field} is no listing field; known are {sorted(FIELD_VALUES)}")
            split_form(f"fields.{field}", form, "value")
        if next(iter(self.fields), "") != "title":
            raise ValueError("the first of fields must be title, which is never left out")
        if unknown := sorted(self.limits.fields.keys() - self.fields):
            raise ValueError(f"limits.fields.{unknown[0]} is none of fields, which are {list(self.fields)}")
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
    def decodings(self) -> tuple[str, ...]:
        """The decodings that it is written for."""
        return tuple(name for name in ("inline", "first-token", "listwise") if not self.misfit(name))

    def misfit(self, decoding: str) -> str:
        """Why it is not written for a decoding; empty when it is."""
        if decoding == "inline":
            return "" if self.question else "asks no question"
        if "identifier" not in self._candidate_holds:
            return "names no candidates"
        return "" if self.instruction else "gives no instruction"

    def check(self, *, inline: bool) -> None:
        """Refuse a way of reading that the template has no place for.

        Raises:
            ConfigError: When `inline` and it asks no question; without `inline`, when it names no candidates.
        """
        if inline and not self.question:
            raise ConfigError(f"prompt template {self.name} asks no question; decoding 'inline' needs one that does")
        if not inline and "identifier" not in self._candidate_holds:
            raise ConfigError(f"prompt template {self.name} names no candidates; only decoding 'inline' can do without")

    def to_toml(self) -> str:
        """The whole template as a TOML file, with nothing left to a base or a default."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    @property
    def _candidate_holds(self) -> tuple[str, ...]:
        """The placeholders of `candidate`."""
        return ("identifier", "listing") if "{identifier}" in self.candidate else ("listing",)


def split_form(field: str, form: str, *names: str) -> list[str]:
    """The texts around the placeholders of `form`, which must hold each of `names` once, in this order."""
    parts = re.split(r"\{([a-z]+)\}", form)
    if tuple(parts[1::2]) != names:
        wanted, found = (", ".join(f"{{{name}}}" for name in group) or "none" for group in (names, parts[1::2]))
        raise ValueError(f"{field} must hold the placeholders {wanted}, in this order; found {found}")
    return parts[::2]


def split_query_form(field: str, form: str) -> list[str]:
    """The texts around ``{query}``, which `form` may hold once."""
    return split_form(field, form, *(["query"] if "{query}" in form else []))


def load_template(name: str | Path) -> Template:
    """Load a prompt template by its name, or from a ``.toml`` file.

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
        return Template.model_validate(values)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"prompt template {name}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"prompt template {name}: not TOML: nested too deeply") from None
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"prompt template {name}: " + (f"{key}: {message}" if key else message)) from None


def _read(name: str | Path) -> dict[str, Any]:
    """The keys of a template's file, without those of its base."""
    if str(name).endswith(".toml"):
        path = Path(name)
        try:
            text = read_text(path)
        except OSError as error:
            raise ConfigError(f"cannot read the prompt template {path}: {error.strerror or error}") from None
        except ValueError as error:
            raise ConfigError(f"cannot read the prompt template {path}: {error}") from None
    else:
        resource = importlib.resources.files("genrank.prompts") / f"{name}.toml"
        if not resource.is_file():
            raise ConfigError(f"no prompt template {name!r}; known are {template_names()}, or pass a .toml file")
        text = resource.read_text(encoding="utf-8")
    return tomllib.loads(text)


def template_names() -> list[str]:
    """Names of the templates that ship with genrank."""
    folder = importlib.resources.files("genrank.prompts")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
