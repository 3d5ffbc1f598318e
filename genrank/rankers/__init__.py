"""Trained rankers that serve beside the language model: as first stages, as fallbacks, as the systems to beat."""
