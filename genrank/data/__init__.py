"""Data that ships with genrank: the synthetic sample shop (see `genrank.data.dataset.sample_shop`)."""
