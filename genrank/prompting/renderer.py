"""From a query, a history and a window of candidates to the model's tokens, inside a token budget.

A prompt is a sequence of parts, each made of tokens on its own, so that counting is exact addition and a cut is a
cut of tokens. Only the frame (the model's chat template around the template's system text) may hold special tokens;
everything else is data and is tokenised with special tokens split into ordinary text, so a listing cannot speak in
another role. Training renders through this same code.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genrank.engines.tokenizer import Encoded, Tokenizer
from genrank.errors import BudgetError, ConfigError, InputError
from genrank.permutation import IDENTIFIERS, NUMBERS
from genrank.prompting.fields import FIELD_KEYS, DataText, FieldKey, field_text, neutraliser, readable
from genrank.prompting.history import EVENT_WORDS, event_weight, usefulness
from genrank.prompting.template import Template, split_form, split_query_form
from genrank.text.clean import clean, fold
from genrank.types import Candidate, Interaction, Listing, Query

MOST_IDENTIFIERS = 100
"""The most candidates that one window names; past the letters come pairs of letters (``AA``) of one token."""

MIN_LISTING_TOKENS = 4
_MIN_PART_TOKENS = 4
_LONGEST_KEPT = 4096  # characters of a value whose text is kept for the next prompt


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
        neutralise: Whether what data says to the model is taken out of it; see `genrank.text.injection.neutralise`.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer, *, neutralise: bool = True) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self._harmless = neutraliser(_own_words(template)) if neutralise else None
        self._fields = [(field, template.limits.fields.get(field)) for field in template.fields]
        # passes, windows and queries show the same listings; 1, 1.0 and True are not the same value
        self._known = functools.lru_cache(maxsize=8192, typed=True)(self._read)
        self._before, self._after = tokenizer.frame(template.system)
        self._query_open, self._query_close = self._encode(*split_form("query", template.query, "query"))
        self._history_head, self._candidates_head, self._end, self._open = self._encode(
            template.history_head, template.candidates_head, template.candidate_end, template.answer_open
        )
        self._question = self._encode(*split_query_form("question", template.question))
        *told, last = split_query_form("instruction", template.instruction)
        self._instruction = self._encode(*told, last + ("" if self._after else template.plain_end))
        names = IDENTIFIERS if template.identifiers == "letters" else NUMBERS
        self._names = self._encode(*(self._name_text(name) for name in names))
        past = _past_texts(template)
        self._past = dict(zip(past, self._encode(*past.values()), strict=True))

    def _encode(self, *texts: str) -> list[list[int]]:
        return [list(encoded.ids) for encoded in self.tokenizer.encode(texts)]

    def _name_text(self, identifier: str) -> str:
        *named, between, _ = split_form("candidate", self.template.candidate, *self.template._candidate_holds)
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
        question = split_query_form("question", self.template.question)[-1]
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
        data = DataText(self._harmless)
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
        data = DataText(self._harmless)
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
        open_, middle, close = split_form("reason.text", form.text, "query", "listing")
        opened, between, closed = self._encode(told + head + open_, middle, close + end)
        return opened, between, [*closed, *self._after]

    def _query(self, query: Query, data: DataText) -> tuple[list[int], int]:
        """The query's tokens within its limit, and how many were cut."""
        limit = self.template.limits.query
        before = data.unread
        text, unread = readable(data.text(query.text, limit, keep=True), limit)
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
        did = {one.listing.listing_id: self._past[one.event] for one in sorted(history, key=event_weight)}
        return [did.get(candidate.listing.listing_id, []) for candidate in candidates]

    def _listings(self, listings: Sequence[Listing], limit: int, data: DataText) -> list[_EncodedListing]:
        """Encode listings, all of their fields in one call."""
        texts: list[str] = []
        lost: list[int] = []
        limits: list[int | None] = []
        counts = []
        for listing in listings:
            count = 0
            for field, most in self._fields:
                key = FIELD_KEYS[field](listing)
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

    def _read(self, field: str, key: FieldKey, limit: int) -> tuple[str, int, int]:
        """A field as it stands in the prompt, how many characters were not read, and how many texts were changed."""
        data = DataText(self._harmless)
        value = field_text(field, key, self.template.values, data, limit)
        text, unread = readable(value, limit)
        return self.template.fields[field].replace("{value}", text) if text else "", unread + data.unread, data.changed

    def _history(
        self,
        history: Sequence[Interaction],
        room: int,
        query: Query,
        candidates: Sequence[Candidate],
        data: DataText,
    ) -> tuple[list[int], int]:
        """The most useful interactions that fit into `room` tokens, oldest first, and how many tokens were cut."""
        template = self.template
        if not history or not template.history_head:
            return [], 0
        limit = template.limits.interaction
        listings = self._listings([interaction.listing for interaction in history], limit, data)
        before, between, after = split_form("interaction", template.interaction, "event", "listing")
        events = EVENT_WORDS | template.events
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


def _own_words(template: Template) -> re.Pattern[str]:
    """What no data may say in a prompt of this template: its question with an answer, its sections' labels."""
    said = []
    if template.question:
        asked = split_query_form("question", template.question)
        more = "" if len(asked) == 1 else "[^:?\n]{0,80}?"
        answers = "|".join(re.escape(fold(word).strip()) for word in (*template.yes, *template.no))
        core = _core(asked[0])
        said.append(rf"{core}{more} ?(?:[:?]\W{{0,3}}(?:(?:{answers})(?!\w))?|(?:{answers})(?!\w))")
    said += [rf"{core}(?!\w)" for core in map(_core, _past_texts(template).values()) if core]
    labels = (split_form("query", template.query, "query")[0], template.history_head, template.candidates_head)
    said += [rf"{core} ?:" for core in map(_core, labels) if core]
    return re.compile(rf"(?<!\w)(?:{'|'.join(said) or '(?!)'})")


def _past_texts(template: Template) -> dict[str, str]:
    """What stands behind a candidate of the history, by event; nothing where the template does not say it."""
    words = (EVENT_WORDS | template.events).items()
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


def _short(key: FieldKey) -> bool:
    """Whether a value is short enough to be kept in memory."""
    if isinstance(key, tuple):
        return len(key) < _LONGEST_KEPT and sum(map(len, itertools.chain(*key))) <= _LONGEST_KEPT
    return not isinstance(key, str) or len(key) <= _LONGEST_KEPT


def _unread_tokens(encoded: Encoded, chars: int) -> int:
    """About how many tokens `chars` unread characters would have been."""
    return -(-chars * len(encoded.ids) // max(1, encoded.ends[-1])) if chars and encoded.ids else 0
