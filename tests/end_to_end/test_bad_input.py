"""Wrong input of any kind: one clear line, exit code 2, nothing written, nothing lost."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.conftest import write_teacher, write_text
from tests.support import shells
from tests.support.cadence import each_time
from tests.support.runs import call, run_folder, tiny

# what is wrong, and what the line must say
WRONG = {
    "ratio zero": (["select.ratio=0"], "select.ratio"),
    "ratio above one": (["select.ratio=1.5"], "select.ratio"),
    "ratio a word": (["select.ratio=abc"], "select.ratio"),
    "unknown strategy": (["select=entrpy"], "entropy"),
    "unknown exp": (["+exp=adads_pretrian"], "adads_pretrain"),
    "unknown key": (["select.ration=0.1"], "select.ratio"),
    "unknown key with plus": (["+select.ration=0.1"], "select.ratio"),
    "unknown group": (["selct=random"], "select"),
    "unknown stage": (["select=schedule", "select.policy.stages=[entropy,certanty]"], "certainty"),
    "broken override": (["select.ratio"], "select.ratio"),
    "value that needs quotes": (["hydra.run.dir=a=b"], "hydra.run.dir=a=b"),
    "a task for plain text": (["data.task=sst2"], "data.task"),
    "max_steps zero": (["trainer.max_steps=0"], "trainer.max_steps"),
    "neither steps nor epochs": (["trainer.max_steps=null"], "trainer.max_epochs"),
    "missing text": (["data.path=nowhere"], "nowhere"),
    "missing teacher": (["teachers.path=nowhere"], "nowhere"),
    "layer that is not there": (["student.layers=[0,9]"], "student.layers"),
    "text too long for the teacher": (["data.max_length=512"], "64"),
    "foreign code": (["select.policy._target_=os.system"], "os.system"),
    "foreign code in a list": (["+select.arms.x._target_=torch.hub.load"], "torch.hub.load"),
    "bandit without reward": (["select.reward=null"], "reward"),
    "learning rate below zero": (["optim.lr=-1"], "optim.lr"),
    "not enough GPUs": (["trainer.accelerator=gpu"], "GPU"),
    "alpha out of range": (["select.policy.alpha=2"], "alpha"),
    "a temperature that is no number": (["knowledge.terms.soft.term.temperature=nan"], "temperature=nan: a number in [0.001, 1000]"),
    "an infinite temperature": (["knowledge.terms.soft.term.temperature=inf"], "temperature=inf: a number in [0.001, 1000]"),
    "a temperature in words": (["knowledge.terms.soft.term.temperature=hot"], "temperature=hot: a number in [0.001, 1000]"),
    "a temperature below zero": (["knowledge.terms.soft.term.temperature=-1"], "temperature=-1: a number in [0.001, 1000]"),
    "a temperature of zero": (["knowledge.terms.soft.term.temperature=0"], "temperature=0: a number in [0.001, 1000]"),
    "a temperature whose square overflows": (["knowledge.terms.soft.term.temperature=1e200"], "a number in [0.001, 1000]"),
    "a temperature that is almost zero": (["knowledge.terms.soft.term.temperature=1e-320"], "a number in [0.001, 1000]"),
    "an argument that is not there": (["+knowledge.terms.soft.term.temprature=2"], "did you mean temperature"),
    "a run without end": (["trainer.max_steps=1000000000000000000"], "confirm=[trainer.max_steps]"),
    "millions of probes": (["trainer.probes=5000000"], "confirm=[trainer.probes]"),
    "a learning rate without a use": (["optim.lr=1e300"], "optim.lr=1e+300: a number in (0, 1e+30]"),
    "an epsilon that is no number of float32": (["optim.eps=1e-320"], "optim.eps"),
    "a weight whose product overflows": (["knowledge.terms.soft.weight=1e300"], "a number in [0, 1e+06]"),
    "a weight decay that is no number": (["optim.weight_decay=nan"], "optim.weight_decay=nan"),
    "a value with a comma": (["data.path=a,b"], "'data.path=\"a,b\"'"),
    "unknown target": (["select.arms.entropy._target_=kdlab.methods.selection.strategies.entropie"], "select.arms.entropy"),
    "look zero": (["select.look=0"], "select.look"),
    "look above one": (["select.look=1.5"], "select.look=1.5"),
    "look below one row": (["select=entropy", "select.look=0.05"], "less than one row is scored of a batch of 16"),
    "look below the rows kept": (["select=entropy", "select.look=0.3", "select.ratio=0.5"], "nothing is left to choose"),
    "a pool below the batch": (["select.pool=8"], "data.batch_size=16"),
    "a pool for all": (["select=all", "select.pool=64"], "select=all keeps every row"),
    "a pool that is a word": (["select.pool=big"], "select.pool=big"),
    "text that comes again": (["select.replay=1", "teachers.cache=disk"], "only rows of tasks come again"),
    "forgotten text": (["select=forgetting"], "masked text has none"),
    "an execution that is not there": (["exec=paked"], "packed"),
    "nothing to learn": (["knowledge.terms.soft.weight=0", "knowledge.terms.label.weight=0", "knowledge.terms.cosine.weight=0"], "knowledge"),
}  # fmt: skip


# an argument's range is one check, and tests/unit/config/test_arguments.py makes it with every argument
SAME = {
    "ratio zero", "max_steps zero", "learning rate below zero", "alpha out of range", "an infinite temperature",
    "a temperature below zero", "a temperature of zero", "a temperature whose square overflows", "look zero",
    "a temperature that is almost zero", "a learning rate without a use", "an epsilon that is no number of float32",
    "a weight whose product overflows", "a weight decay that is no number", "look above one",
}  # fmt: skip
assert set(WRONG) > SAME


@pytest.mark.parametrize("what", each_time(WRONG, *(what for what in WRONG if what not in SAME)))
def test_one_line_and_nothing_written(what, tmp_path, teacher_folder, text_folder):
    wrong, says = WRONG[what]
    arguments = tiny(teacher_folder, text_folder, *wrong)
    if what == "unknown exp":
        arguments = [a for a in arguments if a != "+exp=adads_pretrain"]
    done = call(arguments, tmp_path)
    assert_refused(done, says)
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith("log-")]


def assert_refused(done, says: str) -> None:
    assert done.code == 2, done.output
    lines = [line for line in done.output.splitlines() if line.strip()]
    assert len(lines) == 1, done.output
    assert lines[0].startswith("kdlab: ") and says in lines[0], done.output
    assert "Traceback" not in done.output
    shells.assert_printed(done.output)


@pytest.mark.parametrize("fault", ["empty folder", "empty file", "binary", "not utf-8", "too short", "no such column"])
def test_text_that_cannot_be_used(fault, tmp_path, teacher_folder, text_folder):
    text = shutil.copytree(text_folder, tmp_path / "text")
    if fault == "empty folder":
        shutil.rmtree(text)
        text.mkdir()
        says = "text"
    elif fault == "empty file":
        for file in text.iterdir():
            file.write_text("")
        says = ".txt"
    elif fault == "binary":
        (text / "007.txt").write_bytes(bytes(range(256)) * 20)
        says = "007.txt"
    elif fault == "not utf-8":
        (text / "008.txt").write_bytes("first\nsecond caf\xe9\n".encode("latin-1"))
        says = "008.txt"
    elif fault == "too short":
        shutil.rmtree(text)
        text.mkdir()
        (text / "a.txt").write_text("ba ke lo.\n")
        says = "short"
    else:
        shutil.rmtree(text)
        text.mkdir()
        (text / "a.jsonl").write_text('{"body": "ba ke"}\n')
        says = "a.jsonl"
    done = call(tiny(teacher_folder, text), tmp_path / "run")
    assert done.code == 2, done.output
    line = done.output.splitlines()[-1]
    assert line.startswith("kdlab: ") and says in line and "Traceback" not in done.output
    assert not (tmp_path / "run" / "outputs").exists()


def test_a_student_of_another_vocabulary_is_refused(tmp_path, teacher_folder, text_folder):
    other = write_teacher(tmp_path / "student")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["baba"], words["bake"] = words["bake"], words["baba"]  # the same size and the same words, other numbers
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert_refused(
        call(tiny(teacher_folder, text_folder, f"student.path={other}"), tmp_path / "run"), "different tokenizers"
    )


def test_a_damaged_teacher_is_named(tmp_path, text_folder):
    teacher = write_teacher(tmp_path / "teacher")
    weights = teacher / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    done = call(tiny(teacher, text_folder), tmp_path / "run")
    assert done.code == 2 and str(teacher) in done.output.splitlines()[-1] and "Traceback" not in done.output


def test_a_finished_run_is_kept_unless_told(tmp_path, teacher_folder, text_folder):
    command = tiny(teacher_folder, text_folder, "select=random", "hydra.run.dir=here", "trainer.max_steps=2")
    assert call(command, tmp_path).code == 0
    before = (tmp_path / "here" / "result.json").read_bytes()
    assert_refused(call(command, tmp_path), "finished run")
    assert_refused(call([*command, "overwrite=true", "select.ratio=7"], tmp_path), "select.ratio")
    assert_refused(
        call([*[c for c in command if "data.path" not in c], "overwrite=true", "data.path=nowhere"], tmp_path),
        "nowhere",
    )
    assert (tmp_path / "here" / "result.json").read_bytes() == before
    assert call([*command, "overwrite=true", "seed=5"], tmp_path).code == 0
    assert json.loads((tmp_path / "here" / "result.json").read_text())["seed"] == 5
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("do not lose")
    assert_refused(
        call([*command[:-1], "trainer.max_steps=2", "hydra.run.dir=mine", "overwrite=true"], tmp_path), "not a run"
    )
    assert (mine / "thesis.txt").read_text() == "do not lose"


def test_a_damaged_artifact_is_named_and_made_again(tmp_path, teacher_folder, text_folder):
    command = tiny(teacher_folder, text_folder, "select=random", "trainer.max_steps=2")
    assert call(command, tmp_path).code == 0
    (data,) = (tmp_path / "artifacts" / "corpus").glob("*/train/data.arrow")
    whole = data.read_bytes()
    data.write_bytes(whole[:-100] + bytes(100))
    done = call([*command, "seed=2"], tmp_path)
    assert done.code == 0 and "damaged" in done.output and "data.arrow" in done.output
    assert data.read_bytes() == whole


def teacher_with(folder, value: float, layer: str):
    """A teacher with a weight vector of `value` in a layer."""
    import safetensors.torch

    teacher = write_teacher(folder)
    weights = safetensors.torch.load_file(teacher / "model.safetensors")
    name = next(n for n in weights if n.endswith("output.LayerNorm.weight") and layer in n)
    weights[name][:] = value
    safetensors.torch.save_file(weights, teacher / "model.safetensors", {"format": "pt"})
    return teacher


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_whose_weights_are_not_finite_is_named(value, tmp_path, text_folder):
    teacher = teacher_with(tmp_path / "teacher", value, "layer.0")
    done = call(tiny(teacher, text_folder, "trainer.on_nonfinite=skip"), tmp_path / "run")
    line = done.output.strip().splitlines()[-1]
    assert done.code == 2 and str(teacher) in line and "weights are NaN or infinite" in line, done.output
    assert "learning rate" not in done.output and not (tmp_path / "run" / "outputs").exists()


@pytest.mark.parametrize("nonfinite", ["stop", "skip"])
def test_a_teacher_whose_answers_are_not_finite_is_named_with_step_and_rows(nonfinite, tmp_path, text_folder):
    teacher = teacher_with(tmp_path / "teacher", 3e38, "layer.3")  # no layer of the student
    more = ("trainer.probes=0", f"trainer.on_nonfinite={nonfinite}", "trainer.nonfinite_limit=1")
    done = call(tiny(teacher, text_folder, *more), tmp_path / "run")
    assert done.code == 2, done.output
    line = done.output.strip().splitlines()[-1]
    step = {"stop": 0, "skip": 1}[nonfinite]
    assert f"the loss of step {step} is not finite" in line and "rows" in line
    assert "answers of the teacher teacher are not finite" in line and "learning rate" not in done.output
    result = json.loads((run_folder(tmp_path / "run") / "result.json").read_text())
    assert result["status"] == "failed" and f"step {step}" in result["error"]


def test_a_run_of_which_every_step_was_left_out_is_not_finished(tmp_path, text_folder):
    teacher = teacher_with(tmp_path / "teacher", 3e38, "layer.3")  # no layer of the student
    done = call(tiny(teacher, text_folder, "trainer.probes=0", "trainer.on_nonfinite=skip"), tmp_path / "run")
    line = done.output.strip().splitlines()[-1]
    assert done.code == 2 and "of all 8 steps is not finite" in line, done.output
    assert "the answers of the teacher teacher are not finite" in line
    assert "Traceback" not in done.output and "learning rate" not in done.output


def test_a_student_that_starts_from_weights_without_finite_answers_has_not_diverged(tmp_path, text_folder):
    teacher = teacher_with(tmp_path / "teacher", 3e38, "layer.0")
    done = call(tiny(teacher, text_folder), tmp_path / "run")
    line = done.output.strip().splitlines()[-1]
    assert done.code == 2 and "the model that it starts from" in line and "diverged" not in line, done.output


def full_disk() -> None:
    import kdlab.storage.files

    kdlab.storage.files.free_bytes = lambda folder: 0


def test_no_room_for_the_prepared_text(tmp_path, teacher_folder):
    text = write_text(tmp_path / "text", 30)
    done = call(tiny(teacher_folder, text), tmp_path / "run", full_disk)
    assert done.code == 2 and "space" in done.output.splitlines()[-1] and "Traceback" not in done.output
    assert not list((tmp_path / "run").glob("artifacts/corpus/*/*"))


@pytest.mark.parametrize("content", [b"a: [1\nb: }", "seed: 1  # caf\u00e9".encode("latin-1")], ids=["open", "latin-1"])
def test_a_configuration_file_that_is_no_yaml(content, tmp_path):
    (tmp_path / "own" / "exp").mkdir(parents=True)
    (tmp_path / "own" / "exp" / "bad.yaml").write_bytes(content)
    assert_refused(call(["--config-dir", str(tmp_path / "own"), "+exp=bad"], tmp_path / "run"), "bad.yaml")
