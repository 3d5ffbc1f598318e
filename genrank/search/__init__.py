"""Around the reranker: how candidates are found."""
