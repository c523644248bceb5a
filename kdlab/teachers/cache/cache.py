"""A teacher's answer cache: each answer is stored by row, and later queries for the row run no forward.

Answers always come from the store: fresh ones are written first and read back. The last bits of a fresh answer depend on
the rows that ran beside it, so the first one stored is the row's answer from then on.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from kdlab.errors import UserError
from kdlab.models.encoder import Encoder
from kdlab.runtime import distributed
from kdlab.runtime.ledger import ALWAYS, Ledger
from kdlab.runtime.seeding import stable
from kdlab.teachers.cache.answer_store import AnswerStore, CachedRow
from kdlab.teachers.cache.codec import CacheSpec, Project, UnitLogits, encode_rows, join_rows
from kdlab.teachers.cache.partial import due_units, merged
from kdlab.types import Batch, Outputs


@dataclass
class CacheLookup:
    """A teacher's answer about the rows of a batch.

    `outputs`: its hidden states; `logits`: those that a cache stored in the place of hidden states (None: they follow from
    `outputs`); `forwards`: the batches that a forward ran for.
    """

    outputs: Outputs
    logits: UnitLogits | None = None
    forwards: list[Batch] = field(default_factory=list)


class CacheUnusable(Exception):
    """The cache cannot be used, and the run continues without it."""


class AnswerCache:
    """The answers of one teacher by row, in `store`; `spec`: the part of an answer that is stored.

    `outputs`: C (or V) of its logits. `key` names the answers and seeds the sampled ones. `fixed_inputs`: a row is the same
    input in every epoch. `single_rows`: a missing row runs in a batch of its own, so that its bits do not depend on other
    rows. `on_fault`, of a damaged store or a full disk: "rebuild" queries damaged rows again, and stops writing when the
    disk is full; "without" continues without the cache; "refuse" raises UserError. `notify` takes a line for the user.

    `run` identifies a run across its interruptions, `step` counts its micro-steps. Rows that this run queried at the same
    step before it was killed, and resumed from a checkpoint, count as queries, as in a run that was never killed.
    """

    def __init__(
        self,
        store: AnswerStore,
        spec: CacheSpec,
        outputs: int,
        key: str,
        fixed_inputs: bool,
        ledger: Ledger | None = None,
        single_rows: bool = False,
        on_fault: str = "rebuild",
        notify: Callable[[str], None] = print,
    ) -> None:
        self.store, self.spec, self.outputs, self.key = store, spec, outputs, key
        self.fixed_inputs, self.ledger, self.single_rows = fixed_inputs, ledger, single_rows
        self._on_fault, self._notify = on_fault, notify
        self.run, self._step = 0, 0
        self._this_step: set[tuple[int, int]] = set()  # (epoch, row) of the rows looked up at this step
        self._informed = False
        self.usable = self.writes = True

    @property
    def step(self) -> int:
        """The micro-step of the run."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step, self._this_step = step, set()

    def share_step(self) -> None:
        """Take the rows that other ranks queried at this step as queried, so that a rank that gets one of them reads the
        stored answer (collective)."""
        own = torch.tensor(sorted(self._this_step), dtype=torch.long).reshape(-1, 2)
        self._this_step.update((epoch, row) for epoch, row in distributed.gather_rows(own).tolist())

    def lookup(self, name: str, encoder: Encoder, project: Project, batch: Batch, count: bool) -> CacheLookup:
        """The answer about the rows of `batch`; rows that are missing run a forward and are stored. Raises CacheUnusable.

        `count`: enter into the ledger, by the teacher's `name`, the real rows that were queried and those answered here.
        """
        with self._time("teacher_cache"):
            epoch, host = ALWAYS if self.fixed_inputs else batch.epoch, batch.host
            rows, real, checksums = host.rows.tolist(), host.real.tolist(), self._checksums(host)
            stored = self._read(epoch, rows, checksums)
            now, layers = (self.run, self._step), encoder.model.config.num_hidden_layers
            answered = [(epoch, row) in self._this_step for row in rows]
            queried = [
                entry is None or ((entry.run, entry.step) == now and not known)
                for entry, known in zip(stored, answered, strict=True)
            ]
            asked, incomplete = batch, any(entry is None for entry in stored)
            if found := due_units(self.spec, batch, stored, now, answered, layers):
                due, incomplete = found
                queried = [entry is None or one for entry, one in zip(stored, due.any(1).tolist(), strict=True)]
                asked = batch.narrowed(due)
            forwards = self._batches(asked, queried)
            if incomplete:
                # this run stored rows of this step just before it was killed: they run again with the missing ones, so
                # that the answers to these have the same bits
                with self._time("teacher_forward"):
                    payloads = [row for part in forwards for row in self._encode(encoder, project, part)]
                places = [i for i, one in enumerate(queried) if one]
                if found:
                    payloads = self._merged(batch, stored, places, payloads, layers)
                self._store(epoch, rows, checksums, places, payloads, real, stored)
            if count and self.ledger is not None:
                mask = torch.tensor(queried)
                self.ledger.count_queries(name, host.rows[mask & host.real], batch.epoch)
                self.ledger.count_cached(name, host.rows[~mask & host.real])
            self._this_step.update(
                (epoch, row) for row, one, counts in zip(rows, queried, real, strict=True) if one and counts
            )
            payloads = [entry.payload for entry in stored if entry is not None]
            return CacheLookup(*join_rows(self.spec, batch, payloads, self.outputs, layers), forwards)

    def _batches(self, batch: Batch, mask: Sequence[bool]) -> list[Batch]:
        """The batches in which the rows in `mask` run."""
        index = [i for i, one in enumerate(mask) if one]
        if self.single_rows:
            return [batch.take(torch.tensor([i])) for i in index]
        if len(index) == len(batch):
            return [batch]
        return [batch.take(torch.tensor(index))] if index else []

    def _encode(self, encoder: Encoder, project: Project, batch: Batch) -> list[bytes]:
        """The bytes to store of each row, after a forward over `batch`."""
        rows, k = batch.host.rows.tolist(), self.spec.k

        def draw(i: int, units: int) -> np.ndarray:
            """Uniform numbers (units, k) of a row, which depend on the row and its masks alone."""
            rng = np.random.Generator(np.random.Philox(key=stable("answers", self.key, batch.epoch, rows[i])))
            return rng.random((units, k))

        return encode_rows(self.spec, encoder, project, batch, self.outputs, draw, (self.run, self._step))

    def _merged(
        self,
        batch: Batch,
        stored: Sequence[CachedRow | None],
        places: Sequence[int],
        payloads: Sequence[bytes],
        layers: int,
    ) -> list[bytes]:
        """The `payloads` of the rows at `places`, each with what is `stored` of the row."""
        every = self.spec.every_unit(batch.host)
        entries = [(stored[i], i) for i in places]
        return [
            payload if entry is None else merged(self.spec, entry, payload, every[i], layers)
            for payload, (entry, i) in zip(payloads, entries, strict=True)
        ]

    def _store(
        self,
        epoch: int,
        rows: Sequence[int],
        checksums: Sequence[int],
        places: Sequence[int],
        payloads: Sequence[bytes],
        real: Sequence[bool],
        stored: list[CachedRow | None],
    ) -> None:
        """Write `payloads`, the answers to the rows at `places`, if they are real; put the stored ones into `stored`."""
        for i, payload in zip(places, payloads, strict=True):
            stored[i] = CachedRow(np.frombuffer(payload, np.uint8), self.run, self._step)
        written = [(i, payload) for i, payload in zip(places, payloads, strict=True) if real[i]]
        if not written or not self.writes:
            return
        ids, sums = [rows[i] for i, _ in written], [checksums[i] for i, _ in written]
        try:
            self.store.write(epoch, ids, sums, [payload for _, payload in written], self.run, self._step)
        except OSError as error:
            self.writes = False
            self.usable = self._on_fault != "without"
            self.handle_error(error, "writing to it" if self.usable else "it")
            return
        for (i, _), entry in zip(written, self._read(epoch, ids, sums), strict=True):
            stored[i] = entry or stored[i]

    def _read(self, epoch: int, rows: Sequence[int], checksums: Sequence[int]) -> list[CachedRow | None]:
        try:
            return self.store.read(epoch, rows, checksums, self.handle_fault)
        except OSError as error:
            self.usable = False
            self.handle_error(error, "it")
            raise CacheUnusable from error

    def handle_error(self, error: OSError, without: str) -> None:
        """Report that the disk fails (it is full, for example) and the run continues without `without`; UserError for "refuse"."""
        what = f"{error.strerror or error} in {getattr(self.store, 'folder', 'memory')}"
        if self._on_fault == "refuse":
            raise UserError(f"teacher cache: {what}; free some space, or teachers.cache_trouble=without") from error
        self._notify(f"teacher cache: {what}; the run continues without {without}")

    def handle_fault(self, fault: str) -> None:
        """Handle damage that the store found, as `on_fault` demands; the first fault is reported."""
        if self._on_fault == "refuse":
            raise UserError(
                f"teacher cache: {fault}; teachers.cache_trouble=rebuild queries the teacher again, without runs without the cache"
            )
        if not self._informed:
            self._informed = True
            rest = "continues without this cache" if self._on_fault == "without" else "queries the teacher again"
            self._notify(f"teacher cache: {fault}; the run {rest}")
        if self._on_fault == "without":
            self.usable = False
            raise CacheUnusable

    def _checksums(self, batch: Batch) -> list[int]:
        """A checksum of each row's tokens, their segments and the positions of its units, seeded by the key's; of a batch on
        the host."""
        key = zlib.crc32(self.key.encode())
        columns = [batch.input_ids.to(torch.int32), self.spec.every_unit(batch).to(torch.int8)]
        columns += [] if batch.token_types is None else [batch.token_types.to(torch.int8)]
        arrays, checksums = [column.numpy() for column in columns], []
        for i, length in enumerate(batch.attention_mask.sum(1).tolist()):
            checksum = key
            for array in arrays:
                checksum = zlib.crc32(array[i, :length].tobytes(), checksum)
            checksums.append(checksum)
        return checksums

    def _time(self, part: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.ledger is None else self.ledger.time(part)
