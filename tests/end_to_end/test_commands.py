"""The commands as a user types them: help, evaluate, export, sweeps, and every experiment file at tiny size."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from kdlab.config.composition import CONF, composition
from kdlab.config.schema import checked
from kdlab.stages import components, observation
from kdlab.storage import tables
from kdlab.storage.files import umask
from tests.conftest import write_task, write_teacher, write_text
from tests.support import shells
from tests.support.cadence import each_time
from tests.support.causal import write_rows
from tests.support.runs import CtrlCAt, call, command, in_fork, run_folder, tiny, tiny_causal, tiny_task
from tests.support.wandb_files import Told

EXPERIMENTS = sorted(file.stem for file in (CONF / "exp").glob("*.yaml"))
# a suite is many runs: test_glue.py
SINGLE_RUNS = [exp for exp in EXPERIMENTS if "suite" not in yaml.safe_load((CONF / "exp" / f"{exp}.yaml").read_text())]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, teacher_folder, text_folder) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    done = call(tiny(teacher_folder, text_folder, "trainer.measure_speed=true"), folder)
    assert done.code == 0, done.output
    assert_sizes(done.output, run_folder(folder))
    shells.assert_printed(done.output, "kdlab.run")
    return folder


def assert_sizes(output: str, run: Path) -> None:
    """Student and teacher have their size and speed in result.json, in the closing table and in the card."""
    result = json.loads((run / "result.json").read_text())
    sizes, teacher = result["size"], result["teacher"]["name"]
    assert sizes.keys() == {"student", teacher}
    (file,) = (run / "student").glob("*.safetensors")
    assert sizes["student"]["megabytes"] == pytest.approx(file.stat().st_size / 1e6, abs=1e-3)
    assert sizes["student"]["without_embeddings"] < sizes["student"]["parameters"] < sizes[teacher]["parameters"]
    card = (run / "student" / "README.md").read_text()
    for name, one in sizes.items():
        assert one["milliseconds"]["1"] > one["milliseconds"]["32"] > 0  # 32 texts at once share the overhead of one
        shown = f"{one['parameters']:,}"
        assert re.search(rf"^  {name} +{shown} ", output, re.MULTILINE) and f"| {name} | {shown} |" in card
    assert "on 1 thread of " in output and "on 1 thread of " in card


def test_one_command_calls_all_others(finished, tmp_path):
    done = command(["evaluate", str(run_folder(finished))], finished, module="kdlab")
    assert done.code == 0 and "student, as recorded" in done.output, done.output
    refused = command(["run", "+exp=adads_pretrian"], tmp_path, module="kdlab")
    assert refused.code == 2 and "adads_pretrain" in refused.output, refused.output
    assert command(["compare", "nowhere"], tmp_path, module="kdlab").code == 2
    assert not list(tmp_path.iterdir())


def test_help_reads_like_help(tmp_path):
    done = command(["--help"], tmp_path)
    assert done.code == 0
    for said in ("python -m kdlab.run +exp=", "adads_pretrain", "select.ratio", "scale=paper", "least_confidence"):
        assert said in done.output
    assert not list(tmp_path.iterdir())


def test_help_imports_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, kdlab.run; bad = {'torch', 'transformers', 'pytorch_lightning'} & set(sys.modules); assert not bad, bad"
    assert subprocess.run([sys.executable, "-c", code], cwd=CONF.parent, check=False).returncode == 0


AS_TYPED = ("adads_pretrain", "adads_finetune")  # in a process that imports everything itself, which takes 10 s


# other tests run +exp=finetune and +exp=ksm (test_teaching.py) and +exp=causal_finetune (test_causal.py) by day
RARE = ("adads_finetune", "dynamickd_teacher", "dynamickd_objective", "finetune", "ksm", "causal_finetune")


@pytest.mark.parametrize("exp", each_time(SINGLE_RUNS, *(exp for exp in SINGLE_RUNS if exp not in RARE)))
def test_every_experiment_runs_end_to_end(exp, tmp_path, teacher_folder, decoder_folder, text_folder, task_folder):
    config = checked(composition([f"+exp={exp}"])[0])
    rows = write_task(tmp_path / "rows", classes=4) if config.teachers.split else task_folder
    if exp == "causal_finetune":
        words = ("ba", "ke", "lo", "mi")
        pairs = [{"prompt": f"{a} {b} {c} ", "completion": f"{c} {a}"} for a in words for b in words for c in words]
        write_rows(tmp_path / "pairs.jsonl", pairs)
        given = tiny_causal(decoder_folder, tmp_path / "pairs.jsonl")
    elif config.data.stage == "causal":
        given = tiny_causal(decoder_folder, text_folder)
    else:
        given = (
            tiny(teacher_folder, text_folder) if config.data.stage == "pretrain" else tiny_task(teacher_folder, rows)
        )
    start = command if exp in AS_TYPED else call
    plus = "" if exp in AS_TYPED else "+"  # which may be left out
    done = start([f"{plus}exp={exp}", *(a for a in given if not a.startswith("+exp="))], tmp_path)
    assert done.code == 0, done.output
    asks = config.knowledge.name != "labels"
    costs = ("teacher queries", "model FLOPs", "wall-clock") if asks else ("cost: no teacher",)
    for said in ("scale=demo", "scale=paper", *costs, "run folder", "next:"):
        assert said in done.output
    shells.assert_printed(done.output, "kdlab.run")
    result = json.loads((run_folder(tmp_path, exp) / "result.json").read_text())
    assert result["status"] == "finished" and f"+exp={exp}" in result["command"]
    assert set(result) >= {"metrics", "ledger", "seed", "data", "teacher", "versions", "git"}
    assert set(result["ledger"]) >= {"teacher_queries", "flops", "seconds", "speedup"}
    assert set(result["ledger"]["speedup"]) == {"flops", "queries", "wallclock"}
    assert result["ledger"]["speedup"]["flops"] == pytest.approx(
        result["ledger"]["flops"]["all_data"] / result["ledger"]["flops"]["total"]
    )


@pytest.mark.parametrize("exp", EXPERIMENTS)
def test_experiment_files_are_short_and_headed_by_their_command(exp):
    lines = (CONF / "exp" / f"{exp}.yaml").read_text().splitlines()
    assert len(lines) <= 20
    assert any(f"python -m kdlab.run +exp={exp}" in line for line in lines[:3])


# the others by day on labelled rows: test_finetune.py
@pytest.mark.parametrize("family", each_time(["roberta", "distilbert", "electra"], "distilbert"))
def test_any_encoder_family_can_teach(family, tmp_path, text_folder):
    teacher = write_teacher(tmp_path / "teacher", family)
    done = call(tiny(teacher, text_folder), tmp_path / "run")
    assert done.code == 0, done.output


def test_a_teacher_without_a_head_gets_one_once(tmp_path, text_folder):
    import transformers

    teacher = write_teacher(tmp_path / "teacher", dropout=0.1)
    transformers.AutoModel.from_pretrained(teacher).save_pretrained(teacher)
    more = ["teachers.prepare.max_length=16", "teachers.prepare.lr=5e-3", "trainer.max_steps=2"]
    losses = []
    for steps in (1, 60):
        command_line = tiny(teacher, text_folder, *more, f"teachers.prepare.max_steps={steps}")
        first = call(command_line, tmp_path / "run")
        assert first.code == 0, first.output
        assert "making the teacher's masked-LM head" in first.output
        losses += re.findall(r"held-out masked-LM loss (\d+\.\d+)", first.output)
    assert float(losses[1]) < float(losses[0]) - 0.1
    second = call([*command_line, "seed=2"], tmp_path / "run")
    assert second.code == 0 and "making" not in second.output and f"loss {losses[1]}" in second.output


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_text_in_other_forms(form, tmp_path, teacher_folder):
    from tests.conftest import generated_text

    texts = generated_text(40)
    folder = tmp_path / "text"
    folder.mkdir()
    if form == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    else:  # the columns of wikimedia/wikipedia
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"id": [str(i) for i in range(40)], "url": [""] * 40, "title": [""] * 40, "text": texts}
        pq.write_table(pa.table(columns), folder / "train-00000-of-00001.parquet")
    done = call(tiny(teacher_folder, folder, "select=entropy", "trainer.max_steps=2"), tmp_path / "run")
    assert done.code == 0, done.output


def test_evaluate_scores_the_student_as_the_run_did(finished):
    run = run_folder(finished)
    done = in_fork("kdlab.evaluate", [str(run)], finished)
    assert done.code == 0, done.output
    kept = json.loads((run / "result.json").read_text())["metrics"]["student"]
    assert len(re.findall(rf"{kept['loss']:.4f}", done.output)) == 2
    assert in_fork("kdlab.evaluate", ["nowhere"], finished).code == 2


def test_export_gives_the_same_outputs_and_keeps_what_is_there(finished, tmp_path):
    import transformers

    run = run_folder(finished)
    done = command([str(run), str(tmp_path / "out")], finished, module="kdlab.export")
    assert done.code == 0, done.output
    inside, outside = (
        transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
        for folder in (run / "student", tmp_path / "out")
    )
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("ba ke lo [MASK]", return_tensors="pt")
    ids = {"input_ids": words["input_ids"], "attention_mask": words["attention_mask"]}
    with torch.no_grad():
        assert torch.equal(inside(**ids).logits, outside(**ids).logits)
    again = in_fork("kdlab.export", [str(run), str(tmp_path / "out")], finished)
    assert again.code == 2 and "not empty" in again.output
    written = [file for folder in (run, tmp_path / "out", finished / "artifacts") for file in folder.rglob("*")]
    own = [file for file in written if file.is_file() and file.stat().st_mode & 0o777 != 0o666 & ~umask()]
    assert len(written) > 20 and own == []  # whoever may read other files may read these


def test_the_student_folder_is_an_ordinary_one_without_a_teacher(finished):
    import transformers

    student = run_folder(finished) / "student"
    model = transformers.AutoModelForMaskedLM.from_pretrained(student)
    assert model.config.num_hidden_layers == 2
    assert {p.name for p in student.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md",
    }  # fmt: skip


def test_a_finished_run_is_not_continued_but_begun_anew(finished, teacher_folder, text_folder, tmp_path):
    shutil.copytree(finished / "artifacts", tmp_path / "artifacts")
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    assert call(tiny(teacher_folder, text_folder), tmp_path).code == 0
    assert len(list((tmp_path / "outputs" / "adads_pretrain").iterdir())) == 2


def test_ratio_one_is_plain_distillation_bit_for_bit(tmp_path, teacher_folder, text_folder):
    from tests.support.runs import outcome

    outcomes = []
    for name, select in (("adads", "select=adads"), ("all", "select=all")):
        done = call(tiny(teacher_folder, text_folder, select, "select.ratio=1", f"hydra.run.dir={name}"), tmp_path)
        assert done.code == 0, done.output
        outcomes.append(outcome(tmp_path / name))
    assert outcomes[0]["student"] == outcomes[1]["student"]
    assert "scoring" not in outcomes[0]["ledger"]["flops"] and "observation" not in outcomes[0]["ledger"]["flops"]


def test_random_runs_no_scoring_pass_and_density_never_projects(tmp_path, teacher_folder, text_folder):
    flops = {}
    for name in ("random", "density", "entropy"):
        more = (f"select={name}", "exec=padded", f"hydra.run.dir={name}")  # packed, entropy has a cheaper last layer
        done = call(tiny(teacher_folder, text_folder, *more), tmp_path)
        assert done.code == 0, done.output
        flops[name] = json.loads((tmp_path / name / "result.json").read_text())["ledger"]["flops"].get("scoring", 0)
    assert flops["random"] == 0 < flops["density"] < flops["entropy"]


def test_observing_the_whole_loss_asks_the_teacher_once_for_its_rows(finished, tmp_path, teacher_folder, text_folder):
    assert "observe: task\n" in (run_folder(finished) / "config.yaml").read_text()
    done = call(tiny(teacher_folder, text_folder, "select.observe=kd", "hydra.run.dir=kd"), tmp_path)
    assert done.code == 0, done.output
    task, kd = (
        json.loads((run / "result.json").read_text())["ledger"]["teacher_queries"]["total"]
        for run in (run_folder(finished), tmp_path / "kd")
    )
    assert kd == task + 8


def test_wandb_offline_has_every_series_against_queries(tmp_path, teacher_folder, text_folder):
    done = call(tiny(teacher_folder, text_folder, "logger=wandb", "trainer.max_steps=6", "figures=true"), tmp_path)
    assert done.code == 0, done.output
    run = run_folder(tmp_path)
    assert tables.read(run / "selector.csv")
    found = Told(run)
    for series in ("selector/q_entropy", "selector/observation", "selector/arm_cluster", "heldout/loss"):
        assert found.series(series) and found.axes[f"{series.split('/')[0]}/*"] == "teacher_queries"
    assert found.series("schedule/step")[-1] == 6
    ledger = json.loads((run / "result.json").read_text())["ledger"]
    assert found.summary["ledger/teacher_queries/total"] == ledger["teacher_queries"]["total"]
    assert any(name.startswith("figures/schedule/") for row in found.history for name in row)
    assert "WARNING" not in done.output


def test_a_sweep_runs_each_job_in_its_own_folder_and_skips_finished_ones(tmp_path, teacher_folder, text_folder):
    arguments = ["-m", *tiny(teacher_folder, text_folder, "select=random,entropy", "trainer.max_steps=2")]
    done = call(arguments, tmp_path)
    assert done.code == 0, done.output
    results = sorted((tmp_path / "outputs" / "adads_pretrain").rglob("result.json"))
    assert {json.loads(r.read_text())["select"]["name"] for r in results} == {"random", "entropy"}
    assert {r.parent.name for r in results} == {"random-r0.25-s1", "entropy-r0.25-s1"}
    again = call(arguments, tmp_path)
    assert again.code == 0 and again.output.count("skipped") == 2
    for output in (done.output, again.output):
        shells.assert_printed(output, "kdlab.compare")


def test_mixed_precision_learns_as_full_precision_does(tmp_path, teacher_folder, text_folder):
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        arguments = tiny(teacher_folder, text_folder, f"trainer.precision={precision}", f"hydra.run.dir={precision}")
        done = call(arguments, tmp_path)
        assert done.code == 0, done.output
        rows = tables.read(tmp_path / precision / "metrics.csv")
        losses.append([float(row["heldout_loss"]) for row in rows])
    assert losses[1] == pytest.approx(losses[0], rel=0.03) and losses[1] != losses[0]


def test_ones_own_experiment_files_are_found(tmp_path, teacher_folder, text_folder):
    (tmp_path / "mine" / "exp").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /select: density\nname: mine\n"
    (tmp_path / "mine" / "exp" / "mine.yaml").write_text(text)
    arguments = [a for a in tiny(teacher_folder, text_folder, "trainer.max_steps=2") if not a.startswith("+exp=")]
    done = call(["--config-dir", "mine", "+exp=mine", *arguments], tmp_path)
    assert done.code == 0, done.output
    assert json.loads((run_folder(tmp_path, "mine") / "result.json").read_text())["select"]["name"] == "density"
    done = call(["--config-dir=nowhere", "+exp=mine"], tmp_path)
    assert done.code == 2 and "nowhere" in done.output


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, teacher_folder, text_folder):
    command_line = tiny(teacher_folder, text_folder)
    done = call(command_line, tmp_path, CtrlCAt(5))
    assert done.code == 130 and "Traceback" not in done.output
    assert done.output.strip().endswith(
        "stopped by Ctrl-C after step 6, which is saved; the same command resumes from the last checkpoint"
    )
    assert call(command_line, tmp_path).code == 0
    assert len(list((tmp_path / "outputs" / "adads_pretrain").iterdir())) == 1


def test_the_published_scale_is_composed_and_valid():
    composed, _ = composition(["+exp=adads_pretrain", "scale=paper"])
    config = checked(composed)
    # the DistilBERT recipe (METHODS section 4): layers, weights, temperature, schedule, lengths, precision
    assert config.teachers.name == "google-bert/bert-base-uncased"
    assert config.student.layers == [0, 2, 4, 7, 9, 11]
    assert {n: t.weight for n, t in config.knowledge.terms.items()} == {"soft": 5.0, "label": 2.0, "cosine": 1.0}
    assert config.knowledge.terms["soft"].term["temperature"] == 2.0
    assert (config.data.min_length, config.data.max_length, config.data.mask_probability) == (12, 512, 0.15)
    assert (config.optim.lr, config.optim.eps, config.optim.weight_decay) == (5e-4, 1e-6, 0.0)
    assert (config.optim.warmup, config.optim.clip) == (0.05, 5.0)
    assert config.data.batch_size * config.trainer.accumulate == 250 and config.trainer.max_epochs == 3
    assert (config.trainer.precision, config.trainer.devices) == ("bf16-mixed", "auto")
    sources = config.data.source["sources"]
    assert [s["name"] for s in sources] == ["wikimedia/wikipedia", "rojagtap/bookcorpus"]
    assert sources[0]["config"] == "20231101.en" and all(s["revision"] for s in sources)
    assert config.student.freeze == ["position_embeddings"] and config.select.ratio == 0.1


def test_the_script_of_distilbert_has_one_name():
    """Its defaults (distiller.py, lm_seqs_dataset.py): restrict_ce_to_mask off, group_by_size on, half [UNK] dropped."""
    for scale in ("demo", "paper"):
        config = checked(composition(["+exp=distilbert", f"scale={scale}"])[0])
        assert config.knowledge.ce_on == "all" and config.knowledge.terms["soft"].at == "all"
        assert (config.data.order, config.data.masking, config.data.max_unknown) == ("length", "rare", 0.5)
        assert config.select.ratio == 1
        assert {n: t.weight for n, t in config.knowledge.terms.items()} == {"soft": 5.0, "label": 2.0, "cosine": 1.0}
    assert config.data.batch_size * config.trainer.accumulate == 250 and config.trainer.max_epochs == 3
    assert checked(composition(["+exp=adads_pretrain", "scale=paper"])[0]).data.max_unknown is None


def test_the_defaults_of_adads_are_the_stated_ones():
    composed, _ = composition(["+exp=adads_pretrain", "scale=paper"])
    select = checked(composed).select
    assert (select.policy["alpha"], select.policy["epsilon"], select.reward["window"]) == (0.1, 0.1, 5)
    assert (select.evaluation_rows, select.interval) == ("auto", "auto")
    found = observation.planned(select, components.selection(select), 250, 100_000)  # an update's rows on one GPU
    assert found is not None and (found.rows, found.interval) == (256, 13) and 0.05 < found.share < 0.09
    assert list(select.arms) == ["entropy", "margin", "least_confidence", "certainty", "cluster", "density"]


def test_the_embedded_default_runs_on_the_packages_it_names(tmp_path):
    """The newcomer's command with few steps: the real teacher and text, and a student better than untrained."""
    more = ["teachers.prepare.max_steps=2", "teachers.prepare.batch_size=2", "trainer.max_steps=2", "data.batch_size=10",
            "trainer.probes=0", "data.heldout_rows=4", "select.evaluation_rows=2", "select.interval=1"]  # fmt: skip
    done = call(["+exp=adads_pretrain", *more], tmp_path, timeout=300)
    assert done.code == 0, done.output
    result = json.loads((run_folder(tmp_path) / "result.json").read_text())
    assert result["data"]["source"] == "WikipediaExcerpt" and result["teacher"]["name"] == "all-MiniLM-L6-v2"
    assert result["student"]["layers"] == [0, 2, 4]
    config = yaml.safe_load((run_folder(tmp_path) / "config.yaml").read_text())
    assert config["scale"]["name"] == "demo"


def test_long_documents_of_a_single_book_can_be_used(tmp_path, teacher_folder):
    text = write_text(tmp_path / "text", 40)
    book = " ".join(file.read_text() for file in sorted(text.iterdir()))
    shutil.rmtree(text)
    text.mkdir()
    (text / "book.txt").write_text(book)
    done = call(tiny(teacher_folder, text, "select=margin", "trainer.max_steps=2"), tmp_path / "run")
    assert done.code == 0, done.output
