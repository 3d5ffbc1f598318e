"""From a query, a history and a window of candidates to the tokens that a model reads."""
