"""`+exp=glue`: a pre-trained student's scores on many tasks, and the files for the GLUE server."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
import yaml

from kdlab import evaluate
from tests.conftest import task_rows, write_teacher
from tests.end_to_end.test_bad_input import assert_refused
from tests.support import shells
from tests.support.runs import ChildResult, KillAt, call, outcome

ENTAILMENT = ["entailment", "not_entailment"]
MNLI = ["entailment", "neutral", "contradiction"]
# folder, text columns, how the files write the labels (None: scores), splits and their rows
TASKS = [
    ("MNLI", ("sentence1", "sentence2"), MNLI, {"train": 60, "dev": 20, "dev_mismatched": 20, "test": 9, "test_mismatched": 7}),
    ("RTE", ("sentence1", "sentence2"), ENTAILMENT, {"train": 60, "dev": 24, "test": 11}),
    ("sts-b", ("sentence1", "sentence2"), None, {"train": 60, "dev": 24, "test": 8}),
    ("WNLI", ("sentence1", "sentence2"), ["0", "1"], {"train": 40, "dev": 10}),
    ("AX", ("sentence1", "sentence2"), MNLI, {"test": 5}),
]  # fmt: skip
RECIPE = [
    "data.max_length=32", "data.batch_size=16", "trainer.max_steps=6", "trainer.max_epochs=null", "trainer.probes=0",
    "trainer.threads=1", "trainer.checkpoint_every=2", "trainer.evaluate_every=6", "optim.lr=3e-3",
    "trainer.precision=32-true",
]  # fmt: skip


def write_tasks(root: Path) -> Path:
    """Folders of GLUE tasks as GLUE hands them out: hidden test labels, and an index column there."""
    for number, (name, columns, labels, splits) in enumerate(TASKS):
        (root / name).mkdir(parents=True)
        for at, (split, rows) in enumerate(splits.items()):
            test = split.startswith("test")
            made = task_rows(rows, len(labels or "123"), True, seed=10 * number + at)
            head = ["index", *columns] if test else [*columns, "label"]
            lines = ["\t".join(head)]
            for i, (texts, label) in enumerate(made):
                answer = labels[label] if labels else f"{2.2 * label + 0.1 * (i % 3):.3f}"
                lines.append("\t".join([str(i), *texts] if test else [*texts, answer]))
            (root / name / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return root


class InForks:
    """Jobs as forks of the suite's process, which has imported everything. In job number `kill` (from 1) the process is
    killed after two steps, and the suite with it."""

    def __init__(self, kill: int | None = None) -> None:
        self.kill, self.number = kill, 0

    def __call__(self) -> None:
        import datasets  # noqa: F401  # once for all forks
        import transformers.models.bert.modeling_bert  # noqa: F401

        from kdlab.runs import process as jobs

        jobs.run_and_wait = self.launch

    def launch(self, overrides, environment, lock) -> int:
        self.number += 1
        child = os.fork()
        if child == 0:
            os.environ.clear()
            os.environ.update(environment)
            from kdlab.run import main

            if self.number == self.kill:
                KillAt(3, "start")()
            code = 70
            try:
                code = main(list(overrides))
            finally:
                sys.stdout.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == -signal.SIGKILL:
            os.kill(os.getpid(), signal.SIGKILL)
        return code


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("glue") / "tasks")


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("pretrained") / "student", layers=2, seed=1)


def glue(student: Path, teacher: Path, root: Path, *more: str) -> list[str]:
    return ["+exp=glue", f"student.path={student}", f"teachers.path={teacher}", f"data.path={root}", *RECIPE, *more]


@pytest.fixture(scope="module")
def suite(tmp_path_factory, student, teacher_folder, root) -> tuple[Path, ChildResult]:
    folder = tmp_path_factory.mktemp("suite")
    command = glue(student, teacher_folder, root, "suite.tasks=[MNLI,rte,sts-b]", "suite.seeds=[1,2]")
    done = call(command, folder, InForks())
    assert done.code == 0, done.output
    shells.assert_printed(done.output, "kdlab.evaluate")
    return folder, done


def home(folder: Path) -> Path:
    (found,) = (folder / "outputs" / "glue").glob("suite-*")
    return found


def scores(run: Path) -> dict[str, float]:
    return json.loads((run / "result.json").read_text())["metrics"]["student"]


def answers(model: Path, file: Path) -> np.ndarray:
    """Logits (N, C) of every row of a file, one at a time, from transformers alone."""
    import transformers

    network = transformers.AutoModelForSequenceClassification.from_pretrained(model).eval()
    words = transformers.AutoTokenizer.from_pretrained(model)
    with torch.no_grad():
        rows = [
            network(**words(one, two, truncation=True, max_length=32, return_tensors="pt")).logits[0].numpy()
            for one, two in pairs(file)
        ]
    return np.stack(rows)


def pairs(file: Path) -> list[tuple[str, str]]:
    with file.open(newline="") as lines:
        return [(row["sentence1"], row["sentence2"]) for row in csv.DictReader(lines, delimiter="\t")]


def labels(file: Path) -> list[str]:
    return [line.split("\t")[-1] for line in file.read_text().splitlines()[1:]]


def test_the_table_has_mean_spread_and_average_and_the_published_rows(suite, root):
    folder, done = suite
    found = json.loads((home(folder) / "glue.json").read_text())
    assert found["status"] == "finished" and found["columns"] == ["MNLI-m", "MNLI-mm", "RTE", "STS-B"]
    # by scikit-learn and scipy, from what transformers answers to the files
    by_seed = {}
    for seed in (1, 2):
        runs = {task: home(folder) / task / f"seed={seed}" / "student" for task in ("mnli", "rte", "stsb")}
        cells = [
            sklearn.metrics.accuracy_score(
                labels(root / task / f"{split}.tsv"),
                [names[i] for i in answers(runs[task.lower()], root / task / f"{split}.tsv").argmax(1)],
            )
            for task, split, names in (("MNLI", "dev", MNLI), ("MNLI", "dev_mismatched", MNLI), ("RTE", "dev", ENTAILMENT))
        ]  # fmt: skip
        told, true = (
            answers(runs["stsb"], root / "sts-b" / "dev.tsv")[:, 0],
            list(map(float, labels(root / "sts-b" / "dev.tsv"))),
        )
        cells.append((scipy.stats.pearsonr(told, true)[0] + scipy.stats.spearmanr(told, true)[0]) / 2)
        by_seed[seed] = 100 * np.array(cells)
    mean, std = np.mean(list(by_seed.values()), 0), np.std(list(by_seed.values()), 0, ddof=1)
    own, teacher = found["own"]
    assert list(own["scores"].values()) == pytest.approx(list(mean), abs=1e-3)
    assert list(own["spread"].values()) == pytest.approx(list(std), abs=1e-3)
    assert own["average"] == pytest.approx(mean.mean(), abs=1e-3)
    assert own["average_spread"] == pytest.approx(np.std([x.mean() for x in by_seed.values()], ddof=1), abs=1e-3)
    assert teacher["average"] == pytest.approx(np.mean(list(teacher["scores"].values())))
    # the paper's rows over the same four columns, by hand
    lines = {
        " ".join(line.split()[:-5]): line.split()[-5:] for line in done.output.splitlines() if len(line.split()) > 5
    }
    assert lines["teacher (BERT-base)"] == ["84.28", "84.70", "64.55", "88.67", "80.55"]
    assert lines["random, ratio 0.1"] == ["81.90", "82.36", "57.76", "85.22", "76.81"]
    name = next(name for name in lines if name.startswith("student, 2 seeds"))
    assert re.fullmatch(r"student, 2 seeds( \[\d of 6 runs collapsed\])?", name)  # tiny students may
    assert lines[name] == [f"{value:.2f}" for value in (*mean, mean.mean())]
    assert lines["dev sets"][-1] == "Avg*" and "* over MNLI-m, MNLI-mm, RTE, STS-B alone" in done.output
    written = (home(folder) / "glue.md").read_text()
    assert f"{mean[2]:.2f} ± {std[2]:.2f}" in written and "| AdaDS Table 4: random, ratio 0.1 |" in written


def test_each_job_is_an_ordinary_run_of_the_whole_command(suite, student):
    folder, _ = suite
    jobs = sorted(path.parent for path in (folder / "outputs").rglob("result.json"))
    (teachers,) = (folder / "outputs" / "glue").glob("teacher-*")
    names = [home(folder) / task / f"seed={seed}" for task in ("mnli", "rte", "stsb") for seed in (1, 2)]
    assert jobs == sorted([*names, *(teachers / task / "seed=1" for task in ("mnli", "rte", "stsb"))])
    for job in jobs:
        config = yaml.safe_load((job / "config.yaml").read_text())
        assert config["optim"]["lr"] == 3e-3 and config["suite"] is None and config["knowledge"]["name"] == "labels"
        assert config["student"]["path"] == (None if teachers in job.parents else str(student))
        layers = json.loads((job / "student" / "config.json").read_text())["num_hidden_layers"]
        assert layers == (4 if teachers in job.parents else 2)


@pytest.fixture
def copied(suite, tmp_path) -> Path:
    for part in ("outputs", "artifacts"):
        shutil.copytree(suite[0] / part, tmp_path / part)
    return tmp_path


def test_the_same_command_skips_what_is_finished_and_more_seeds_are_added(copied, student, teacher_folder, root):
    command = glue(student, teacher_folder, root, "suite.tasks=[rte]")
    done = call([*command, "suite.seeds=[1,2,3]"], copied, InForks())
    assert done.code == 0, done.output
    assert done.output.count("finished, skipped") == 3 and "RTE, student, seed 3" in done.output
    found = json.loads((home(copied) / "glue.json").read_text())
    accuracy = [100 * scores(home(copied) / "rte" / f"seed={seed}")["accuracy"] for seed in (1, 2, 3)]
    assert found["own"][0]["scores"]["RTE"] == pytest.approx(np.mean(accuracy))
    # another student shares the teacher's runs, not the student's
    other = write_teacher(copied / "other", layers=2, seed=2)
    done = call([*command, f"student.path={other}", "suite.seeds=[1]"], copied, InForks())
    assert done.code == 0 and done.output.count("finished, skipped") == 1, done.output
    assert len(list((copied / "outputs" / "glue").glob("suite-*"))) == 2


def test_a_killed_suite_goes_on_to_the_same_bits(suite, tmp_path, student, teacher_folder, root):
    command = glue(student, teacher_folder, root, "suite.tasks=[rte]", "suite.seeds=[1,2]", "suite.teacher=false")
    assert call(command, tmp_path, InForks(kill=2)).code == -signal.SIGKILL
    rte = home(tmp_path) / "rte"
    assert json.loads((rte / "seed=2" / "result.json").read_text())["status"] == "running"
    assert json.loads((home(tmp_path) / "glue.json").read_text())["status"] == "running"
    done = call(command, tmp_path, InForks())
    assert done.code == 0 and done.output.count("finished, skipped") == 1, done.output
    assert "resuming the unfinished run" in done.output
    for seed in (1, 2):
        assert outcome(rte / f"seed={seed}") == outcome(home(suite[0]) / "rte" / f"seed={seed}")


def test_a_failed_job_is_named_and_the_others_are_done(tmp_path, student, teacher_folder, root):
    import safetensors.torch

    broken = Path(shutil.copytree(student, tmp_path / "broken"))
    weights = safetensors.torch.load_file(broken / "model.safetensors")
    name = next(n for n in weights if n.endswith("output.LayerNorm.weight") and "layer.1" in n)
    weights[name][:] = float("nan")
    safetensors.torch.save_file(weights, broken / "model.safetensors", {"format": "pt"})
    command = glue(broken, teacher_folder, root, "suite.tasks=[rte]", "suite.seeds=[1]", "hydra.run.dir='my suite'")
    done = call(command, tmp_path, InForks())
    assert done.code == 1, done.output
    (last,) = [line for line in done.output.splitlines() if line.startswith("kdlab: failed")]
    assert last == "kdlab: failed: RTE, student, seed 1: my suite/rte/seed=1"
    found = json.loads((tmp_path / "my suite" / "glue.json").read_text())
    assert found["status"] == "failed" and found["own"][0]["scores"] == {}
    assert (
        found["own"][1]["scores"]["RTE"]
        == 100 * scores(tmp_path / "my suite" / "teacher" / "rte" / "seed=1")["accuracy"]
    )


WRONG: dict[str, tuple[list[str], str]] = {
    "a student that is not there": (["student.path=nowhere"], "nowhere"),
    "a task that does not exist": (["suite.tasks=[rte,sst3]"], "sst2"),
    "a task twice": (["suite.tasks=[rte,RTE]"], "each once"),
    "a task without a folder": (["suite.tasks=[rte,cola,qnli]"], "no folder for CoLA, QNLI; 'suite.tasks=[rte]'"),
    "a folder that is not there": (["data.path=nowhere"], "nowhere"),
    "a seed of its own": (["seed=4"], "suite.seeds"),
    "a task of its own": (["data.task=rte"], "suite.tasks=[rte]"),
    "an unknown key": (["suite.sedes=[1]"], "unknown key suite.sedes"),
    "a teacher that is not there": (["teachers.path=nowhere"], "nowhere"),
}


@pytest.mark.parametrize("what", WRONG)
def test_one_line_and_nothing_written(what, tmp_path, student, teacher_folder, root):
    wrong, says = WRONG[what]
    keys = [override.split("=")[0] for override in wrong]
    given = [a for a in glue(student, teacher_folder, root, "suite.tasks=[rte]") if a.split("=")[0] not in keys]
    assert_refused(call([*given, *wrong], tmp_path, InForks()), says)
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith("log-")]


def test_a_student_has_to_be_named_and_a_run_is_no_student(tmp_path, teacher_folder, student, root):
    rest = [f"teachers.path={teacher_folder}", f"data.path={root}", "suite.tasks=[rte]"]
    assert_refused(call(["+exp=glue", *rest], tmp_path), "student.path=")
    shutil.copytree(student, tmp_path / "run" / "student")
    assert_refused(call(["+exp=glue", *rest, "student.path=run"], tmp_path), "student.path=run/student")


def test_bad_rows_of_the_last_task_stop_the_suite_before_its_first_job(tmp_path, student, teacher_folder, root):
    tasks = Path(shutil.copytree(root, tmp_path / "tasks"))
    with (tasks / "WNLI" / "train.tsv").open("a") as file:
        file.write("ba ke\tlo mi\tmaybe\n")
    done = call(glue(student, teacher_folder, tasks, "suite.tasks=[rte,wnli]"), tmp_path / "run", InForks())
    assert_refused(done, "train.tsv, line 42: unknown label 'maybe'")
    assert not (tmp_path / "run" / "outputs").exists()


def test_what_a_suite_was_made_of_is_looked_at_before_it_goes_on(tmp_path, student, teacher_folder, root):
    tasks = Path(shutil.copytree(root, tmp_path / "tasks"))
    mine = Path(shutil.copytree(student, tmp_path / "student"))
    more = ["suite.tasks=[wnli]", "suite.seeds=[1]", "suite.teacher=false", "trainer.max_steps=2"]
    command = [a for a in glue(mine, teacher_folder, tasks, *more, "hydra.run.dir=here") if a != "trainer.max_steps=6"]
    assert call(command, tmp_path, InForks()).code == 0
    before = (tmp_path / "here" / "wnli" / "seed=1" / "result.json").read_bytes()
    (tasks / "WNLI" / "dev.tsv").write_text("sentence1\tsentence2\tlabel\nba\tke\t0\nlo\tmi\t1\n")
    assert_refused(call(command, tmp_path, InForks()), "made of other rows")
    write_teacher(mine, layers=2, seed=5)
    assert_refused(call(command, tmp_path, InForks()), "another configuration or student")
    assert (tmp_path / "here" / "wnli" / "seed=1" / "result.json").read_bytes() == before
    done = call([*command, "overwrite=true"], tmp_path, InForks())
    assert done.code == 0 and "skipped" not in done.output, done.output
    assert (tmp_path / "here" / "wnli" / "seed=1" / "result.json").read_bytes() != before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "one.txt").write_text("do not lose")
    there = [*command[:-1], "hydra.run.dir=thesis", "overwrite=true"]
    assert_refused(call(there, tmp_path, InForks()), "not a suite")
    assert (tmp_path / "thesis" / "one.txt").read_text() == "do not lose"


# ---- the GLUE server


@pytest.fixture
def evaluated(suite, monkeypatch, capfd) -> Callable[..., ChildResult]:
    """`python -m kdlab.evaluate` in this process."""
    monkeypatch.chdir(suite[0])

    def run(*arguments: object) -> ChildResult:
        capfd.readouterr()
        code = evaluate.main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return ChildResult(code, out + err)

    return run


def test_a_suites_submission_answers_every_test_row_as_transformers_does(suite, root, evaluated, tmp_path):
    made = home(suite[0])
    done = evaluated(made, "--glue-submission", tmp_path / "out.zip")
    assert done.code == 0, done.output
    best = {task: max((1, 2), key=lambda s: (scores(made / task / f"seed={s}")["score"], -s)) for task in ("mnli", "rte", "stsb")}  # fmt: skip
    files = {
        "MNLI-m.tsv": ("mnli", "MNLI/test.tsv", MNLI),
        "MNLI-mm.tsv": ("mnli", "MNLI/test_mismatched.tsv", MNLI),
        "AX.tsv": ("mnli", "AX/test.tsv", MNLI),
        "RTE.tsv": ("rte", "RTE/test.tsv", ENTAILMENT),
        "STS-B.tsv": ("stsb", "sts-b/test.tsv", None),
    }
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert sorted(archive.namelist()) == sorted(files)
        for name, (task, source, names) in files.items():
            logits = answers(made / task / f"seed={best[task]}" / "student", root / source)
            head, *lines = archive.read(name).decode().splitlines()
            assert head == "index\tprediction"
            cells = [line.split("\t") for line in lines]
            assert [int(index) for index, _ in cells] == list(range(len(pairs(root / source))))
            if names is None:
                assert [float(x) for _, x in cells] == pytest.approx(list(np.clip(logits[:, 0], 0, 5)), abs=1e-5)
            else:
                assert [x for _, x in cells] == [names[i] for i in logits.argmax(1)]
    for task, seed in best.items():
        assert f"{task.upper().replace('STSB', 'STS-B')}: seed={seed} answers" in done.output
    assert "RTE.tsv: 11 rows; the server's test set has 3,000" in done.output
    assert "not in the zip: CoLA.tsv, SST-2.tsv, MRPC.tsv, QQP.tsv, QNLI.tsv, WNLI.tsv" in done.output
    again = evaluated(made, "--glue-submission", tmp_path / "again.zip")
    assert again.code == 0 and (tmp_path / "again.zip").read_bytes() == (tmp_path / "out.zip").read_bytes()
    kept = (tmp_path / "out.zip").read_bytes()
    assert_refused(evaluated(made, "--glue-submission", tmp_path / "out.zip"), "out.zip exists")
    assert (tmp_path / "out.zip").read_bytes() == kept


def test_one_runs_submission_and_what_cannot_be_submitted(suite, evaluated, tmp_path, root):
    run = home(suite[0]) / "rte" / "seed=1"
    done = evaluated(run, "--glue-submission", tmp_path / "rte.zip")
    assert done.code == 0 and zipfile.ZipFile(tmp_path / "rte.zip").namelist() == ["RTE.tsv"], done.output
    changes: list[tuple[str, Callable[[dict, dict], object], str]] = [
        ("text", lambda result, config: result.update(stage="pretrain", head="masked_lm"), "+exp=glue"),
        ("own rows", lambda result, config: config["data"].update(task=None), "no GLUE task"),
        ("no GLUE task", lambda result, config: config["data"].update(task="sst5"), "SST-5"),
        (
            "no test",
            lambda result, config: config["data"].update(path=str(root / "WNLI"), task="wnli"),
            "not_entailment",
        ),
        ("unfinished", lambda result, config: result.update(status="running"), "no finished run"),
    ]
    for name, change, says in changes:
        other = Path(shutil.copytree(run, tmp_path / name))
        result, config = (
            json.loads((run / "result.json").read_text()),
            yaml.safe_load((run / "config.yaml").read_text()),
        )
        change(result, config)
        (other / "result.json").write_text(json.dumps(result))
        (other / "config.yaml").write_text(yaml.safe_dump(config))
        assert_refused(evaluated(other, "--glue-submission", tmp_path / "no.zip"), says)
    rows = Path(shutil.copytree(root / "RTE", tmp_path / "rows"))
    (rows / "test.tsv").unlink()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["path"] = str(rows)
    (tmp_path / "no test" / "config.yaml").write_text(yaml.safe_dump(config))
    assert_refused(evaluated(tmp_path / "no test", "--glue-submission", tmp_path / "no.zip"), "has no test split")
    assert not (tmp_path / "no.zip").exists()
