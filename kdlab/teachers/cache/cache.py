"""A teacher that remembers: what it said about a row is kept, and whoever asks next is answered without a forward.

What is used is always what stands in the store: fresh answers are written first and read back. The last bits of a fresh
answer depend on the rows that ran beside it, so what was stored first is the row's answer from then on.
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
from kdlab.runtime.ledger import ALWAYS, Ledger
from kdlab.runtime.seeding import stable
from kdlab.teachers.cache.codec import CacheSpec, Project, UnitLogits, put_together, taken_apart
from kdlab.teachers.cache.store import CachedRow, DiskStore, MemoryStore
from kdlab.types import Batch, Outputs


@dataclass
class CacheLookup:
    """What a teacher shows for the rows of a batch.

    `units`: the logits, where a cache keeps these and not what they are made of; `ran`: the batches that a forward was
    run for.
    """

    shown: Outputs
    units: UnitLogits | None = None
    ran: list[Batch] = field(default_factory=list)


class CacheUnusable(Exception):
    """The cache cannot be used, and the run goes on without."""


class AnswerCache:
    """What one teacher said, row by row, in `store`; of each answer it keeps what `keeps` says.

    `outputs` C (or V) of its logits. `key` names the answers and decides what is drawn. `fixed_inputs`: a row is the same
    input in every epoch. `alone`: a missing row runs by itself, so that its bits do not depend on other rows.
    `trouble`, of a damaged store or a full disk: "rebuild" asks again what is damaged, and writes no more where the disk
    is full; "without" goes on without a cache; "refuse" is a UserError.

    `run` names a run over all its interruptions, `step` counts its steps: what this run asked at this very step before
    it was killed, and went on from a checkpoint, is counted as asked, as in the run that was never killed.
    """

    def __init__(
        self,
        store: DiskStore | MemoryStore,
        keeps: CacheSpec,
        outputs: int,
        key: str,
        fixed_inputs: bool,
        ledger: Ledger | None = None,
        alone: bool = False,
        trouble: str = "rebuild",
        say: Callable[[str], None] = print,
    ) -> None:
        self.store, self.keeps, self.outputs, self.key = store, keeps, outputs, key
        self.fixed_inputs, self.ledger, self.alone = fixed_inputs, ledger, alone
        self._trouble, self._say = trouble, say
        self.run, self._step = 0, 0
        self._this_step: set[tuple[int, int]] = set()
        self._said = False
        self.usable = self.writes = True

    @property
    def step(self) -> int:
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step, self._this_step = step, set()

    def ask(self, name: str, encoder: Encoder, project: Project, batch: Batch, count: bool) -> CacheLookup:
        """What the teacher says about the rows of `batch`: what is missing is asked, and kept. Raises Unusable.

        `count`: the ledger learns which real rows were asked, and which answered from here.
        """
        with self._time("teacher_cache"):
            epoch = ALWAYS if self.fixed_inputs else batch.epoch
            rows, real, contents = batch.rows.tolist(), batch.real.tolist(), self._contents(batch)
            found = self._read(epoch, rows, contents)
            missing = [one is None for one in found]
            now = (self.run, self._step)
            asked = [
                one is None or ((one.run, one.step) == now and (epoch, row) not in self._this_step)
                for one, row in zip(found, rows, strict=True)
            ]
            ran = self._batches(batch, asked)
            if any(missing):
                # rows of this step that are there were stored by this run just before it was killed: they run again
                # with the others, so that the answers of these have the same bits
                with self._time("teacher_forward"):
                    made = [one for some in ran for one in self._rows_of(encoder, project, some)]
                self._keep(epoch, rows, contents, [i for i, one in enumerate(asked) if one], made, real, found)
            if count and self.ledger is not None:
                which = torch.tensor(asked, device=batch.rows.device)
                self.ledger.ask(name, batch.rows[which & batch.real], batch.epoch)
                self.ledger.answered(name, batch.rows[~which & batch.real])
            both = zip(rows, asked, real, strict=True)
            self._this_step.update((epoch, row) for row, one, genuine in both if one and genuine)
            payloads = [one.payload for one in found if one is not None]
            layers = encoder.model.config.num_hidden_layers
            return CacheLookup(*put_together(self.keeps, batch, payloads, self.outputs, layers), ran)

    def _batches(self, batch: Batch, which: Sequence[bool]) -> list[Batch]:
        """The batches in which some rows of `batch` run."""
        index = [i for i, one in enumerate(which) if one]
        if self.alone:
            return [batch.take(torch.tensor([i], device=batch.rows.device)) for i in index]
        if len(index) == len(batch):
            return [batch]
        return [batch.take(torch.tensor(index, device=batch.rows.device))] if index else []

    def _rows_of(self, encoder: Encoder, project: Project, batch: Batch) -> list[bytes]:
        rows, k = batch.rows.tolist(), self.keeps.k

        def draw(i: int, units: int) -> np.ndarray:
            """A row's draws depend on nothing but the row and its masks."""
            rng = np.random.Generator(np.random.Philox(key=stable("answers", self.key, batch.epoch, rows[i])))
            return rng.random((units, k))

        return taken_apart(self.keeps, encoder, project, batch, self.outputs, draw)

    def _keep(
        self,
        epoch: int,
        rows: Sequence[int],
        contents: Sequence[int],
        places: Sequence[int],
        made: Sequence[bytes],
        real: Sequence[bool],
        found: list[CachedRow | None],
    ) -> None:
        """Write fresh answers to the rows at `places` (real ones), and put what is there now into `found`."""
        for i, payload in zip(places, made, strict=True):
            found[i] = CachedRow(np.frombuffer(payload, np.uint8), self.run, self._step)
        kept = [(i, payload) for i, payload in zip(places, made, strict=True) if real[i]]
        if not kept or not self.writes:
            return
        some, their = [rows[i] for i, _ in kept], [contents[i] for i, _ in kept]
        try:
            self.store.write(epoch, some, their, [payload for _, payload in kept], self.run, self._step)
        except OSError as error:
            self.writes = False
            self.usable = self._trouble != "without"
            self.failed(error, "writing to it" if self.usable else "it")
            return
        for (i, _), one in zip(kept, self._read(epoch, some, their), strict=True):
            found[i] = one or found[i]

    def _read(self, epoch: int, rows: Sequence[int], contents: Sequence[int]) -> list[CachedRow | None]:
        try:
            return self.store.read(epoch, rows, contents, self.mind)
        except OSError as error:
            self.usable = False
            self.failed(error, "it")
            raise CacheUnusable from error

    def failed(self, error: OSError, without: str) -> None:
        """What is done where the disk fails: it is full, say."""
        what = f"{error.strerror or error} in {getattr(self.store, 'folder', 'memory')}"
        if self._trouble == "refuse":
            raise UserError(f"teacher cache: {what}; free some space, or teachers.cache_trouble=without") from error
        self._say(f"teacher cache: {what}; the run goes on without {without}")

    def mind(self, fault: str) -> None:
        """What is done about something damaged that the store found, as `trouble` says."""
        if self._trouble == "refuse":
            raise UserError(
                f"teacher cache: {fault}; teachers.cache_trouble=rebuild asks the teacher again, without goes on without"
            )
        if not self._said:
            self._said = True
            rest = "goes on without this cache" if self._trouble == "without" else "asks the teacher again"
            self._say(f"teacher cache: {fault}; the run {rest}")
        if self._trouble == "without":
            self.usable = False
            raise CacheUnusable

    def _contents(self, batch: Batch) -> list[int]:
        """A checksum of each row's tokens, their segments and the places of its units, begun with the key's."""
        key = zlib.crc32(self.key.encode())
        columns = [batch.input_ids.to("cpu", torch.int32), self.keeps.units(batch).to("cpu", torch.int8)]
        columns += [] if batch.token_types is None else [batch.token_types.to("cpu", torch.int8)]
        arrays, found = [column.numpy() for column in columns], []
        for i, length in enumerate(batch.attention_mask.sum(1).tolist()):
            content = key
            for array in arrays:
                content = zlib.crc32(array[i, :length].tobytes(), content)
            found.append(content)
        return found

    def _time(self, part: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.ledger is None else self.ledger.time(part)
