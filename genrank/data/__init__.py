"""Dataset folders, TREC files, JSON Lines, documents of other systems; the sample shop and the adapters that ship."""
