"""Turns a query, a history and a window of candidates into the model's tokens, within a token budget.

A prompt is a sequence of parts that are tokenised separately, so token counts simply add up and a cut removes whole
tokens. Only the frame (the model's chat template around the template's system text) may hold special tokens. All the
rest is data, in which special tokens are split into ordinary text, so a listing cannot speak in another role. Training
renders its prompts with the same code.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from genrank.engines.tokenizer import Tokenizer
from genrank.errors import BudgetError, ConfigError, InputError
from genrank.permutation import IDENTIFIERS, NUMBERS
from genrank.pictures.preparing import Picture
from genrank.prompting.fields import FieldReader, neutraliser, readable
from genrank.prompting.history import EVENT_WORDS, Usefulness, event_weight, in_time_order, last_category
from genrank.prompting.listings import MIN_LISTING_TOKENS, EncodedListing, ListingEncoder, unread_tokens
from genrank.prompting.template import ReasonExample, Template, split_form, split_query_form
from genrank.text.clean import clean, fold
from genrank.text.language import language
from genrank.types import Candidate, Decoding, Intent, Interaction, Listing, Query

MOST_IDENTIFIERS = 100
"""The most candidates that can be named in one window; after the letters come one-token pairs of letters (``AA``)."""

_LEAST_INTERACTIONS_READ = 32
_GRADES = 10
_ENCODED_TOGETHER = 256  # listings; with more in a call of the tokenizer, a deadline would be noticed late


@dataclass(frozen=True, slots=True)
class Prompt:
    """One rendered window.

    Attributes:
        ids: ``[prompt_tokens]`` token ids.
        reads: ``[n]`` position, 0-based, of the token after which each candidate's question is answered; empty without
            questions.
        listing_ids: ``[n]`` in the order of the prompt.
        cuts: Tokens cut from each section (``query``, ``history``, ``candidates``, and ``intent`` where the template
            has it) to keep the budget.
        tokens: Tokens of each section, and of ``system`` before and ``instruction`` after them; they add up.
        neutralised: Texts (a title, an attribute's name or value, the query ...) that neutralising changed.
        lead: How many of the first tokens every prompt of the template begins with, if that is known.
        head: How many of the first tokens are the same for every request, `lead` included: up to the end of a listing
            that comes first; 0 if the query comes first.
        opening: How many tokens after the head are the same for every request without a history.
        picture: What the model sees of the listing besides; see `genrank.engines.base.ScoreRequest`.
        picture_at: Place of the token that comes after it, 0-based: the first one of the user's turn.
    """

    ids: tuple[int, ...]
    reads: tuple[int, ...]
    listing_ids: tuple[str, ...]
    cuts: Mapping[str, int]
    tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
    neutralised: int = 0
    lead: int = 0
    head: int = 0
    opening: int = 0
    picture: Picture | None = None
    picture_at: int = 0

    def with_picture(self, picture: Picture) -> Prompt:
        """The prompt with a picture at the beginning of the user's turn, before all sections."""
        return dataclasses.replace(self, picture=picture, picture_at=self.tokens["system"])


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
        neutralise: Whether to remove instructions from data; see `genrank.text.injection.neutralise`.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer, *, neutralise: bool = True) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self._harmless = neutraliser(_own_words(template)) if neutralise else None
        self._listings = ListingEncoder(template, tokenizer, self._harmless)
        self._before, self._after = tokenizer.frame(template.system, chat=template.chat)
        self._query_open, self._query_close = self._encode(*split_form("query", template.query, "query"))
        self._intent_open, self._intent_close = self._encode(*(template.intent.around if template.intent else ("", "")))
        self._sections: list[str] = [*template.order]
        if template.intent:
            self._sections.insert(self._sections.index("query") + 1, "intent")
        self._history_head, self._candidates_head, self._end, self._open = self._encode(
            template.history_head, template.candidates_head, template.candidate_end, template.answer_open
        )
        self._question = self._encode(*split_query_form("question", template.question))
        *first, last = split_query_form("instruction", template.instruction)
        self._instruction = self._encode(*first, last + ("" if self._after else template.plain_end))
        names = IDENTIFIERS if template.identifiers == "letters" else NUMBERS
        self._names = self._encode(*(self._name_text(name) for name in names))
        self._askings: dict[tuple[str, bool], Renderer] = {}  # by language, and by whether there is a history
        past = _past_texts(template)
        self._past = dict(zip(past, self._encode(*past.values()), strict=True))
        self._grades = self._encode(*(template.grade.replace("{grade}", str(grade)) for grade in range(_GRADES)))

    def _encode(self, *texts: str) -> list[list[int]]:
        return [list(encoded.ids) for encoded in self.tokenizer.encode(texts)]

    def _name_text(self, identifier: str) -> str:
        *named, between, _ = split_form("candidate", self.template.candidate, *self.template._candidate_holds)
        return named[0] + identifier + between if named else between

    @functools.cached_property
    def answer(self) -> AnswerTokens:
        """The tokens of an answer, found with the model's own tokenizer.

        Raises:
            ConfigError: When answers could not be read with this tokenizer and template.
        """
        template = self.template
        identifiers, between = self._found[1:]
        if template.instruction and len(identifiers) < 2 and "listwise" in template.decodings:
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
        question, asked = split_query_form("question", self.template.question)[-1], self._question[-1]
        if "pointwise" in self.template.decodings:
            if self._after:  # the answer begins a turn of its own
                return tuple(dict.fromkeys(ids[0] for ids in self._encode(*words)))
            question = split_query_form("instruction", self.template.instruction)[-1] + self.template.plain_end
            asked = self._instruction[-1]
        tokens = []
        for encoded in self.tokenizer.encode([question + word for word in words]):
            if list(encoded.ids[: len(asked)]) != asked or len(encoded.ids) == len(asked):
                raise ConfigError(
                    f"prompt template {self.template.name}: this tokenizer merges an answer into the question "
                    f"{question!r}; end the question differently, or begin the answers {words} with a space"
                )
            tokens.append(encoded.ids[len(asked)])
        return tuple(dict.fromkeys(tokens))

    def prepare(
        self,
        query: Query,
        candidates: Sequence[Candidate],
        history: Sequence[Interaction] = (),
        intent: Intent | None = None,
    ) -> PreparedRequest:
        """Prepare to render the windows of one request; each text is read and tokenised once, when first shown.

        Args:
            query: The query.
            candidates: All candidates of the request.
            history: In any order, see `genrank.prompting.history.time_order`.
            intent: What the query means; a template without the section does not show it.
        """
        return PreparedRequest(self, query, candidates, history, intent)

    def render(
        self,
        query: Query,
        candidates: Sequence[Candidate],
        history: Sequence[Interaction] = (),
        intent: Intent | None = None,
        *,
        max_tokens: int,
        decoding: Decoding,
    ) -> Prompt:
        """Render one window; see `PreparedRequest.window`.

        Args:
            query: The query.
            candidates: ``[n]`` in the order in which the model is to see them.
            history: In any order, see `genrank.prompting.history.time_order`.
            intent: What the query means; a template without the section does not show it.
            max_tokens: The budget for the prompt's tokens.
            decoding: ``pointwise`` takes a single candidate, and its question comes at the end. ``inline`` has the
                question after each candidate and nothing behind the last. The others have the instruction and the
                opening of the answer.

        Raises:
            BudgetError: When the budget cannot hold the candidates; says the least one.
            InputError: When there is no candidate, or more than the decoding takes in one prompt.
            ConfigError: When the template is for other decodings.
        """
        prepared = self.prepare(query, candidates, history, intent)
        return prepared.window(range(len(candidates)), max_tokens=max_tokens, decoding=decoding)

    def heads(self, listings: Sequence[Listing], *, max_tokens: int) -> list[Prompt]:
        """The parts of ``pointwise`` prompts that are the same for every query, up to the end of a listing.

        Args:
            listings: ``[n]``.
            max_tokens: The budget of a whole prompt.

        Returns:
            ``[n]`` prompts that end with their head's opening, before the query.

        Raises:
            ConfigError: When the template is not for ``pointwise``, or has the query before the listing.
        """
        if not self._listing_first:
            raise ConfigError(
                f"prompt template {self.template.name} does not begin with the listing, so that nothing is the same "
                "for every query; choose one whose order is ['candidates', ...]"
            )
        prepared = self.prepare(Query("?"), [Candidate(listing) for listing in listings])
        whole = (prepared.point(place, max_tokens=max_tokens) for place in range(len(listings)))
        return [
            dataclasses.replace(prompt, ids=prompt.ids[: prompt.head + prompt.opening], reads=()) for prompt in whole
        ]

    @functools.cached_property
    def _listing_first(self) -> bool:
        return "pointwise" in self.template.decodings and self.template.order[0] == "candidates"

    @functools.cached_property
    def reason_ends(self) -> tuple[int, ...]:
        """Tokens that end a reason: those that consist only of line ends."""
        texts = ("a", "a\n", "a\n\n")
        before, *ended = self._encode(*texts)
        at = len(before)
        return tuple(dict.fromkeys(ids[at] for ids in ended if len(ids) > at and ids[:at] == before))

    def _asking(self, query: Query, *, past: bool) -> Renderer:
        """Renders the requests for a reason in the language of the query; they begin with the examples.

        Args:
            query: The query.
            past: Whether there is a history: the examples are those with one, or those without.

        Raises:
            ConfigError: When the template asks for no reasons.
        """
        forms = self.template.reason
        if not forms:
            raise ConfigError(f"prompt template {self.template.name} has no reason prompt")
        spoken = language(query.text)
        spoken = spoken if spoken in forms else next(iter(forms))
        if (spoken, past) not in self._askings:
            chat = bool(self.tokenizer.frame("")[1])
            template = forms[spoken].template(f"{self.template.name} (reason.{spoken})", chat=chat)
            asking = Renderer(template, self.tokenizer, neutralise=self._harmless is not None)
            for example in forms[spoken].examples:
                if bool(example.history) == past:
                    asking._before += asking._exchange(example)
            self._askings[spoken, past] = asking
        return self._askings[spoken, past]

    def _exchange(self, example: ReasonExample) -> list[int]:
        """An example as tokens, up to the beginning of the user's next turn."""
        template = self.template
        asked = template.query.replace("{query}", example.query) + example.history
        asked += template.candidate.replace("{listing}", example.listing) + template.candidate_end
        question, answer = self._encode(
            asked + template.instruction, example.reason if self._after else " " + example.reason
        )
        return [*question, *self._after, *answer, *self.tokenizer.turn()]

    def _cuts(self, *, intent: int, **cuts: int) -> dict[str, int]:
        """Tokens cut from each section; the intent's only where the template has it."""
        return cuts | ({"intent": intent} if self.template.intent else {})

    def _name(self, i: int) -> list[int]:
        """Tokens before the listing of candidate `i`; after the last identifier, its 1-based number."""
        return self._names[i] if i < len(self._names) else self._encode(self._name_text(str(i + 1)))[0]

    @functools.cached_property
    def _line_parts(self) -> tuple[dict[str, list[int]], list[int]]:
        """The tokens of an interaction's line before its listing, by event, and those after it."""
        before, between, after = split_form("interaction", self.template.interaction, "event", "listing")
        words = EVENT_WORDS | self.template.events
        *heads, tail = self._encode(*(before + word + between for word in words.values()), after)
        return dict(zip(words, heads, strict=True)), tail

    @functools.cached_property
    def _most_interactions(self) -> int:
        """How many interactions to read: as many as can fit into the history's limit, but at least 32."""
        heads, tail = self._line_parts
        shortest = min(map(len, heads.values())) + len(tail) + 1
        return max(_LEAST_INTERACTIONS_READ, self.template.limits.history // shortest)


class PreparedRequest:
    """One request whose windows are rendered; made by `Renderer.prepare`.

    The query, each listing and each interaction are read and tokenised once, when a window first shows them.

    Args:
        renderer: Renders for one template and tokenizer.
        query: The query.
        candidates: All candidates.
        history: In any order.
        intent: What the query means; None when unknown.
    """

    def __init__(
        self,
        renderer: Renderer,
        query: Query,
        candidates: Sequence[Candidate],
        history: Sequence[Interaction],
        intent: Intent | None = None,
    ) -> None:
        self._renderer = renderer
        self._query_asked = query
        self._candidates = candidates
        self._history_given = history
        self._intent_given = intent
        self._listings: dict[int, EncodedListing] = {}  # by the candidate's place
        self._lines: dict[int, _HistoryLine] = {}  # by the interaction's place in time
        self._best: dict[frozenset[str], list[int]] = {}  # by the categories of a window
        self._frame: _Frame | None = None
        self._reasons: PreparedRequest | None = None  # the same in the words of the template's reason prompt

    def window(self, order: Sequence[int], *, max_tokens: int, decoding: Decoding) -> Prompt:
        """Render one window.

        The query is cut to its limit first. If the budget is tight, the history is cut before the candidates (down to a
        quarter of the room for both), starting with the least useful interactions. Then the longest candidates are cut
        to the same length, each from its least important field. What the query means shares the history's room and is
        cut after it, clause by clause from the end.

        Of a long history only the most useful interactions are read, as many as could fit into its limit, and at least
        32. ``cuts["history"]`` counts each of the others as the mean of those that are read, and `Prompt.neutralised`
        does not count them.

        Args:
            order: ``[n]`` places in the request's candidates, in the order in which the model is to see them; 0-based.
            max_tokens: The budget for the prompt's tokens.
            decoding: ``pointwise`` takes a single candidate, and its question comes at the end. ``inline`` has the
                question after each candidate and nothing behind the last. The others have the instruction and the
                opening of the answer.

        Raises:
            BudgetError: When the budget cannot hold the candidates; says the least one.
            InputError: When there is no candidate, or more than the decoding takes in one prompt.
            ConfigError: When the template is for other decodings.
        """
        renderer = self._renderer
        template = renderer.template
        template.check(decoding)
        inline = decoding == "inline"
        n = len(order)
        if decoding == "pointwise":
            if n != 1:
                raise InputError(f"a prompt for pointwise holds one candidate, got {n}", field="candidates")
            return self.point(order[0], max_tokens=max_tokens)
        if not inline and n > (most := len(renderer.answer.identifiers)):
            raise InputError(f"{n} candidates in one window, but only {most} identifiers", field="window")
        if not n:
            raise InputError("no candidates to render; pass at least one", field="candidates")
        query = self._query
        listings = self._encoded(order)
        asked = [*renderer._query_open, *query.ids, *renderer._query_close]
        question = _around(query.ids, renderer._question) if inline else []
        tail = [] if inline else [*_around(query.ids, renderer._instruction), *renderer._after, *renderer._open]
        names = [renderer._name(i) for i in range(n)] if inline else renderer._names_found
        marks = [self._marks.get(place, []) for place in order]
        taken = len(renderer._before) + len(asked) + len(renderer._candidates_head) + len(tail)
        taken += sum(map(len, names[:n])) + sum(map(len, marks)) + (len(question) + len(renderer._end)) * n
        taken -= len(renderer._end) if inline else 0  # nothing comes after the last question
        room = max_tokens - taken
        needs = [min(listing.tokens, template.limits.listing) for listing in listings]
        least = sum(min(MIN_LISTING_TOKENS, need) for need in needs)
        if room < least:
            raise BudgetError(
                f"{max_tokens} tokens cannot hold {n} candidates; give at least {taken + least}, or a smaller window",
                least=taken + least,
            )
        left = max(room - sum(needs), (room - least) // 4)
        intent = self._intent(left)
        history = self._history(order, min(left - len(intent.ids), template.limits.history))
        cap = _fair_cap(needs, room - len(intent.ids) - len(history.ids))

        shown = list(renderer._candidates_head)
        reads = []  # places in `shown`
        cut = 0
        for i, listing in enumerate(listings):
            kept = listing.cut(min(cap, needs[i]))
            cut += listing.tokens + listing.lost - len(kept)
            shown += [*names[i], *kept, *marks[i], *question]
            reads.append(len(shown) - 1)
            shown += renderer._end
        if inline:
            del shown[reads[-1] + 1 :]
        sections: dict[str, Sequence[int]] = {"query": asked, "history": history.ids, "candidates": shown}
        sections["intent"] = intent.ids
        parts: dict[str, Sequence[int]] = {"system": renderer._before}
        parts |= {name: sections[name] for name in renderer._sections}
        parts["instruction"] = tail
        before = sum(len(ids) for ids in parts.values()) - len(shown)  # with questions, the candidates come last
        return Prompt(
            ids=tuple(itertools.chain.from_iterable(parts.values())),
            reads=tuple(before + place for place in reads) if inline else (),
            listing_ids=tuple(self._candidates[place].listing.listing_id for place in order),
            cuts=renderer._cuts(query=query.cut, intent=intent.cut, history=history.cut, candidates=cut),
            tokens={name: len(ids) for name, ids in parts.items()},
            neutralised=query.changed + intent.changed + history.changed + sum(listing.changed for listing in listings),
        )

    def point(self, place: int, *, max_tokens: int) -> Prompt:
        """Render the prompt of one candidate, for ``pointwise``.

        The history is cut first, to leave room for the longest listing that the template allows; it is the same for
        all candidates.

        Args:
            place: The candidate's place in the request, 0-based.
            max_tokens: The budget for the prompt's tokens.

        Raises:
            BudgetError: When the budget cannot hold the candidate; says the least one.
            ConfigError: When the template is not for ``pointwise``.
        """
        if self._frame is None:
            self._renderer.template.check("pointwise")
        return self._alone(place, max_tokens)

    def _alone(self, place: int, max_tokens: int) -> Prompt:
        """The prompt of one candidate, for ``pointwise`` and for its reason."""
        renderer = self._renderer
        if self._frame is None or self._frame.max_tokens != max_tokens:
            self._frame = self._make_frame(max_tokens)
        frame = self._frame
        if place not in self._listings:
            more = range(place, min(place + _ENCODED_TOGETHER, len(self._candidates)))
            self._encoded([other for other in more if other not in self._listings])
        listing = self._listings[place]
        need = min(listing.tokens, frame.room)
        if need < min(MIN_LISTING_TOKENS, listing.tokens):
            least = max_tokens - frame.room + min(MIN_LISTING_TOKENS, listing.tokens)
            raise BudgetError(f"{max_tokens} tokens cannot hold a candidate; give at least {least}", least=least)
        kept = listing.cut(need)
        mark = self._marks.get(place, ())
        ids = (*frame.before, *kept, *mark, *frame.after)
        head = len(frame.before) + len(kept) if renderer._listing_first else 0
        return Prompt(
            ids=ids,
            reads=(len(ids) - 1,),
            listing_ids=(self._candidates[place].listing.listing_id,),
            cuts=frame.cuts | {"candidates": listing.tokens + listing.lost - len(kept)},
            tokens=frame.tokens | {"candidates": frame.tokens["candidates"] + len(kept) + len(mark)},
            neutralised=listing.changed + frame.changed,
            lead=frame.lead,
            head=head,
            opening=0 if mark or not head else frame.opening,
        )

    def _make_frame(self, max_tokens: int) -> _Frame:
        """What the prompts of single candidates share."""
        renderer = self._renderer
        template = renderer.template
        query = self._query
        asked = [*renderer._query_open, *query.ids, *renderer._query_close]
        (name,) = renderer._encode(split_form("candidate", template.candidate, "listing")[0])
        tail = [*_around(query.ids, renderer._instruction), *renderer._after]
        around = [*renderer._candidates_head, *name]
        taken = len(renderer._before) + len(asked) + len(around) + len(renderer._end) + len(tail)
        room = max_tokens - taken
        left = max(room - template.limits.listing, room // 4)
        intent = self._intent(left)
        history = self._history(range(len(self._candidates)), min(left - len(intent.ids), template.limits.history))
        sections: dict[str, Sequence[int]] = {"query": asked, "history": history.ids, "candidates": around}
        sections["intent"] = intent.ids
        place = renderer._sections.index("candidates")
        before = [*renderer._before]
        for section in renderer._sections[: place + 1]:
            before += sections[section]
        after = [*renderer._end]
        for section in renderer._sections[place + 1 :]:
            after += sections[section]
        sections["candidates"] = [*around, *renderer._end]
        return _Frame(
            max_tokens=max_tokens,
            before=before,
            after=[*after, *tail],
            room=min(room - len(intent.ids) - len(history.ids), template.limits.listing),
            lead=len(renderer._before) + (len(around) if place == 0 else 0),
            cuts=renderer._cuts(query=query.cut, intent=intent.cut, history=history.cut),
            tokens={"system": len(renderer._before)}
            | {name: len(sections[name]) for name in renderer._sections}
            | {"instruction": len(tail)},
            changed=query.changed + intent.changed + history.changed,
            opening=len(renderer._end)
            + (0 if history.ids and template.order[1] == "history" else len(renderer._query_open)),
        )

    def reason(self, place: int, *, max_tokens: int) -> Prompt:
        """Render the request for one listing's reason, in a conversation of its own.

        It is the same for every decoding. `Prompt.lead` counts the system text and the examples, which all requests in
        a language share; the query and the history, which all reasons of a query share, come next.

        Args:
            place: The listing's place in the request's candidates, 0-based.
            max_tokens: The budget for the prompt's tokens.

        Raises:
            BudgetError: When the budget cannot hold the request; says the least one.
            ConfigError: When the template asks for no reasons.
        """
        if self._reasons is None:
            asking = self._renderer._asking(self._query_asked, past=bool(self._history_given))
            self._reasons = asking.prepare(self._query_asked, self._candidates, self._history_given)
        return dataclasses.replace(self._reasons._alone(place, max_tokens), reads=())

    @functools.cached_property
    def _query(self) -> _Section:
        """The query's tokens within its limit."""
        limit = self._renderer.template.limits.query
        reader = FieldReader(self._renderer._harmless)
        text, unread = readable(reader.text(self._query_asked.text, limit, keep=True), limit)
        (encoded,) = self._renderer.tokenizer.encode([text])
        ids = encoded.cut(limit)
        cut = len(encoded.ids) - len(ids) + unread_tokens(encoded, unread + reader.unread)
        return _Section(ids, cut, reader.changed)

    def _encoded(self, order: Sequence[int]) -> list[EncodedListing]:
        """The candidates at these places; new ones are encoded in one call of the tokenizer."""
        if new := [place for place in order if place not in self._listings]:
            limit = self._renderer.template.limits.listing
            listings = [self._candidates[place].listing for place in new]
            self._listings.update(zip(new, self._renderer._listings.encode(listings, limit), strict=True))
        return [self._listings[place] for place in order]

    @functools.cached_property
    def _events(self) -> Sequence[Interaction]:
        """The history, oldest first."""
        return in_time_order(self._history_given)

    @functools.cached_property
    def _usefulness(self) -> Usefulness:
        return Usefulness(self._events, self._query_asked)

    @functools.cached_property
    def _marks(self) -> Mapping[int, list[int]]:
        """Tokens after a candidate, by its place: its `grade`, and what the shopper did with it before (`past`)."""
        marks = {place: list(self._renderer._grades[grade]) for place, grade in self._graded.items()}
        if self._renderer._past:
            places = {candidate.listing.listing_id: place for place, candidate in enumerate(self._candidates)}
            did = [event for event in self._events if event.listing.listing_id in places]
            past = {places[event.listing.listing_id]: event.event for event in sorted(did, key=event_weight)}
            for place, event in past.items():
                marks[place] = marks.get(place, []) + self._renderer._past[event]
        return marks

    @property
    def _graded(self) -> dict[int, int]:
        """Each candidate's grade by its place, if the template has `grade` and the candidates have scores."""
        scores = [candidate.score for candidate in self._candidates if candidate.score is not None]
        if not self._renderer.template.grade or len(scores) < len(self._candidates):
            return {}
        # halves, because the difference of two large numbers may be too large
        low = min(scores) / 2
        spread = max(scores) / 2 - low
        if not spread:
            return {}
        return {place: round((_GRADES - 1) * ((score / 2 - low) / spread)) for place, score in enumerate(scores)}

    @functools.cached_property
    def _clauses(self) -> tuple[list[Sequence[int]], int, int]:
        """The clauses of what the query means, as tokens; tokens left unread; and texts that neutralising changed."""
        form = self._renderer.template.intent
        if form is None or self._intent_given is None:
            return [], 0, 0
        reader = FieldReader(self._renderer._harmless)
        texts = form.clauses(self._intent_given, reader)
        encoded = self._renderer.tokenizer.encode([*texts[:1], *(form.between + text for text in texts[1:])])
        unread = unread_tokens(encoded[-1], reader.unread) if texts else 0
        return [one.ids for one in encoded], unread, reader.changed

    def _intent(self, room: int) -> _Section:
        """The first clauses of what the query means, as many as fit into `room` tokens and the section's limit."""
        clauses, unread, changed = self._clauses
        if not clauses:
            return _Section([], unread, changed)
        opening, closing, form = (
            self._renderer._intent_open,
            self._renderer._intent_close,
            self._renderer.template.intent,
        )
        left = min(room - len(opening) - len(closing), form.limit if form else 0)
        lengths = itertools.accumulate(map(len, clauses))
        fitting = [clause for clause, length in zip(clauses, lengths, strict=True) if length <= left]
        ids = list(itertools.chain.from_iterable(fitting))
        cut = sum(map(len, clauses)) - len(ids) + unread
        return _Section([*opening, *ids, *closing] if ids else [], cut, changed)

    def _history(self, order: Sequence[int], room: int) -> _Section:
        """The most useful interactions that fit into `room` tokens, oldest first."""
        if not self._history_given or not self._renderer.template.history_head:
            return _Section([], 0, 0)
        left = room - len(self._renderer._history_head)
        n, most = len(self._events), self._renderer._most_interactions
        lines = self._read_lines(range(n) if n <= most else self._best_for(order, most))
        whole = sum(line.whole for line in lines.values())
        whole += -(-whole * (n - len(lines)) // len(lines))
        fitting: Collection[int] = lines
        if sum(len(line.ids) for line in lines.values()) > left:
            fitting = set()
            for i in self._best_for(order, most):
                if len(lines[i].ids) <= left:
                    fitting.add(i)
                    left -= len(lines[i].ids)
        ids = [token for i in sorted(fitting) for token in lines[i].ids]
        shown = [*self._renderer._history_head, *ids] if ids else []
        return _Section(shown, whole - len(ids), sum(line.changed for line in lines.values()))

    def _best_for(self, order: Sequence[int], count: int) -> list[int]:
        """The interactions that are most useful to a window; see `Usefulness.best`."""
        categories = frozenset(last_category(self._candidates[place].listing) for place in order) - {""}
        if categories not in self._best:
            self._best[categories] = self._usefulness.best(count, categories)
        return self._best[categories]

    def _read_lines(self, places: Sequence[int]) -> dict[int, _HistoryLine]:
        """Interactions as lines; new ones are encoded in one call of the tokenizer."""
        if new := [place for place in places if place not in self._lines]:
            limit = self._renderer.template.limits.interaction
            heads, tail = self._renderer._line_parts
            encoded = self._renderer._listings.encode([self._events[place].listing for place in new], limit)
            for place, listing in zip(new, encoded, strict=True):
                head = heads[self._events[place].event]
                whole = len(head) + len(tail) + listing.tokens + listing.lost
                self._lines[place] = _HistoryLine([*head, *listing.cut(limit), *tail], whole, listing.changed)
        return {place: self._lines[place] for place in places}


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the prompts of a request's single candidates share.

    Attributes:
        max_tokens: The budget of each.
        before: Tokens before the listing.
        after: Tokens after it, and after what the shopper did with it.
        room: The most tokens of a listing.
        lead: How many tokens of `before` are the same for every request.
        cuts: Tokens cut from the query and the history.
        tokens: Tokens of each section, without the listing's.
        changed: Texts of the query and the history that neutralising changed.
        opening: See `Prompt`; of a candidate that is not in the history.
    """

    max_tokens: int
    before: Sequence[int]
    after: Sequence[int]
    room: int
    lead: int
    cuts: dict[str, int]
    tokens: dict[str, int]
    changed: int
    opening: int


@dataclass(frozen=True, slots=True)
class _Section:
    """A part of the prompt that holds data.

    Attributes:
        ids: Its tokens.
        cut: Tokens cut from it.
        changed: Texts that neutralising changed.
    """

    ids: Sequence[int]
    cut: int
    changed: int


@dataclass(frozen=True, slots=True)
class _HistoryLine:
    """One interaction as tokens.

    Attributes:
        ids: Its tokens, cut to the limit.
        whole: How many tokens it would have without a limit.
        changed: Texts that neutralising changed.
    """

    ids: Sequence[int]
    whole: int
    changed: int


def _own_words(template: Template) -> re.Pattern[str]:
    """What data must not contain in this template's prompts: its question with an answer, and its sections' labels."""
    said = []
    labels = [split_form("query", template.query, "query")[0], template.history_head, template.candidates_head]
    labels += [template.intent.around[0]] if template.intent else []
    questions = [template.question] if template.question else []
    if not questions and template._candidate_holds == ("listing",):  # a single candidate
        labels.append(split_form("candidate", template.candidate, "listing")[0])
        if "pointwise" in template.decodings:
            questions = [text for text in (template.instruction, template.plain_end) if _core(text)]
        else:
            labels.append(template.instruction)
    for question in questions:
        asked = split_query_form("question", question)
        more = "" if len(asked) == 1 else "[^:?\n]{0,80}?"
        answers = "|".join(re.escape(fold(word).strip()) for word in (*template.yes, *template.no))
        core = _core(asked[0])
        said.append(rf"{core}{more} ?(?:[:?]\W{{0,3}}(?:(?:{answers})(?!\w))?|(?:{answers})(?!\w))")
    said += [rf"{core}(?!\w)" for core in map(_core, _past_texts(template).values()) if core]
    if template.grade:
        before, after = map(_core, split_form("grade", template.grade, "grade"))
        said.append(rf"{before}\W{{0,3}}\d\W{{0,3}}{after}(?!\w)")
    said += [rf"{core} ?:" for core in map(_core, labels) if core]
    return re.compile(rf"(?<!\w)(?:{'|'.join(said) or '(?!)'})")


def _past_texts(template: Template) -> dict[str, str]:
    """The text after a candidate that is in the history, by event; empty if the template has no `past`."""
    words = (EVENT_WORDS | template.events).items()
    return {event: template.past.replace("{event}", word) for event, word in words} if template.past else {}


def _core(text: str) -> str:
    """The text as a pattern, folded and without punctuation around it."""
    return re.escape(re.sub(r"^\W+|\W+$", "", fold(clean(text))))


def _around(query: Sequence[int], pieces: Sequence[Sequence[int]]) -> list[int]:
    """The pieces of a form, with the query between them where there are two."""
    return [*pieces[0], *query, *pieces[1]] if len(pieces) == 2 else list(pieces[0])


def _fair_cap(needs: Sequence[int], room: int) -> int:
    """The greatest cap with ``sum(min(need, cap)) <= room``, so that the longest are cut first, to the same length."""
    left = room
    ordered = sorted(needs)
    for i, need in enumerate(ordered):
        share = left // (len(ordered) - i)
        if need > share:
            return share
        left -= need
    return ordered[-1] if ordered else 0
