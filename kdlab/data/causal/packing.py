"""Documents packed into rows of at most a number of tokens, once, so that a row is the same in every epoch."""

from __future__ import annotations

import bisect

import numpy as np


def pack(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Put documents of `lengths` (n,) tokens into rows of `capacity` tokens: best fit decreasing.

    Returns the documents (n,) int64 in the order of the rows, and bounds (R + 1,) int64: row r holds the documents from
    bounds[r] to bounds[r + 1]. Within a row, and by their first document, rows are in the order of the documents. ValueError
    for a document longer than a row.
    """
    if len(lengths) and int(lengths.max()) > capacity:
        raise ValueError(f"a document of {int(lengths.max())} tokens does not fit into a row of {capacity}")
    rows: list[list[int]] = []
    free: dict[int, list[int]] = {}  # rows by their free tokens
    spaces: list[int] = []  # the keys of `free`, ascending
    for document in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[document])
        place = bisect.bisect_left(spaces, length)
        if place < len(spaces):
            space = spaces[place]
            row = free[space].pop()
            if not free[space]:
                del free[space], spaces[place]
        else:
            row, space = len(rows), capacity
            rows.append([])
        rows[row].append(document)
        if (left := space - length) > 0:
            if left not in free:
                bisect.insort(spaces, left)
                free[left] = []
            free[left].append(row)
    rows = sorted(sorted(row) for row in rows)
    order = np.array([document for row in rows for document in row], dtype=np.int64)
    return order, np.cumsum([0, *map(len, rows)], dtype=np.int64)
