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
from typing import Any, Literal, Protocol, get_args

import pydantic

from genrank.errors import BudgetError, ConfigError, InputError
from genrank.text import clean, number_text
from genrank.types import Candidate, Interaction, Listing, Query

IDENTIFIERS = string.ascii_uppercase + string.ascii_lowercase
"""Names for the candidates of a window, in this order; each must be one token."""

NUMBERS = tuple(str(number) for number in range(1, 100))
"""The same for templates that count their candidates; many tokenizers make one token of 1 to 9 only."""

Section = Literal["query", "history", "candidates"]
"""A part of the prompt that holds data."""

MIN_LISTING_TOKENS = 4
_MIN_PART_TOKENS = 4
_CHARS_READ_PER_TOKEN = 8
_EVENTS = {"view": "viewed", "click": "clicked", "cart": "put in cart", "purchase": "bought", "rating": "rated"}
_LATER_KEYS = ("order", "identifiers", "values", "events")  # count in a digest only where they are used


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
        if tokens >= len(self.ids):
            return list(self.ids)
        while tokens > 0 and self.starts[tokens] < self.ends[tokens - 1]:
            tokens -= 1
        return list(self.ids[: max(tokens, 0)])


class Tokenizer(Protocol):
    """What prompting needs of a model's tokenizer."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenise texts as data: a special token's text becomes ordinary tokens, nothing is added."""

    def frame(self, system: str) -> tuple[list[int], list[int]]:
        """The tokens before and after the user's turn, special tokens included.

        With a chat template: the system turn and the user turn's opening; the user turn's end and the opening
        of the answer. Without one: beginning of sequence and the system text; nothing.
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
    """

    query: int = pydantic.Field(default=64, ge=8)
    history: int = pydantic.Field(default=256, ge=0)
    interaction: int = pydantic.Field(default=32, ge=8)
    listing: int = pydantic.Field(default=64, ge=8)


class ReasonForm(pydantic.BaseModel, extra="forbid", frozen=True):
    """How a template asks for the reason of one listing.

    Attributes:
        system: The system text.
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
            if field not in _FIELD_VALUE:
                raise ValueError(f"fields.{field} is no listing field; known are {sorted(_FIELD_VALUE)}")
            _pieces(f"fields.{field}", form, "value")
        if next(iter(self.fields), "") != "title":
            raise ValueError("the first of fields must be title, which is never left out")
        if self.question and not (self.yes and self.no):
            raise ValueError("a question needs yes and no answers")
        return self

    @functools.cached_property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the template's content."""
        unused = {key for key in _LATER_KEYS if getattr(self, key) == Template.model_fields[key].default}
        content = self.model_dump_json(exclude={"description", "source", *unused})
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


_FieldValue = str | float | bool | Sequence[str] | Mapping[str, str] | None

_FIELD_VALUE: Mapping[str, Callable[[Listing], _FieldValue]] = {
    "title": lambda listing: listing.title,
    "description": lambda listing: listing.description,
    "brand": lambda listing: listing.brand,
    "category": lambda listing: listing.category,
    "price": _price,
    "attributes": lambda listing: listing.attributes,
    "rating": lambda listing: listing.rating,
    "reviews": lambda listing: listing.reviews,
    "in_stock": lambda listing: listing.in_stock,
}


def _field_text(listing: Listing, field: str, values: str) -> str:
    """One field as a template with these `values` writes it, of cleaned text; empty where the listing has none."""
    value = _FIELD_VALUE[field](listing)
    match value:
        case None:
            return ""
        case bool():
            text = "yes" if value else "no"
        case float() | int():
            text = number_text(value)
        case str():
            text = value
        case Mapping():
            text = ", ".join(f"{key}: {part}" for key, part in value.items())
        case _:
            text = (" > " if field == "category" else " / ").join(value)
    text = clean(text)
    if values == "json" and text:
        return json.dumps(_cleaned(value), ensure_ascii=False)
    if values == "lines" and isinstance(value, Mapping):
        return "\n  ".join(clean(f"{key}: {part}") for key, part in value.items())
    return text


def _cleaned(value: _FieldValue) -> _FieldValue:
    match value:
        case str():
            return clean(value)
        case Mapping():
            return {clean(key): clean(part) for key, part in value.items()}
        case None | float() | int():
            return value
    return [clean(part) for part in value]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One rendered window.

    Attributes:
        ids: ``[prompt_tokens]`` token ids.
        reads: ``[n]`` place of the token after which each candidate's question is answered; empty without
            questions. 0-based.
        listing_ids: ``[n]`` in the order of the prompt.
        cuts: Tokens cut from each section (``query``, ``history``, ``candidates``) to keep the budget.
        tokens: Tokens of each section, and of ``system`` before and ``instruction`` after them; they add up.
    """

    ids: tuple[int, ...]
    reads: tuple[int, ...]
    listing_ids: tuple[str, ...]
    cuts: Mapping[str, int]
    tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The tokens of a model's answer under one template.

    Attributes:
        identifiers: The one token of each of `IDENTIFIERS` (or `NUMBERS`), as far as each is one token.
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
    """

    def __init__(self, template: Template, tokenizer: Tokenizer) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self._before, self._after = tokenizer.frame(template.system)
        self._query_open, self._query_close = self._encode(*_pieces("query", template.query, "query"))
        self._history_head, self._candidates_head, self._end, self._open = self._encode(
            template.history_head, template.candidates_head, template.candidate_end, template.answer_open
        )
        self._question = self._encode(*_with_query("question", template.question))
        *told, last = _with_query("instruction", template.instruction)
        self._instruction = self._encode(*told, last + ("" if self._after else template.plain_end))
        self._identifiers = IDENTIFIERS if template.identifiers == "letters" else NUMBERS
        self._names = self._encode(*(self._name_text(name) for name in self._identifiers))

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
        opened = template.answer_open
        one, two = self._identifiers[0], self._identifiers[1]
        both = f"{opened}{one}{template.answer_between}{two}"
        first, second, joined = self.tokenizer.encode([opened + one, opened + two, both])
        between = list(joined.ids[len(first.ids) : -1])
        if list(joined.ids) != [*first.ids, *between, second.ids[-1]] or first.ids[:-1] != second.ids[:-1]:
            raise ConfigError(
                f"prompt template {template.name}: this tokenizer does not keep identifiers apart in "
                f"{both}; choose another answer_open and answer_between"
            )
        identifiers = []
        for encoded in self.tokenizer.encode([opened + name for name in self._identifiers]):
            if len(encoded.ids) != len(first.ids) or encoded.ids[:-1] != first.ids[:-1]:
                break
            identifiers.append(encoded.ids[-1])
        yes, no = (self._first_tokens(words) for words in (template.yes, template.no))
        if set(yes) & set(no):
            raise ConfigError(f"prompt template {template.name}: yes {template.yes} and no {template.no} begin alike")
        return AnswerTokens(tuple(identifiers), tuple(between), yes, no)

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
        (down to a quarter of what both share), oldest interactions first; then the longest candidates are cut,
        each from its least important field, all to the same length.

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
        if not inline and len(candidates) > len(self.answer.identifiers):
            most = len(self.answer.identifiers)
            raise InputError(f"{len(candidates)} candidates in one window, but only {most} identifiers", field="window")
        if not candidates:
            raise InputError("no candidates to render; pass at least one", field="candidates")
        cuts = {"query": 0, "history": 0, "candidates": 0}
        query_ids, cuts["query"] = self._query(query)
        listings = self._listings([candidate.listing for candidate in candidates], template.limits.listing)
        asked = [*self._query_open, *query_ids, *self._query_close]
        question = _around(query_ids, self._question) if inline else []
        tail = [] if inline else [*_around(query_ids, self._instruction), *self._after, *self._open]
        names = [self._name(i) for i in range(len(candidates))]
        taken = len(self._before) + len(asked) + len(self._candidates_head) + len(tail) + sum(map(len, names))
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
        past, cuts["history"] = self._history(history, history_room)
        cap = _fair_cap(needs, room - len(past))

        shown = list(self._candidates_head)
        reads = []  # places in `shown`
        for i, listing in enumerate(listings):
            kept = listing.cut(min(cap, needs[i]))
            cuts["candidates"] += listing.tokens + listing.lost - len(kept)
            shown += [*names[i], *kept, *question]
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
        )

    def render_reason(self, query: Query, listing: Listing, *, max_tokens: int) -> tuple[int, ...]:
        """Render the prompt that asks why a listing fits a query.

        Raises:
            BudgetError: When the budget cannot even hold the question.
            ConfigError: When the template asks for no reasons.
        """
        before, between, tail = self._reason
        limit = self.template.limits.listing
        query_ids, _ = self._query(query)
        (encoded,) = self._listings([listing], limit)
        head = [*before, *query_ids, *between]
        room = max_tokens - len(head) - len(tail)
        if room < MIN_LISTING_TOKENS:
            least = max_tokens - room + MIN_LISTING_TOKENS
            raise BudgetError(f"{max_tokens} tokens cannot hold a reason's prompt; give at least {least}", least=least)
        return (*head, *encoded.cut(min(room, limit)), *tail)

    @functools.cached_property
    def _reason(self) -> tuple[list[int], list[int], list[int]]:
        """The tokens of a reason's prompt that are always the same: before the query, before the listing, after it."""
        form = self.template.reason
        if form is None:
            raise ConfigError(f"prompt template {self.template.name} has no reason prompt")
        before, after = self.tokenizer.frame(form.system)
        head, end = ("", form.chat_end) if after else (form.plain_head, form.plain_end)
        open_, middle, close = _pieces("reason.text", form.text, "query", "listing")
        opened, between, closed = self._encode(head + open_, middle, close + end)
        return [*before, *opened], between, [*closed, *after]

    def _query(self, query: Query) -> tuple[list[int], int]:
        """The query's tokens within its limit, and how many were cut."""
        limit = self.template.limits.query
        text, unread = _readable(clean(query.text), limit)
        (encoded,) = self.tokenizer.encode([text])
        ids = encoded.cut(limit)
        return ids, len(encoded.ids) - len(ids) + _unread_tokens(encoded, unread)

    def _name(self, i: int) -> list[int]:
        """Tokens before the listing of candidate `i`; past the identifiers, its 1-based number."""
        return self._names[i] if i < len(self._names) else self._encode(self._name_text(str(i + 1)))[0]

    def _listings(self, listings: Sequence[Listing], limit: int) -> list[_EncodedListing]:
        """Encode listings, all of their fields in one call."""
        texts: list[str] = []
        lost: list[int] = []
        counts = []
        for listing in listings:
            count = 0
            for field, form in self.template.fields.items():
                value = _field_text(listing, field, self.template.values)
                if not value:
                    continue
                value, unread = _readable(value, limit)
                texts.append(form.replace("{value}", value))
                lost.append(unread)
                count += 1
            counts.append(count)
        encoded = self.tokenizer.encode(texts)
        result = []
        at = 0
        for count in counts:
            parts = encoded[at : at + count]
            unread = sum(_unread_tokens(part, n) for part, n in zip(parts, lost[at : at + count], strict=True))
            result.append(_EncodedListing(parts, sum(len(part.ids) for part in parts), unread))
            at += count
        return result

    def _history(self, history: Sequence[Interaction], room: int) -> tuple[list[int], int]:
        """The latest interactions that fit into `room` tokens, oldest first, and how many tokens were cut."""
        template = self.template
        if not history or not template.history_head:
            return [], 0
        limit = template.limits.interaction
        listings = self._listings([interaction.listing for interaction in history], limit)
        before, between, after = _pieces("interaction", template.interaction, "event", "listing")
        events = _EVENTS | template.events
        heads = (before + events[interaction.event] + between for interaction in history)
        *encoded_heads, tail = self._encode(*heads, after)
        left = room - len(self._history_head)
        kept: list[list[int]] = []
        cut = 0
        for head, listing in zip(reversed(encoded_heads), reversed(listings), strict=True):
            shown = [*head, *listing.cut(limit), *tail]
            if len(shown) > left:
                left = 0
                shown = []
            kept.append(shown)
            left -= len(shown)
            cut += listing.tokens + listing.lost + len(head) + len(tail) - len(shown)
        ids = [token for shown in reversed(kept) for token in shown]
        return ([*self._history_head, *ids] if ids else []), cut


@dataclass(frozen=True, slots=True)
class _EncodedListing:
    """A listing's fields as tokens, the weightiest first.

    Attributes:
        parts: One a field that the listing has; the title is first.
        tokens: All of their tokens.
        lost: Tokens that were not even read, about.
    """

    parts: Sequence[Encoded]
    tokens: int
    lost: int

    def cut(self, room: int) -> list[int]:
        """The fields that fit into `room` tokens; the first that does not is cut, the title always is kept."""
        ids: list[int] = []
        for i, part in enumerate(self.parts):
            left = room - len(ids)
            if len(part.ids) > left and left < _MIN_PART_TOKENS and i:
                break
            ids += part.cut(left)
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


def _readable(text: str, tokens: int) -> tuple[str, int]:
    """The head of a text that may matter for `tokens` tokens, and how many characters were left unread."""
    most = tokens * _CHARS_READ_PER_TOKEN
    return text[:most], max(0, len(text) - most)


def _unread_tokens(encoded: Encoded, chars: int) -> int:
    """About how many tokens `chars` unread characters would have been."""
    return -(-chars * len(encoded.ids) // max(1, encoded.ends[-1])) if chars and encoded.ids else 0
