"""From a query, a history and a window of candidates to the model's tokens, inside a token budget.

A prompt is a sequence of parts, each made of tokens on its own, so that counting is exact addition and a cut is a
cut of tokens. Only the frame (the model's chat template around the template's system text) may hold special tokens;
everything else is data and is tokenised with special tokens split into ordinary text, so a listing cannot speak in
another role. Training renders through this same code.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import itertools
import json
import re
import string
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast, get_args

import pydantic

from genrank.errors import BudgetError, ConfigError, InputError
from genrank.text import clean, fold, neutralise, number_text
from genrank.types import Candidate, Interaction, Listing, Query

IDENTIFIERS = string.ascii_uppercase + string.ascii_lowercase
"""Names for the candidates of a window, in this order; each must be one token."""

NUMBERS = tuple(str(number) for number in range(1, 100))
"""The same for templates that count their candidates; many tokenizers make one token of 1 to 9 only."""

MOST_IDENTIFIERS = 100
"""The most candidates that one window names; past the letters come pairs of letters (``AA``) of one token."""

Section = Literal["query", "history", "candidates"]
"""A part of the prompt that holds data."""

MIN_LISTING_TOKENS = 4
_MIN_PART_TOKENS = 4
_CHARS_READ_PER_TOKEN = 8
_LONGEST_KEPT = 4096  # characters of a value whose text is kept for the next prompt
_CHARS_NEUTRALISED = 4  # for each character that may be shown
_EVENTS = {"view": "viewed", "click": "clicked", "cart": "put in cart", "purchase": "bought", "rating": "rated"}
_LATER_KEYS = ("order", "identifiers", "values", "events", "answer_close", "past")  # not hashed where unused


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as tokens.

    Attributes:
        ids: ``[n]`` token ids.
        starts: ``[n]`` place of each token's first character in the text, 0-based.
        ends: ``[n]`` place after each token's last character. Tokens that share a character (byte-level
            tokenizers split rare ones) share its place.
    """

    ids: Sequence[int]
    starts: Sequence[int]
    ends: Sequence[int]

    def cut(self, tokens: int) -> list[int]:
        """The longest prefix of at most `tokens` tokens that ends between two characters."""
        return list(self.head(tokens).ids)

    def head(self, tokens: int) -> Encoded:
        """The same as `cut`, with its places."""
        if tokens >= len(self.ids):
            return self
        while tokens > 0 and self.starts[tokens] < self.ends[tokens - 1]:
            tokens -= 1
        tokens = max(tokens, 0)
        return Encoded(self.ids[:tokens], self.starts[:tokens], self.ends[:tokens])


class Tokenizer(Protocol):
    """What prompting needs of a model's tokenizer."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenise texts as data: a special token's text becomes ordinary tokens, nothing is added."""

    def frame(self, system: str) -> tuple[list[int], list[int]]:
        """The tokens before and after the user's turn, special tokens included.

        With a chat template: the system turn and the user turn's opening; the user turn's end and the opening
        of the answer. Without one: beginning of sequence and the system text; nothing.
        """

    def turn(self) -> list[int]:
        """The tokens between the end of the model's answer and the next text of the user, special tokens included.

        With a chat template: the end of the answer and the opening of the user's turn; without one: a blank line.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens, special ones left out."""


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
        _pieces("query", self.query, "query")
        if sorted(self.order) != sorted(get_args(Section)):
            raise ValueError(f"order must hold each of {list(get_args(Section))} once, got {list(self.order)}")
        if _pieces("candidate", self.candidate, *self._candidate_holds)[-1]:
            raise ValueError("candidate must end with {listing}; what follows it is question or candidate_end")
        if self.history_head:
            _pieces("interaction", self.interaction, "event", "listing")
        if self.past:
            _pieces("past", self.past, "event")
        if unknown := sorted(self.events.keys() - _EVENTS):
            raise ValueError(f"events.{unknown[0]} is no event; known are {sorted(_EVENTS)}")
        _with_query("instruction", self.instruction)
        if self.question and not _with_query("question", self.question)[-1]:
            raise ValueError("question must not end with {query}: its answer is read after the template's own words")
        if self.question and self.order[-1] != "candidates":
            raise ValueError("order must end with candidates where there is a question; it sees nothing behind it")
        if self.reason:
            _pieces("reason.text", self.reason.text, "query", "listing")
        for field, form in self.fields.items():
            if field not in _FIELD_KEY:
                raise ValueError(f"fields.{field} is no listing field; known are {sorted(_FIELD_KEY)}")
            _pieces(f"fields.{field}", form, "value")
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
        values = self.model_dump(mode="json", exclude_none=True)
        tables = {key: value for key, value in values.items() if isinstance(value, dict)}
        lines = [f"{key} = {_toml_value(value)}" for key, value in values.items() if key not in tables]
        for key, table in tables.items():
            lines += ["", f"[{key}]", *(f"{name} = {_toml_value(value)}" for name, value in table.items())]
        return "\n".join(lines) + "\n"

    @property
    def _candidate_holds(self) -> tuple[str, ...]:
        """The placeholders of `candidate`."""
        return ("identifier", "listing") if "{identifier}" in self.candidate else ("listing",)


def _pieces(field: str, form: str, *names: str) -> list[str]:
    """The texts around the placeholders of `form`, which must hold each of `names` once, in this order."""
    parts = re.split(r"\{([a-z]+)\}", form)
    if tuple(parts[1::2]) != names:
        wanted, found = (", ".join(f"{{{name}}}" for name in group) or "none" for group in (names, parts[1::2]))
        raise ValueError(f"{field} must hold the placeholders {wanted}, in this order; found {found}")
    return parts[::2]


def _with_query(field: str, form: str) -> list[str]:
    """The texts around ``{query}``, which `form` may hold once."""
    return _pieces(field, form, *(["query"] if "{query}" in form else []))


def _toml_value(value: object) -> str:
    """Texts, numbers and lists of texts are written in TOML as in JSON, but for the one control that JSON leaves."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml_value(part)}" for key, part in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


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
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
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


def _price(listing: Listing) -> str:
    return f"{number_text(listing.price.amount)} {listing.price.currency}".strip() if listing.price else ""


_FieldValue = str | float | bool | Sequence[str] | Mapping[str, str]
_FieldKey = str | float | bool | tuple[str, ...] | tuple[tuple[str, str], ...]
"""A value that can be looked up; attributes are pairs."""

_FIELD_KEY: Mapping[str, Callable[[Listing], _FieldKey | None]] = {
    "title": lambda listing: listing.title,
    "description": lambda listing: listing.description,
    "brand": lambda listing: listing.brand,
    "category": lambda listing: listing.category,
    "price": _price,
    "attributes": lambda listing: tuple(listing.attributes.items()),
    "rating": lambda listing: listing.rating,
    "reviews": lambda listing: listing.reviews,
    "in_stock": lambda listing: listing.in_stock,
}


class _Data:
    """Reads what shops and shoppers wrote.

    Args:
        harmless: What `_neutraliser` gives; None: texts are cleaned and not neutralised.

    Attributes:
        changed: Texts that neutralising changed.
        unread: Characters that were not read, since they cannot be among the tokens that are shown.
    """

    def __init__(self, harmless: _Neutralise | None) -> None:
        self._harmless = harmless
        self.changed = 0
        self.unread = 0

    def text(self, text: str, tokens: int, *, keep: bool = False) -> str:
        """One text of which at most `tokens` tokens are shown; see `genrank.text.neutralise` for `keep`."""
        if self._harmless is None:
            return clean(text)
        most = tokens * _CHARS_READ_PER_TOKEN * _CHARS_NEUTRALISED
        if len(text) > most:
            self.unread += len(text) - most
            text = text[:most]
        harmless, changed = self._harmless(text, keep)
        self.changed += changed
        return harmless

    def value(self, value: _FieldValue, tokens: int) -> _FieldValue:
        """One field; of attributes the names too, and those that say nothing any more are left out."""
        match value:
            case str():
                return self.text(value, tokens)
            case Mapping():
                read = [(self.text(key, tokens), self.text(part, tokens), part) for key, part in value.items()]
                return {key: part for key, part, was in read if part or not was}
            case float() | int():
                return value
        return [self.text(part, tokens) for part in value]


_Neutralise = Callable[[str, bool], tuple[str, bool]]


def _neutraliser(own: re.Pattern[str]) -> _Neutralise:
    """Makes a text harmless, and says whether that is not what cleaning makes of it; see `genrank.text.neutralise`."""

    def harmless(text: str, keep: bool) -> tuple[str, bool]:
        found = neutralise(text, own, keep=keep)
        return found, found != clean(text)

    return harmless


def _field_text(field: str, key: _FieldKey, values: str, data: _Data, tokens: int) -> str:
    """One field as a template with these `values` writes it; empty where it says nothing."""
    value: _FieldValue = dict(cast(Any, key)) if field == "attributes" else cast(Any, key)
    if field == "category" and values != "json":
        value = " > ".join(cast(tuple[str, ...], value))
    value = data.text(cast(str, value), tokens, keep=True) if field == "title" else data.value(value, tokens)
    match value:
        case bool():
            text = "yes" if value else "no"
        case float() | int():
            text = number_text(value)
        case str():
            text = value  # clean already
        case Mapping():
            text = clean(", ".join(f"{key}: {part}" for key, part in value.items()))
        case _:
            text = clean(" / ".join(value))
    if values == "json" and text:
        return json.dumps(value, ensure_ascii=False)
    if values == "lines" and isinstance(value, Mapping):
        return "\n  ".join(clean(f"{key}: {part}") for key, part in value.items())
    return text


@dataclass(frozen=True, slots=True)
class Prompt:
    """One rendered window.

    Attributes:
        ids: ``[prompt_tokens]`` token ids.
        reads: ``[n]`` place of the token after which each candidate's question is answered; empty without
            questions. 0-based.
        listing_ids: ``[n]`` in the order of the prompt.
        cuts: Tokens cut from each section (``query``, ``history``, ``candidates``) to keep the budget.
        neutralised: Texts (a title, an attribute's name or value, the query ...) that neutralising changed.
        tokens: Tokens of each section, and of ``system`` before and ``instruction`` after them; they add up.
    """

    ids: tuple[int, ...]
    reads: tuple[int, ...]
    listing_ids: tuple[str, ...]
    cuts: Mapping[str, int]
    tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
    neutralised: int = 0


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The tokens of a model's answer under one template.

    Attributes:
        identifiers: The one token of each name that a candidate may have, in the order in which they are given:
            `IDENTIFIERS` and pairs of letters, or `NUMBERS`, without those that are not one token.
        between: Tokens between two identifiers.
        yes: First tokens of the answers that mean a fit.
        no: First tokens of the answers that mean none.
    """

    identifiers: tuple[int, ...]
    between: tuple[int, ...]
    yes: tuple[int, ...]
    no: tuple[int, ...]


class Renderer:
    """Renders windows for one template and one tokenizer.

    Args:
        template: The prompt template.
        tokenizer: The model's tokenizer.
        neutralise: Whether what data says to the model is taken out of it; see `genrank.text.neutralise`.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer, *, neutralise: bool = True) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self._harmless = _neutraliser(_own_words(template)) if neutralise else None
        self._fields = [(field, template.limits.fields.get(field)) for field in template.fields]
        # passes, windows and queries show the same listings; 1, 1.0 and True are not the same value
        self._known = functools.lru_cache(maxsize=8192, typed=True)(self._read)
        self._before, self._after = tokenizer.frame(template.system)
        self._query_open, self._query_close = self._encode(*_pieces("query", template.query, "query"))
        self._history_head, self._candidates_head, self._end, self._open = self._encode(
            template.history_head, template.candidates_head, template.candidate_end, template.answer_open
        )
        self._question = self._encode(*_with_query("question", template.question))
        *told, last = _with_query("instruction", template.instruction)
        self._instruction = self._encode(*told, last + ("" if self._after else template.plain_end))
        names = IDENTIFIERS if template.identifiers == "letters" else NUMBERS
        self._names = self._encode(*(self._name_text(name) for name in names))
        past = _past_texts(template)
        self._past = dict(zip(past, self._encode(*past.values()), strict=True))

    def _encode(self, *texts: str) -> list[list[int]]:
        return [list(encoded.ids) for encoded in self.tokenizer.encode(texts)]

    def _name_text(self, identifier: str) -> str:
        *named, between, _ = _pieces("candidate", self.template.candidate, *self.template._candidate_holds)
        return named[0] + identifier + between if named else between

    @functools.cached_property
    def answer(self) -> AnswerTokens:
        """The tokens in which an answer is read, found in the model's own tokenizer.

        Raises:
            ConfigError: When the tokenizer or the template makes an answer unreadable.
        """
        template = self.template
        identifiers, between = self._found[1:]
        if template.instruction and len(identifiers) < 2:
            raise ConfigError(
                f"prompt template {template.name}: this tokenizer does not keep identifiers apart in {self._shown('A')}"
                "; choose another answer_open and answer_between, other identifiers, or decoding 'inline'"
            )
        yes, no = (self._first_tokens(words) for words in (template.yes, template.no))
        if set(yes) & set(no):
            raise ConfigError(f"prompt template {template.name}: yes {template.yes} and no {template.no} begin alike")
        return AnswerTokens(identifiers, between, yes, no)

    @functools.cached_property
    def _found(self) -> tuple[list[str], tuple[int, ...], tuple[int, ...]]:
        """The names that are one token in an answer, their tokens, and the tokens between two of them."""
        letters = string.ascii_uppercase
        pairs = [first + second for first in letters for second in letters]
        names = [*IDENTIFIERS, *pairs] if self.template.identifiers == "letters" else list(NUMBERS)
        answers = self._encode(*(self._shown(name) for name in names))
        at = len(self._open)
        between: list[int] = []
        found: dict[int, str] = {}
        for name, ids in zip(names, answers, strict=True):
            token, middle = ids[at], ids[at + 1 : -1]
            if ids[:at] != self._open or ids[-1] != token or not middle or token in found:
                continue
            between = between or middle
            if middle == between and len(found) < MOST_IDENTIFIERS:
                found[token] = name
        return list(found.values()), tuple(found), tuple(between)

    def _shown(self, name: str) -> str:
        """The name twice, as an answer begins; it is one token when both are the same one."""
        return f"{self.template.answer_open}{name}{self.template.answer_between}{name}"

    @functools.cached_property
    def _names_found(self) -> list[list[int]]:
        return self._encode(*map(self._name_text, self._found[0]))

    def _first_tokens(self, words: Sequence[str]) -> tuple[int, ...]:
        question = _with_query("question", self.template.question)[-1]
        asked = self._question[-1]
        tokens = []
        for encoded in self.tokenizer.encode([question + word for word in words]):
            if list(encoded.ids[: len(asked)]) != asked or len(encoded.ids) == len(asked):
                raise ConfigError(
                    f"prompt template {self.template.name}: in this tokenizer an answer melts into the question "
                    f"{question!r}; end the question differently, or begin the answers {words} with a space"
                )
            tokens.append(encoded.ids[len(asked)])
        return tuple(dict.fromkeys(tokens))

    def render(
        self,
        query: Query,
        candidates: Sequence[Candidate],
        history: Sequence[Interaction] = (),
        *,
        max_tokens: int,
        inline: bool,
    ) -> Prompt:
        """Render one window.

        The query is cut to its limit first. Under a tight budget the history gives way before the candidates
        (down to a quarter of what both share), the least useful interactions first; then the longest candidates are
        cut, each from its least important field, all to the same length.

        Args:
            query: The query.
            candidates: ``[n]`` in the order in which the model shall see them.
            history: Oldest first.
            max_tokens: The budget for the prompt's tokens.
            inline: With the question after each candidate and nothing behind the last; else without
                questions, with the instruction and the opening of the answer.

        Raises:
            BudgetError: When the budget cannot hold the candidates; says the least one.
            InputError: When there is no candidate, or, without `inline`, more candidates than identifiers.
            ConfigError: When `inline` and the template has no question; without `inline`, when it names no candidates.
        """
        template = self.template
        template.check(inline=inline)
        if not inline and len(candidates) > (most := len(self.answer.identifiers)):
            raise InputError(f"{len(candidates)} candidates in one window, but only {most} identifiers", field="window")
        if not candidates:
            raise InputError("no candidates to render; pass at least one", field="candidates")
        cuts = {"query": 0, "history": 0, "candidates": 0}
        data = _Data(self._harmless)
        query_ids, cuts["query"] = self._query(query, data)
        listings = self._listings([candidate.listing for candidate in candidates], template.limits.listing, data)
        asked = [*self._query_open, *query_ids, *self._query_close]
        question = _around(query_ids, self._question) if inline else []
        tail = [] if inline else [*_around(query_ids, self._instruction), *self._after, *self._open]
        names = [self._name(i) for i in range(len(candidates))] if inline else self._names_found
        taken = len(self._before) + len(asked) + len(self._candidates_head) + len(tail)
        taken += sum(map(len, names[: len(candidates)]))
        marks = self._marks(candidates, history)
        taken += sum(map(len, marks))
        taken += (len(question) + len(self._end)) * len(candidates)
        taken -= len(self._end) if inline else 0  # nothing is read behind the last question
        room = max_tokens - taken
        needs = [min(listing.tokens, template.limits.listing) for listing in listings]
        least = sum(min(MIN_LISTING_TOKENS, need) for need in needs)
        if room < least:
            raise BudgetError(
                f"{max_tokens} tokens cannot hold {len(candidates)} candidates; "
                f"give at least {taken + least}, or a smaller window",
                least=taken + least,
            )
        history_room = min(max(room - sum(needs), (room - least) // 4), template.limits.history)
        past, cuts["history"] = self._history(history, history_room, query, candidates, data)
        cap = _fair_cap(needs, room - len(past))

        shown = list(self._candidates_head)
        reads = []  # places in `shown`
        for i, listing in enumerate(listings):
            kept = listing.cut(min(cap, needs[i]))
            cuts["candidates"] += listing.tokens + listing.lost - len(kept)
            shown += [*names[i], *kept, *marks[i], *question]
            reads.append(len(shown) - 1)
            shown += self._end
        if inline:
            del shown[reads[-1] + 1 :]
        sections: dict[str, list[int]] = {"query": asked, "history": past, "candidates": shown}
        parts = {"system": self._before} | {name: sections[name] for name in template.order} | {"instruction": tail}
        before = sum(len(ids) for ids in parts.values()) - len(shown)  # the candidates come last where they are read
        return Prompt(
            ids=tuple(itertools.chain.from_iterable(parts.values())),
            reads=tuple(before + place for place in reads) if inline else (),
            listing_ids=tuple(candidate.listing.listing_id for candidate in candidates),
            cuts=cuts,
            tokens={name: len(ids) for name, ids in parts.items()},
            neutralised=data.changed,
        )

    def follow_up(
        self, prompt: Prompt, order: Sequence[int], query: Query, listing: Listing, *, max_tokens: int
    ) -> tuple[int, ...]:
        """Go on in the conversation of a prompt: the model's answer, and the request for the reason of one listing.

        After questions in place the last one is answered (yes for the first half of `order`), and the request
        stands in the same turn of the user. Otherwise the order is the answer, and the request is the next turn.

        Args:
            prompt: What `render` gave; the result begins with its `ids`.
            order: ``[n]`` places in the prompt, best first, 0-based.
            query: The query.
            listing: The listing.
            max_tokens: The budget for all tokens.

        Raises:
            BudgetError: When the budget cannot hold the request; says the least one.
            ConfigError: When the template asks for no reasons.
        """
        before, between, tail = self._request
        data = _Data(self._harmless)
        limit = self.template.limits.listing
        query_ids, _ = self._query(query, data)
        (encoded,) = self._listings([listing], limit, data)
        head = [*prompt.ids, *self._answered(prompt, order), *before, *query_ids, *between]
        room = max_tokens - len(head) - len(tail)
        need = min(MIN_LISTING_TOKENS, encoded.tokens)
        if room < need:
            least = max_tokens - room + need
            raise BudgetError(f"{max_tokens} tokens cannot hold a reason's prompt; give at least {least}", least=least)
        return (*head, *encoded.cut(min(room, limit)), *tail)

    def _answered(self, prompt: Prompt, order: Sequence[int]) -> list[int]:
        """The model's answer to a prompt, and what leads to the user's next words."""
        if prompt.reads:
            fits = list(order).index(len(order) - 1) < len(order) / 2
            return [(self.answer.yes if fits else self.answer.no)[0], *self._end]
        answer = [self.answer.identifiers[order[0]]]
        for place in order[1:]:
            answer += [*self.answer.between, self.answer.identifiers[place]]
        return [*answer, *self._closed]

    @functools.cached_property
    def _closed(self) -> list[int]:
        return [*self._encode(self.template.answer_close)[0], *self.tokenizer.turn()]

    @functools.cached_property
    def reason_ends(self) -> tuple[int, ...]:
        """Tokens that end a reason: those that are line ends and nothing else."""
        texts = ("a", "a\n", "a\n\n")
        before, *ended = self._encode(*texts)
        at = len(before)
        return tuple(dict.fromkeys(ids[at] for ids in ended if len(ids) > at and ids[:at] == before))

    @functools.cached_property
    def _request(self) -> tuple[list[int], list[int], list[int]]:
        """The tokens that all requests for a reason share: before the query, before the listing, after it."""
        form = self.template.reason
        if form is None:
            raise ConfigError(f"prompt template {self.template.name} has no reason prompt")
        told = form.system + "\n" if form.system else ""
        head, end = ("", form.chat_end) if self._after else (form.plain_head, form.plain_end)
        open_, middle, close = _pieces("reason.text", form.text, "query", "listing")
        opened, between, closed = self._encode(told + head + open_, middle, close + end)
        return opened, between, [*closed, *self._after]

    def _query(self, query: Query, data: _Data) -> tuple[list[int], int]:
        """The query's tokens within its limit, and how many were cut."""
        limit = self.template.limits.query
        before = data.unread
        text, unread = _readable(data.text(query.text, limit, keep=True), limit)
        (encoded,) = self.tokenizer.encode([text])
        ids = encoded.cut(limit)
        return ids, len(encoded.ids) - len(ids) + _unread_tokens(encoded, unread + data.unread - before)

    def _name(self, i: int) -> list[int]:
        """Tokens before the listing of candidate `i`; past the identifiers, its 1-based number."""
        return self._names[i] if i < len(self._names) else self._encode(self._name_text(str(i + 1)))[0]

    def _marks(self, candidates: Sequence[Candidate], history: Sequence[Interaction]) -> list[list[int]]:
        """Tokens behind each candidate that say what the shopper did with it before, if the template says that."""
        if not self._past:
            return [[] for _ in candidates]
        did = {one.listing.listing_id: self._past[one.event] for one in sorted(history, key=_weight)}
        return [did.get(candidate.listing.listing_id, []) for candidate in candidates]

    def _listings(self, listings: Sequence[Listing], limit: int, data: _Data) -> list[_EncodedListing]:
        """Encode listings, all of their fields in one call."""
        texts: list[str] = []
        lost: list[int] = []
        limits: list[int | None] = []
        counts = []
        for listing in listings:
            count = 0
            for field, most in self._fields:
                key = _FIELD_KEY[field](listing)
                if key is None or key == "" or key == ():
                    continue
                text, unread, changed = (self._known if _short(key) else self._read)(field, key, limit)
                data.changed += changed
                if text:
                    texts.append(text)
                    lost.append(unread)
                    limits.append(most)
                    count += 1
            counts.append(count)
        encoded = zip(self.tokenizer.encode(texts), lost, limits, strict=True)
        return [_EncodedListing.of(list(itertools.islice(encoded, count))) for count in counts]

    def _read(self, field: str, key: _FieldKey, limit: int) -> tuple[str, int, int]:
        """A field as it stands in the prompt, how many characters were not read, and how many texts were changed."""
        data = _Data(self._harmless)
        value = _field_text(field, key, self.template.values, data, limit)
        text, unread = _readable(value, limit)
        return self.template.fields[field].replace("{value}", text) if text else "", unread + data.unread, data.changed

    def _history(
        self,
        history: Sequence[Interaction],
        room: int,
        query: Query,
        candidates: Sequence[Candidate],
        data: _Data,
    ) -> tuple[list[int], int]:
        """The most useful interactions that fit into `room` tokens, oldest first, and how many tokens were cut."""
        template = self.template
        if not history or not template.history_head:
            return [], 0
        limit = template.limits.interaction
        listings = self._listings([interaction.listing for interaction in history], limit, data)
        before, between, after = _pieces("interaction", template.interaction, "event", "listing")
        events = _EVENTS | template.events
        heads = (before + events[interaction.event] + between for interaction in history)
        *encoded_heads, tail = self._encode(*heads, after)
        lines = [[*head, *listing.cut(limit), *tail] for head, listing in zip(encoded_heads, listings, strict=True)]
        left = room - len(self._history_head)
        if sum(map(len, lines)) > left:
            useful = usefulness(history, query, [candidate.listing for candidate in candidates])
            for i in sorted(range(len(lines)), key=lambda i: (useful[i], i), reverse=True):
                if len(lines[i]) > left:
                    lines[i] = []
                left -= len(lines[i])
        ids = list(itertools.chain.from_iterable(lines))
        whole = sum(
            len(head) + len(tail) + one.tokens + one.lost for head, one in zip(encoded_heads, listings, strict=True)
        )
        return ([*self._history_head, *ids] if ids else []), whole - len(ids)


def usefulness(history: Sequence[Interaction], query: Query, candidates: Sequence[Listing]) -> list[float]:
    """How much each interaction may say about a search, ``[len(history)]``, 0 to 3.

    The sum of three parts from 0 to 1: how late it came (``(i + 1) / n``), how near it is to the search (1 in the
    category of a candidate, else the share of the query's words in its title), and what the shopper did: a purchase
    1, a rating 0.6 to 0.8 by its value, cart 0.6, click 0.4, view 0.2.

    Args:
        history: Oldest first.
        query: The query.
        candidates: The listings of the window.
    """
    categories = {one.category[-1].casefold() for one in candidates if one.category}
    wanted = _words(query.text)
    found = []
    for i, interaction in enumerate(history):
        listing = interaction.listing
        same = bool(listing.category) and listing.category[-1].casefold() in categories
        near = 1.0 if same else len(wanted & _words(listing.title)) / max(1, len(wanted))
        found.append((i + 1) / len(history) + near + _weight(interaction))
    return found


def _weight(interaction: Interaction) -> float:
    if interaction.event == "rating":
        return 0.6 + 0.2 * (2.5 if interaction.rating is None else interaction.rating) / 5
    return {"purchase": 1.0, "cart": 0.6, "click": 0.4, "view": 0.2}[interaction.event]


def _words(text: str) -> set[str]:
    """Words of ASCII, and single characters of other scripts, of which many put no spaces between words."""
    return set(re.findall(r"[a-z0-9]+|[^\W_]", fold(text)))


def _own_words(template: Template) -> re.Pattern[str]:
    """What no data may say in a prompt of this template: its question with an answer, its sections' labels."""
    said = []
    if template.question:
        asked = _with_query("question", template.question)
        more = "" if len(asked) == 1 else "[^:?\n]{0,80}?"
        answers = "|".join(re.escape(fold(word).strip()) for word in (*template.yes, *template.no))
        core = _core(asked[0])
        said.append(rf"{core}{more} ?(?:[:?]\W{{0,3}}(?:(?:{answers})(?!\w))?|(?:{answers})(?!\w))")
    said += [rf"{core}(?!\w)" for core in map(_core, _past_texts(template).values()) if core]
    labels = (_pieces("query", template.query, "query")[0], template.history_head, template.candidates_head)
    said += [rf"{core} ?:" for core in map(_core, labels) if core]
    return re.compile(rf"(?<!\w)(?:{'|'.join(said) or '(?!)'})")


def _past_texts(template: Template) -> dict[str, str]:
    """What stands behind a candidate of the history, by event; nothing where the template does not say it."""
    words = (_EVENTS | template.events).items()
    return {event: template.past.replace("{event}", word) for event, word in words} if template.past else {}


def _core(text: str) -> str:
    """The text as it is looked for, without what is around its words."""
    return re.escape(re.sub(r"^\W+|\W+$", "", fold(clean(text))))


@dataclass(frozen=True, slots=True)
class _EncodedListing:
    """A listing's fields as tokens, the weightiest first.

    Attributes:
        parts: One a field that the listing has; the title is first.
        tokens: All of their tokens.
        lost: Tokens beyond the limit of a field, and those that were not even read, about.
    """

    parts: Sequence[Encoded]
    tokens: int
    lost: int

    @classmethod
    def of(cls, read: Sequence[tuple[Encoded, int, int | None]]) -> _EncodedListing:
        """A listing of fields, each with how many of its characters were not read, and its own limit."""
        parts = []
        tokens = whole = 0
        for part, unread, most in read:
            shown = part if most is None else part.head(most)
            parts.append(shown)
            tokens += len(shown.ids)
            whole += len(part.ids) + _unread_tokens(part, unread)
        return cls(parts, tokens, whole - tokens)

    def cut(self, room: int) -> list[int]:
        """The fields that fit into `room` tokens; the first that does not is cut, the title always is kept."""
        ids: list[int] = []
        for i, part in enumerate(self.parts):
            left = room - len(ids)
            if len(part.ids) > left and left < _MIN_PART_TOKENS and i:
                break
            ids += part.head(left).ids
        return ids


def _around(query: Sequence[int], pieces: Sequence[Sequence[int]]) -> list[int]:
    """The pieces of a form, with the query between them where there are two."""
    return [*pieces[0], *query, *pieces[1]] if len(pieces) == 2 else list(pieces[0])


def _fair_cap(needs: Sequence[int], room: int) -> int:
    """The greatest cap with ``sum(min(need, cap)) <= room``: the longest give first, all down to the same length."""
    left = room
    ordered = sorted(needs)
    for i, need in enumerate(ordered):
        share = left // (len(ordered) - i)
        if need > share:
            return share
        left -= need
    return ordered[-1] if ordered else 0


def _short(key: _FieldKey) -> bool:
    """Whether a value is short enough to be kept in memory."""
    if isinstance(key, tuple):
        return len(key) < _LONGEST_KEPT and sum(map(len, itertools.chain(*key))) <= _LONGEST_KEPT
    return not isinstance(key, str) or len(key) <= _LONGEST_KEPT


def _readable(text: str, tokens: int) -> tuple[str, int]:
    """The head of a text that may matter for `tokens` tokens, and how many characters were left unread."""
    most = tokens * _CHARS_READ_PER_TOKEN
    return text[:most], max(0, len(text) - most)


def _unread_tokens(encoded: Encoded, chars: int) -> int:
    """About how many tokens `chars` unread characters would have been."""
    return -(-chars * len(encoded.ids) // max(1, encoded.ends[-1])) if chars and encoded.ids else 0
