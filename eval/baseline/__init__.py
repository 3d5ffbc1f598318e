"""BERT + GBDT: the two-stage ranker that shops run today, as the system to beat."""
