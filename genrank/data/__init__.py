"""Data that ships with genrank: the synthetic sample shop (see `genrank.dataset.sample_shop`)."""
