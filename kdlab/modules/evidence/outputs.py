"""Evidence of a batch for selection strategies, from the student's hidden states, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from kdlab.models.encoder import Encoder
from kdlab.modules.objective import units_of
from kdlab.types import Batch, Evidence, Outputs, moved


def evidence_of(
    student: Encoder, batch: Batch, outputs: Outputs, chunk: int, count: Callable[[int], None]
) -> Iterator[Evidence]:
    """Evidence with logits, features and labels; in masked-LM in parts, so that at most `chunk` units have logits.

    `outputs`: the student's of `batch`; features of masked-LM need its "hidden". `count` receives the units of each
    run of the head.
    """
    if student.per_row:
        every = torch.arange(len(batch), device=batch.rows.device)
        vectors = student.vectors(outputs, every, every)
        count(len(batch))
        yield Evidence(rows=batch.rows, logits=student.project(vectors), features=vectors, labels=batch.labels)
        return
    hidden, features = outputs.hidden, student.features(outputs)
    assert hidden is not None
    host_order, on_host = batch.host.label_places()  # where none exists, token 0, whose hidden state is always there
    order, exists = (moved(each, hidden.device) for each in (host_order, on_host))
    widest = order.shape[1]
    step = max(1, chunk // widest)
    for start in range(0, len(batch), step):
        part = slice(start, start + step)
        vectors = hidden[part].gather(1, order[part].unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        count(vectors.shape[0] * widest)
        yield Evidence(
            rows=batch.rows[part],
            logits=student.project(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2]),
            features=features[part],
            labels=batch.labels[part].gather(1, order[part]),
            mask=exists[part],
            places=moved(on_host[part].flatten().nonzero().squeeze(1), hidden.device),
        )


def unit_evidence(
    student: Encoder, batch: Batch, outputs: Outputs, chunk: int, count: Callable[[int], None]
) -> Iterator[Evidence]:
    """Evidence of the positions with a label, each a row of its own, in order: `chunk` of them at a time, at least once.

    `rows` (n,): the row ids that they belong to; logits (n, C), features (n, H), the last hidden states, labels (n,).
    `count` as of `evidence_of`.
    """
    row, token = (moved(place, batch.rows.device) for place in units_of(batch, "labelled"))
    for start in range(0, max(1, len(row)), chunk):
        part = slice(start, start + chunk)
        vectors = student.vectors(outputs, row[part], token[part])
        count(len(vectors))
        yield Evidence(
            rows=batch.rows[row[part]],
            logits=student.project(vectors),
            features=vectors,
            labels=batch.labels[row[part], token[part]],
        )
