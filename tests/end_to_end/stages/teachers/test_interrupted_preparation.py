"""A preparation that is killed goes on from its last checkpoint, and ends with the bits of one that was not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kdlab.testing.fault_points import Moment, observe_moments
from tests.support.runs import call, tiny, tiny_task


@dataclass
class KillIn:
    """SIGKILL this process in the `stage` of that title, at `when` of its optimizer step `step`."""

    stage: str
    step: int
    when: str

    def __call__(self) -> None:
        import os
        import signal

        def visit(moment: Moment) -> None:
            if moment == Moment(self.stage, self.step, self.when):
                os.kill(os.getpid(), signal.SIGKILL)

        observe_moments(visit)


def made(folder: Path, kind: str) -> dict[str, bytes | dict[str, object]]:
    """The files of the one artifact of a kind that hold weights, scores or answers, and its cost without seconds."""
    (artifact,) = (path for path in (folder / "artifacts" / kind).iterdir() if not path.name.startswith("."))
    files: dict[str, bytes | dict[str, object]] = {
        path.name: path.read_bytes()
        for path in artifact.iterdir()
        if path.name in ("model.safetensors", "heldout.json", "scores.json", "ksm.safetensors", "ksm.csv")
    }
    assert files
    return {**files, "cost": {**json.loads((artifact / "cost.json").read_text()), "seconds": None}}


def check_resumed(command: list[str], folder: Path, kind: str, kills: list[KillIn]) -> str:
    """Run the command undisturbed, and again with all `kills` one after the other: the artifacts are equal, and no
    checkpoint is left. Returns what was printed after the last kill."""
    whole = call([*command, "hydra.run.dir=run"], folder / "whole")
    assert whole.code == 0, whole.output
    for kill in kills:
        killed = call([*command, "hydra.run.dir=run"], folder / "killed", kill)
        assert killed.code == -9, f"{kill} was not reached:\n{killed.output}"
    done = call([*command, "hydra.run.dir=run"], folder / "killed")
    assert done.code == 0, done.output
    assert made(folder / "whole", kind) == made(folder / "killed", kind)
    assert not list((folder / "killed" / "artifacts").glob("*/.*.training"))
    return done.output


FINETUNED = (
    "teachers.finetune.dropout=0.1",
    "teachers.finetune.max_steps=14",
    "teachers.sanity=false",
    "trainer.max_steps=2",
)


def test_a_killed_classifier_goes_on_bit_for_bit(tmp_path, teacher_folder, task_folder):
    command = tiny_task(teacher_folder, task_folder, *FINETUNED)
    stage = "fine-tuning teacher"
    kills = [
        KillIn(stage, 2, "end"),  # before the first checkpoint
        KillIn(stage, 3, "save 2"),  # while the first is written
        KillIn(stage, 5, "gradient"),
        KillIn(stage, 9, "end"),
        KillIn(stage, 13, "start"),
    ]
    output = check_resumed(command, tmp_path, "classifier", kills)
    assert "fine-tuning teacher: going on after step 12" in output


def test_a_killed_assistant_goes_on_bit_for_bit(tmp_path, teacher_folder, task_folder):
    more = (
        "adopt=assistant",
        "adopt.assistant.layers=3",
        "adopt.assistant.max_steps=10",
        "adopt.assistant.dropout=0.1",
    )
    command = tiny_task(teacher_folder, task_folder, *FINETUNED, *more)
    kills = [KillIn("distilling assistant", 4, "end"), KillIn("distilling assistant", 8, "gradient")]
    assert "distilling assistant: going on after step 6" in check_resumed(command, tmp_path, "assistant", kills)


def test_a_killed_baseline_goes_on_bit_for_bit(tmp_path, teacher_folder, task_folder):
    more = ("no_kd_baseline=true", "trainer.max_steps=8", "student.dropout=0.1")
    command = tiny_task(teacher_folder, task_folder, *FINETUNED, *more)
    kills = [KillIn("training without a teacher", 4, "end"), KillIn("training without a teacher", 7, "start")]
    check_resumed(command, tmp_path, "baseline", kills)


def test_a_killed_masked_lm_teacher_goes_on_bit_for_bit(tmp_path, teacher_folder, text_folder):
    prepare = ("teachers.prepare.max_steps=10", "teachers.prepare.dropout=0.1", "teachers.prepare.max_length=32")
    command = tiny(
        teacher_folder, text_folder, "adopt=hard", "+teachers.others.small.layers=2", *prepare, "trainer.max_steps=2"
    )
    stage = "preparing teacher small"
    kills = [KillIn(stage, 1, "end"), KillIn(stage, 7, "gradient")]
    assert f"{stage}: going on after step 6" in check_resumed(command, tmp_path, "teacher", kills)


def test_a_killed_knowledge_selection_module_goes_on_bit_for_bit(tmp_path, teacher_folder, text_folder):
    """In the first episode, between two checkpoints of the second, and after a phase."""
    more = ("weigh=ksm", "knowledge=ksm", "weigh.phase=4", "weigh.reward_rows=16", "weigh.episodes=2", "select=random")
    command = tiny(teacher_folder, text_folder, *more, "student.dropout=0.1", "trainer.max_steps=10")
    first, second = "KSM, episode 1 of 2", "KSM, episode 2 of 2"
    kills = [KillIn(first, 7, "gradient"), KillIn(second, 1, "end"), KillIn(second, 5, "end")]
    assert f"{second}: going on after step 3" in check_resumed(command, tmp_path, "ksm", kills)
