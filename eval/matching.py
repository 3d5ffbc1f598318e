"""How well what was found matches labels."""

from __future__ import annotations


def precision_recall(right: int, missing: int, wrong: int) -> dict[str, float]:
    """Precision, recall and F1.

    Args:
        right: What was found and is labelled.
        missing: What is labelled and was not found.
        wrong: What was found and is not labelled.
    """
    return {
        "precision": right / max(1, right + wrong),
        "recall": right / max(1, right + missing),
        "F1": 2 * right / max(1, 2 * right + wrong + missing),
    }
