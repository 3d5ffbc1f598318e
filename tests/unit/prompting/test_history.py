from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.engines.tokenizer import Encoded
from genrank.prompting.history import Usefulness, in_time_order, last_category, time_order, usefulness
from genrank.types import Candidate, Decoding, Interaction, Listing, Query
from tests.prompt_rig import HISTORY, NO_CUTS, Rig, candidates_of, past, words


def test_events_in_the_templates_own_words() -> None:
    assert "- saw: Red hat\n- bought: Blue belt\n" in Rig(events={"view": "saw"}).render(candidates_of("t"), HISTORY)[0]


@pytest.mark.parametrize("decoding", ["inline", "listwise"])
def test_a_candidate_of_the_history_is_marked_with_the_most_that_was_done_with_it(decoding: Decoding) -> None:
    rig = Rig(past=" ({event} before)", events={"view": "saw"})
    listings = [candidate.listing for candidate in candidates_of("Red dress", "Blue coat", "Hat")]
    history = [Interaction("purchase", listings[1]), Interaction("view", listings[1]), Interaction("view", listings[2])]
    (text, cuts, _) = rig.render([Candidate(listing) for listing in listings], history, decoding=decoding)
    end = "\nFit:" if decoding == "inline" else ""
    assert f"[A] Red dress{end}\n[B] Blue coat (bought before){end}\n[C] Hat (saw before){end}" in text
    assert cuts == NO_CUTS


def test_what_is_past_is_marked_where_the_history_itself_has_no_room() -> None:
    rig = Rig(past=" ({event} before)", limits={"history": 0})
    (text, cuts, _) = rig.render([Candidate(HISTORY[1].listing)], HISTORY)
    assert text.endswith("[A] Blue belt (bought before)\nFit:")
    assert cuts["history"]


@pytest.mark.parametrize("decoding", ["inline", "listwise"])
def test_a_mark_is_never_cut(decoding: Decoding) -> None:
    rig = Rig(past=" ({event} before)")
    candidates = [Candidate(Listing("h1", words(40))), *candidates_of(words(40))]
    least = rig.least(candidates, history=HISTORY, decoding=decoding)
    (text, _, tokens) = rig.render(candidates, HISTORY, max_tokens=least, decoding=decoding)
    assert tokens == least
    assert text.count("w (bought before)") == 1


def test_no_listing_can_say_that_it_is_past() -> None:
    rig = Rig(past=" ({event} before)", neutralise=True)
    (text, _, _) = rig.render(candidates_of("Hat (bought before)", "Coat (VIEWED before)"), HISTORY)
    assert "before" not in text.casefold()


def test_of_equal_interactions_the_oldest_are_dropped_first() -> None:
    rig = Rig()
    head = rig.count("Past:\n")
    line = rig.count("- viewed: ", "old 0 thing", "\n")
    for shown in range(4):
        limited = Rig(limits={"history": head + shown * line + line - 1})
        text, cuts, _ = limited.render(candidates_of("Hat"), past(4))
        kept = [f"- viewed: old {i} thing\n" for i in range(4 - shown, 4)]
        assert ("Past:\n" + "".join(kept) if kept else "") + "Listings:" in text
        assert f"old {3 - shown} thing" not in text
        assert cuts == NO_CUTS | {"history": (4 - shown) * line}


def test_the_most_useful_interactions_stay_and_are_shown_oldest_first() -> None:
    history = [
        Interaction("purchase", Listing("h0", "old 0 dress")),  # 1/5 + 1 (the query's word) + 1.0
        Interaction("view", Listing("h1", "old 1 thing", category=("Home", "Hats"))),  # 2/5 + 1 (category) + 0.2
        Interaction("view", Listing("h2", "old 2 thing")),  # 3/5 + 0.2
        Interaction("cart", Listing("h3", "old 3 thing")),  # 4/5 + 0.6
        Interaction("view", Listing("h4", "old 4 thing")),  # 5/5 + 0.2
    ]
    candidate = Candidate(Listing("p0", "Cap", category=("Men", "hats")))
    useful = [1 / 5 + 1 + 1.0, 2 / 5 + 1 + 0.2, 3 / 5 + 0.2, 4 / 5 + 0.6, 5 / 5 + 0.2]
    assert usefulness(history, Query("dress"), [candidate.listing]) == pytest.approx(useful)
    rig = Rig(fields={"title": "{value}"})
    line = rig.count("- viewed: old 0 thing\n") + 2  # the longest line is "- put in cart: "
    for shown, kept in enumerate(["", "0", "01", "013", "0134", "01234"]):
        limited = Rig(fields={"title": "{value}"}, limits={"history": rig.count("Past:\n") + shown * line})
        text, cuts, _ = limited.render([candidate], history)
        assert re.findall(r"old (\d)", text) == list(kept)
        assert (cuts["history"] > 0) == (shown < 5)


@pytest.mark.parametrize("query", ["连衣裙 夏季", "dress"])
def test_what_the_shopper_did_weighs_in_the_order_of_its_effort(query: str) -> None:
    listing = Listing("h", "x")
    doings = [
        Interaction("view", listing),
        Interaction("click", listing),
        Interaction("cart", listing),
        Interaction("rating", listing, rating=1.0),
        Interaction("rating", listing),
        Interaction("rating", listing, rating=5.0),
        Interaction("purchase", listing),
    ]
    useful = [usefulness([doing], Query(query), [listing])[0] for doing in doings]
    assert useful == sorted(set(useful))
    near = usefulness([Interaction("view", Listing("h", f"{query}!"))], Query(query), [listing])[0]
    assert near == pytest.approx(useful[0] + 1)


def test_a_template_may_pass_over_the_history() -> None:
    assert (
        Rig(history_head="", interaction="")
        .render(candidates_of("Hat"), HISTORY)[0]
        .startswith("Query: dress\nListings:")
    )


DAYS = [datetime(2026, 5, day, tzinfo=UTC) for day in range(1, 6)]


def _at(*times: datetime | None) -> list[Interaction]:
    return [Interaction("view", Listing(f"h{i}", f"thing {i}"), time=time) for i, time in enumerate(times)]


@pytest.mark.parametrize(
    ("times", "order"),
    [
        ([], []),
        ([None, None, None], [0, 1, 2]),
        (DAYS, [0, 1, 2, 3, 4]),
        (DAYS[::-1], [4, 3, 2, 1, 0]),
        ([DAYS[2], DAYS[0], DAYS[1]], [1, 2, 0]),
        ([DAYS[1], DAYS[1], DAYS[0]], [2, 1, 0]),  # from new to old
        ([DAYS[0], DAYS[1], DAYS[1]], [0, 1, 2]),
        ([None, DAYS[0], None, DAYS[1], None], [0, 1, 2, 3, 4]),
        ([None, DAYS[1], None, DAYS[0], None], [4, 3, 2, 1, 0]),
        ([DAYS[0], DAYS[4], None, DAYS[2]], [0, 3, 2, 1]),  # the third counts as of day 3.5
        # without a zone it is UTC: 11:00+02:00 is before 10:00
        (
            [
                datetime(2026, 5, 1, 10),
                datetime(2026, 5, 1, 11, tzinfo=timezone(timedelta(hours=2))),
                datetime(2026, 5, 1, 10, 30, tzinfo=UTC),
            ],
            [1, 0, 2],
        ),
        ([datetime.max, datetime.min], [1, 0]),
    ],
)
def test_a_history_is_put_in_the_order_of_its_times(times: list[datetime | None], order: list[int]) -> None:
    history = _at(*times)
    assert list(time_order(history)) == order
    assert list(in_time_order(history)) == [history[i] for i in order]


@given(st.permutations(range(5)))
def test_a_prompt_does_not_depend_on_the_order_of_a_dated_history(order: list[int]) -> None:
    events: list[Any] = ["purchase", "view", "cart", "view", "view"]
    history = [
        Interaction(event, Listing(f"h{i % 3}", f"old {i} thing"), time=DAYS[i]) for i, event in enumerate(events)
    ]
    rig = Rig(past=" ({event} before)", limits={"history": 24})
    candidates = [Candidate(Listing("h0", "Hat")), *candidates_of("Coat")]
    expected = rig.render(candidates, history)
    assert "old" in expected[0]
    assert rig.render(candidates, [history[i] for i in order]) == expected


EVENTS: list[Any] = ["view", "click", "cart", "purchase", "rating"]


def _long(n: int) -> list[Interaction]:
    words = ["red dress", "dress", "hat", "Réd", "redress", "连衣裙"]
    return [
        Interaction(
            EVENTS[i * 7 % 5],
            Listing(f"h{i}", f"{words[i * 11 % 6]} number {i}", category=("Home", f"C{i % 9}")),
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("query", ["red dress", "连衣裙", " ".join(f"w{i}" for i in range(40)) + " red", "nothing"])
@pytest.mark.parametrize("category", [(), ("Men", "c3")])
def test_the_best_interactions_are_those_of_the_greatest_usefulness(query: str, category: tuple[str, ...]) -> None:
    history = _long(500)
    asked, candidates = Query(query), [Listing("p", "x", category=category)]
    useful = usefulness(history, asked, candidates)
    expected = sorted(range(500), key=lambda i: (useful[i], i), reverse=True)
    categories = {last_category(listing) for listing in candidates} - {""}
    for count in (1, 40, 500, 600):
        assert Usefulness(history, asked).best(count, categories) == expected[:count]


def test_of_a_long_history_only_the_most_useful_interactions_are_tokenised_and_the_rest_is_estimated() -> None:
    rig = Rig(limits={"history": 256})
    encode = rig.tokenizer.encode
    seen: list[str] = []

    def spy(texts: Sequence[str]) -> list[Encoded]:
        seen.extend(texts)
        return encode(texts)

    history = _long(10_000)
    line = rig.count("- viewed: ", "red dress number 1", "\n")
    rig.tokenizer.encode = spy  # type: ignore[method-assign]
    text, cuts, _ = rig.render(candidates_of("Red dress"), history, query="red dress")
    assert sum("number" in one for one in seen) <= max(32, 256 // rig.count("- viewed: ", "x", "\n"))
    shown = [int(number) for number in re.findall(r"number (\d+)", text)]
    assert shown == sorted(shown)
    useful = usefulness(history, Query("red dress"), [Listing("p", "Red dress")])
    least = min(useful[i] for i in shown)
    assert len(shown) > 10
    assert sum(score > least for score in useful) <= len(shown) + 3, "but for lines that did not fit"
    assert cuts["history"] == pytest.approx((10_000 - len(shown)) * line, rel=0.3)


def test_the_windows_of_a_request_share_what_was_read() -> None:
    rig = Rig(neutralise=True)
    encode = rig.tokenizer.encode
    seen: list[str] = []

    def spy(texts: Sequence[str]) -> list[Encoded]:
        seen.extend(texts)
        return encode(texts)

    history = _long(100)
    candidates = [Candidate(Listing(f"p{i}", f"Dress {i}", category=("x", f"C{i}"), brand=f"B{i}")) for i in range(6)]
    expected = {
        order: rig.renderer.render(
            Query("dress"), [candidates[i] for i in order], history, max_tokens=999, decoding="inline"
        )
        for order in [(0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 4, 5)]
    }
    rig.tokenizer.encode = spy  # type: ignore[method-assign]
    prepared = rig.renderer.prepare(Query("dress"), candidates, history)
    for order, prompt in expected.items():
        assert prepared.window(order, max_tokens=999, decoding="inline") == prompt
    texts = [text for text in seen if "Dress" in text or "number" in text or text == "dress"]
    assert len(texts) == len(set(texts)), "each text is tokenised once"
