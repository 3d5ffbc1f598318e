"""Dataset folders, TREC files and JSON Lines; also the sample shop and the adapters that ship with genrank."""
