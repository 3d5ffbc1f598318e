"""What a query means: a structured intent in the catalogue's own words, chosen by the language model."""

from genrank.search.understanding.choosing import Choice, choose
from genrank.search.understanding.labels import LabelledQuery
from genrank.search.understanding.understanding import Lesson, Understanding
from genrank.search.understanding.vocabulary import Facet, Vocabulary
from genrank.types import Guess, Intent

__all__ = ["Choice", "Facet", "Guess", "Intent", "LabelledQuery", "Lesson", "Understanding", "Vocabulary", "choose"]
