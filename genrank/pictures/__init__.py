"""Pictures of listings, for models that look at pictures: where they may come from, and how they are fetched."""

from __future__ import annotations

from genrank.pictures.loader import PictureLoader
from genrank.pictures.preparing import Picture
from genrank.pictures.settings import Pictures

__all__ = ["Picture", "PictureLoader", "Pictures"]
