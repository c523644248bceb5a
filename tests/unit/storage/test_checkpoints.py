"""kdlab.storage.checkpoints and Lightning's way to them."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from kdlab.errors import UserError
from kdlab.storage import checkpoints
from kdlab.storage.checkpoints import load, newest_valid, save


def state(number: int) -> dict:
    return {
        "step": number,
        "weights": {"w": torch.arange(100) + number},
        "arms": ["entropy", "margin"],
        "q": [0.5, None],
    }


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_saved_states_load_equal(tmp_path: Path) -> None:
    path = save(state(7), tmp_path / "checkpoints", 7)
    assert path == tmp_path / "checkpoints" / "step-00000007.ckpt"
    assert checkpoints.step_of(path) == 7
    found = load(path)
    assert torch.equal(found.pop("weights")["w"], torch.arange(100) + 7)
    assert found == {"step": 7, "arms": ["entropy", "margin"], "q": [0.5, None]}
    assert newest_valid(path.parent) == path
    assert newest_valid(tmp_path) is None
    assert newest_valid(tmp_path / "absent") is None


def test_the_checksum_is_what_sha256sum_reads(tmp_path: Path) -> None:
    path = save(state(7), tmp_path, 7)
    line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  step-00000007.ckpt\n"
    assert checkpoints.checksum_file(path).read_text() == line
    done = subprocess.run(["sha256sum", "-c", checkpoints.checksum_file(path).name], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 9, 10, 123456789):
        save(state(step), tmp_path, step)
    pair = ["step-00000010.ckpt", "step-123456789.ckpt"]
    assert names(tmp_path) == sorted([*pair, *(name + ".sha256" for name in pair)])
    assert newest_valid(tmp_path) == tmp_path / pair[1]


def test_damaged_ones_are_named_and_passed_over(tmp_path: Path) -> None:
    said: list[str] = []
    paths = [save(state(step), tmp_path, step, keep=4) for step in (10, 20, 30, 40)]
    flip(paths[3])
    os.truncate(paths[2], 100)
    checkpoints.checksum_file(paths[1]).unlink()
    assert newest_valid(tmp_path, said.append) == paths[0]
    assert [str(path) in line and "damaged" in line for path, line in zip(paths[:0:-1], said, strict=True)] == [
        True
    ] * 3
    found, written = (
        hashlib.sha256(paths[3].read_bytes()).hexdigest(),
        checkpoints.checksum_file(paths[3]).read_text()[:64],
    )
    assert found in said[0]
    assert written in said[0]
    with pytest.raises(UserError, match="damaged"):
        load(paths[3])


def test_pruning_counts_good_ones_only(tmp_path: Path) -> None:
    first, second = save(state(10), tmp_path, 10), save(state(20), tmp_path, 20)
    flip(second)
    third = save(state(30), tmp_path, 30)
    assert first.exists()
    assert third.exists()
    assert not second.exists()


def test_checkpoints_of_an_abandoned_future_are_removed(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(state(step), tmp_path, step, keep=3)
    save(state(15), tmp_path, 15)  # a run resumed from step 10
    assert [name for name in names(tmp_path) if name.endswith("ckpt")] == ["step-00000010.ckpt", "step-00000015.ckpt"]


def test_what_killed_writers_left_is_removed_and_other_files_are_not(tmp_path: Path) -> None:
    for name in (".step-00000005.ckpt.tmp", "step-00000005.ckpt.sha256", "notes.txt", "best.ckpt"):
        (tmp_path / name).write_text("x")
    save(state(7), tmp_path, 7)
    assert names(tmp_path) == ["best.ckpt", "notes.txt", "step-00000007.ckpt", "step-00000007.ckpt.sha256"]


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(state(1), tmp_path, 7)
    path = save(state(2), tmp_path, 7)
    assert load(path)["step"] == 2
    assert len(checkpoints.checksum_file(path).read_text().splitlines()) == 1


def test_storage_that_gives_back_other_bytes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = save(state(1), tmp_path, 1)
    monkeypatch.setattr(checkpoints, "sha256_of", lambda path: "0" * 64)
    with pytest.raises(UserError, match="other bytes than were written"):
        save(state(2), tmp_path, 2)
    assert names(tmp_path) == [before.name, before.name + ".sha256"]


class Runs:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder / "was run"),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "step-00000001.ckpt"
    torch.save({"w": Runs(tmp_path)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"refused.*it needs \w+\.mkdir"):
        load(path)
    path.write_bytes(pickle.dumps(Runs(tmp_path)))
    with pytest.raises(UserError, match="refused|not a readable"):
        load(path)
    assert names(tmp_path) == ["step-00000001.ckpt"]


def test_state_that_could_not_be_resumed_is_refused_when_saved(tmp_path: Path) -> None:
    save(state(1), tmp_path, 1)
    before = names(tmp_path)
    for value in (np.float64(1.0), np.zeros(3), Path("x")):
        with pytest.raises(TypeError, match=r"plain values only, found .*(numpy|pathlib)"):
            save({"x": value}, tmp_path, 2)
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    "content", [b"", b"hello world", b"\x00" * 64, b"PK\x03\x04" + b"\x00" * 60, b"\x80\x02}q\x00."]
)
def test_what_is_no_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_things_than_a_dict_and_missing_files_are_named(tmp_path: Path) -> None:
    torch.save([1], tmp_path / "list.ckpt")
    with pytest.raises(UserError, match="holds a list"):
        load(tmp_path / "list.ckpt")
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="not named like a checkpoint"):
        checkpoints.step_of(tmp_path / "last.ckpt")


@pytest.mark.filterwarnings("ignore")  # Lightning warns about its own imports and about tiny runs
def test_lightning_saves_and_resumes_through_it(tmp_path: Path) -> None:
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    from kdlab.modules.checkpoint_io import AtomicCheckpointIO

    class Line(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(3))

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            return ((batch @ self.w - 1) ** 2).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.1)

    def train(steps: int, resume: Path | None = None) -> tuple[pl.Trainer, Line]:
        module = Line()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        quiet |= {"enable_model_summary": False, "accelerator": "cpu"}
        trainer = pl.Trainer(max_epochs=steps, plugins=[AtomicCheckpointIO(keep=2)], **quiet)
        rows = torch.arange(12.0).reshape(4, 3) / 10
        trainer.fit(module, DataLoader(rows, batch_size=4), ckpt_path=resume)  # type: ignore[arg-type]
        return trainer, module

    trainer, _ = train(3)
    for step in (1, 2, 3):
        trainer.save_checkpoint(tmp_path / f"step-{step:08d}.ckpt")
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    pair = ["last.ckpt", "step-00000002.ckpt", "step-00000003.ckpt"]
    assert names(tmp_path) == sorted([*pair, *(name + ".sha256" for name in pair)])
    resumed, whole = train(6, newest_valid(tmp_path))[1], train(6)[1]
    assert torch.equal(resumed.w, whole.w)
    assert whole.w.abs().sum() > 0

    plugin = AtomicCheckpointIO()
    with pytest.raises(UserError, match="weights_only=False"):
        plugin.load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    with pytest.raises(TypeError, match="storage_options"):
        plugin.save_checkpoint({}, tmp_path / "x.ckpt", storage_options={})
    trainer.strategy.remove_checkpoint(tmp_path / "last.ckpt")
    assert "last.ckpt" not in " ".join(names(tmp_path))
