from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.rewards import diversity_reward, format_reward, grounding_reward, ndcg_reward
from genrank.reasons.grounding import Facts
from genrank.types import Interaction, Listing, Query

NAMES = ["A", "B", "C", "D"]
LISTING = Listing("l1", "Cotton Tote Bag", brand="Marimekko", attributes={"colour": "red"})


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[str], list[float], list[int]]:
    """Names, gains and an order."""
    n = draw(st.integers(2, 20))
    gains = draw(st.lists(st.sampled_from([0.0, 1.0, 3.0, 7.0]), min_size=n, max_size=n))
    return [chr(ord("A") + place) for place in range(n)], gains, draw(st.permutations(range(n)))


def written(names: list[str], order: list[int]) -> str:
    return "[" + "] > [".join(names[place] for place in order) + "]"


class TestNdcg:
    def test_the_formula(self) -> None:
        found = ndcg_reward("[B] > [A] > [C]", NAMES[:3], [3.0, 1.0, 0.0])
        expected = (1 / math.log2(2) + 3 / math.log2(3)) / (3 / math.log2(2) + 1 / math.log2(3))
        assert found == pytest.approx(expected)

    def test_what_is_missing_stands_behind_in_the_order_of_the_window(self) -> None:
        gains = [1.0, 7.0, 3.0, 0.0]
        assert ndcg_reward("[B]", NAMES, gains) == pytest.approx(ndcg_reward("[B] > [A] > [C] > [D]", NAMES, gains))

    def test_only_the_first_k_count(self) -> None:
        assert ndcg_reward("[A] > [B]", NAMES[:2], [0.0, 1.0], k=1) == 0

    @pytest.mark.parametrize("text", ["", "They all fit.", "[Z] > [Y]"])
    def test_an_answer_without_an_order_is_worth_nothing(self, text: str) -> None:
        assert ndcg_reward(text, NAMES, [3.0, 0.0, 0.0, 0.0]) == 0
        assert format_reward(text, NAMES) == 0
        assert diversity_reward(text, NAMES, ["a", "b", "", ""], 2) == 0

    def test_a_window_without_a_gain_is_worth_nothing(self) -> None:
        assert ndcg_reward("[A] > [B]", NAMES[:2], [-1.0, 0.0]) == 0

    @given(windows())
    def test_it_is_0_to_1_and_1_for_the_best_order(self, window: tuple[list[str], list[float], list[int]]) -> None:
        names, gains, order = window
        assert 0 <= ndcg_reward(written(names, order), names, gains) <= 1
        best = sorted(order, key=lambda place: -gains[place])
        assert ndcg_reward(written(names, best), names, gains) == pytest.approx(float(any(gains)))

    @given(windows(), st.integers(0, 18))
    def test_a_better_pair_is_never_worth_less(self, window: tuple[list[str], list[float], list[int]], at: int) -> None:
        names, gains, order = window
        at %= len(order) - 1
        first, second = order[at : at + 2]
        if gains[first] < gains[second]:
            first, second = second, first
        head, tail = order[:at], order[at + 2 :]
        better, worse = (written(names, [*head, *pair, *tail]) for pair in ((first, second), (second, first)))
        assert ndcg_reward(better, names, gains) >= ndcg_reward(worse, names, gains)


class TestFormat:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("[B] > [A] > [D] > [C]", 1.0),
            ("[B]>[A]>[D]>[C]\n", 1.0),
            ("B > A > D > C", 1.0),
            ("[B] > [A] > [D]", 3 / 4),
            ("[B] > [A] > [D] > [C] > [B]", 3 / 4),
            ("[B] > [A] > [D] > [C] > [Z]", 3 / 4),
            ("[B] > [A] > [D] > [B]", 1 / 2),
            ("[B] > [A] > [D] > [C] ok!!", 4 / 8),
            ("[B] > [B] > [B] > [B] > [B]", 0.0),
        ],
    )
    def test_each_repair_costs(self, text: str, expected: float) -> None:
        assert format_reward(text, NAMES) == pytest.approx(expected)

    @given(windows())
    def test_a_clean_order_is_worth_1_and_anything_more_or_less_costs(
        self, window: tuple[list[str], list[float], list[int]]
    ) -> None:
        names, _, order = window
        clean = written(names, order)
        assert format_reward(clean, names) == 1
        for text in (clean + " > [A]", clean + " > [zz]", clean + " done", "So: " + clean, written(names, order[1:])):
            assert 0 <= format_reward(text, names) < 1

    @given(st.text(alphabet="ABCDZ[]>, 。x\n", max_size=40))
    def test_any_text_is_worth_0_to_1(self, text: str) -> None:
        assert 0 <= format_reward(text, NAMES) <= 1
        assert 0 <= ndcg_reward(text, NAMES, [3.0, 1.0, 0.0, 0.0]) <= 1
        assert 0 <= diversity_reward(text, NAMES, ["a", "a", "b", ""], 3) <= 1


class TestDiversity:
    def test_brands_of_the_most_there_could_be(self) -> None:
        brands = ["Lux", "LUX ", "Nova", ""]
        assert diversity_reward("[A] > [C] > [B] > [D]", NAMES, brands, 2) == 1
        assert diversity_reward("[A] > [B] > [C] > [D]", NAMES, brands, 2) == 1 / 2
        assert diversity_reward("[D] > [A] > [C] > [B]", NAMES, brands, 2) == 1 / 2
        assert diversity_reward("[A] > [B] > [C] > [D]", NAMES, brands, 4) == 1

    def test_without_brands_all_orders_are_alike(self) -> None:
        assert diversity_reward("[A] > [B]", NAMES[:2], ["", ""], 2) == 1


class TestGrounding:
    facts = Facts(Query("red tote bag", "q"), LISTING, (), [Listing("l2", "Canvas Bag", brand="Muji")])

    def test_a_true_reason_is_worth_1(self) -> None:
        assert grounding_reward("It is a red cotton tote bag by Marimekko.", self.facts) == 1

    def test_the_share_of_claims_that_stand_counts_by_half_where_one_does_not(self) -> None:
        found = grounding_reward("It is a red bag made of leather.", self.facts)
        assert found == pytest.approx(1 / 2 / 2)
        assert found > grounding_reward("It is a blue bag made of leather.", self.facts) == 0

    @pytest.mark.parametrize("text", ["", " \n ", "这是红色的包。", "Es ist eine Tasche und sehr praktisch für Sie."])
    def test_nothing_and_another_language_are_worth_nothing(self, text: str) -> None:
        assert grounding_reward(text, self.facts) == 0

    def test_a_reason_with_nothing_to_do_with_the_listing_is_worth_nothing(self) -> None:
        assert grounding_reward("That is what you want.", self.facts) == 0

    def test_words_of_the_listing_may_be_of_any_language(self) -> None:
        listing = Listing("l1", "Café Crème mug", brand="Émile", attributes={"colour": "red"})
        assert grounding_reward("It is a red mug by Émile.", Facts(Query("red mug", "q"), listing)) == 1
        chinese = Facts(Query("红色 背包", "q"), Listing("l1", "Fjällräven 背包", attributes={"颜色": "红色"}))
        assert grounding_reward("颜色是红色。", chinese) == 1
        assert grounding_reward("It is a red one.", chinese) == 0

    def test_the_past_is_evidence(self) -> None:
        history = (Interaction("purchase", Listing("l3", "Mug", brand="Marimekko")),)
        assert grounding_reward("You bought Marimekko before.", Facts(Query("bag", "q"), LISTING, history)) == 1

    @given(st.text(max_size=60))
    def test_any_text_is_worth_0_to_1(self, text: str) -> None:
        assert 0 <= grounding_reward(text, self.facts) <= 1
