"""Results as plain text, for the log and the console."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pet.evaluation.classification import ClassTable, Ints


def class_table_lines(table: ClassTable, class_names: Sequence[str], limit: int = 30) -> list[str]:
    """One line for each class: precision, recall, F1 (percent) and support.

    Args:
        table: numbers of the C classes.
        class_names: C names.
        limit: with more classes, those with the lowest F1, lowest first.
    """
    order = list(range(len(class_names)))
    note = ""
    if len(class_names) > limit:
        order = np.argsort(table.f1, kind="stable")[:limit].tolist()
        note = f"the {limit} lowest F1 of {len(class_names)} classes:"
    width = max(len("class"), *(len(class_names[c]) for c in order))
    lines = [note] if note else []
    lines.append(f"{'class':<{width}}  precision   recall       F1  support")
    for c in order:
        numbers = f"{table.precision[c]:9.2f}{table.recall[c]:9.2f}{table.f1[c]:9.2f}{int(table.support[c]):9d}"
        lines.append(f"{class_names[c]:<{width}}  {numbers}")
    return lines


def confusion_lines(confusion: Ints, class_names: Sequence[str], limit: int = 10) -> list[str]:
    """The most frequent mistakes, most frequent first, one a line; no line when there is none.

    Args:
        confusion: (C, C) counts, row = ground truth.
        class_names: C names.
        limit: lines at most.
    """
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    worst = np.argsort(-mistakes, axis=None, kind="stable")[:limit]
    lines = []
    for truth, predicted in zip(*np.unravel_index(worst, mistakes.shape), strict=True):
        count = int(mistakes[truth, predicted])
        if count:
            lines.append(f"{count:6d} x {class_names[truth]} taken for {class_names[predicted]}")
    return lines
