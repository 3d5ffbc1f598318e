"""Words for the shopper: summaries and titles that say only what is known, and what reviews say by aspect."""

from genrank.words.aspects import AspectReader, Opinion, Reading
from genrank.words.writer import LeftOut, Words, Written

__all__ = ["AspectReader", "LeftOut", "Opinion", "Reading", "Words", "Written"]
