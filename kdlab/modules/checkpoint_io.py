"""Lightning's way to the checkpoint files of `kdlab.storage.checkpoints`.

Lightning's own plugin writes through TMPDIR: on a full disk it destroys the previous good file, and it swallows
PermissionError. This one replaces it: `Trainer(plugins=[AtomicCheckpointIO()])`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import CheckpointIO

from kdlab.errors import UserError
from kdlab.storage import checkpoints


class AtomicCheckpointIO(CheckpointIO):
    """Saves `folder/step-00000123.ckpt` and keeps the `keep` newest good ones; another name is one file more.

    Raises `UserError` for anything that keeps a checkpoint from being written or read. Lightning saves on rank 0 only.
    """

    def __init__(self, keep: int = 2) -> None:
        self.keep = keep

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`, atomically and verified."""
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO writes local files and takes no storage_options")
        path = Path(path)
        if checkpoints.NAME.fullmatch(path.name):
            checkpoints.save(checkpoint, path.parent, checkpoints.step_of(path), self.keep)
        else:
            checkpoints.write(checkpoint, path)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The state at `path`, on the CPU unless `map_location` says otherwise; `weights_only=False` is refused."""
        if weights_only is False:
            raise UserError(f"checkpoint {path}: weights_only=False would run code from the file; leave it out")
        return checkpoints.load(Path(path), map_location="cpu" if map_location is None else map_location)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete the file and its checksum."""
        checkpoints.remove(Path(path))
