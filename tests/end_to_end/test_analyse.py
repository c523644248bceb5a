"""`python -m kdlab.analyse` on a real run of seconds, its numbers against plain transformers and numpy."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread

from kdlab import analyse
from kdlab.storage.tables import read
from tests.support.runs import call, command, tiny, tiny_task

RUN = Path("runs/one")
HOT = "knowledge.terms.soft.term.temperature=2.0"
FROZEN = ("word_embeddings.weight", "position_embeddings.weight")


@pytest.fixture(scope="module")
def home(tmp_path_factory, teacher_folder, task_folder) -> Path:
    """A folder with one finished run; 50 training rows, so that an analysis can read all of them."""
    folder = tmp_path_factory.mktemp("analyse")
    given = tiny_task(
        teacher_folder,
        task_folder,
        "select=entropy",
        "data.train_rows=50",
        f"hydra.run.dir={RUN}",
        HOT,
        f"student.freeze=[{','.join(FROZEN)}]",
    )
    done = call(given, folder)
    assert done.code == 0, done.output
    return folder


@pytest.fixture
def here(home, monkeypatch) -> Path:
    """The commands find what the run refers to from the folder it was started in."""
    monkeypatch.chdir(home)
    return home


def rows_of(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def models_of(home: Path):
    """Student and teacher as transformers loads them, and each row's tokens and label from the prepared data."""
    from transformers import AutoModelForSequenceClassification

    from kdlab.data.tasks import dataset

    (teacher,) = {file.parent for file in (home / "artifacts").glob("classifier*/**/model.safetensors")}
    student, teacher = (
        AutoModelForSequenceClassification.from_pretrained(source).eval() for source in (RUN / "student", teacher)
    )
    (data,) = {file.parent for file in (home / "artifacts").glob("task*/**/shape.json")}
    train = dataset.load(data, "train")
    return student, teacher, [(torch.tensor(train[0, i].ids[None].astype(np.int64)), int(train.labels[i])) for i in range(len(train))]  # fmt: skip


def checked(out: Path, name: str) -> list[dict[str, str]]:
    assert imread(out / f"{name}.png").shape[1] == 1200
    return rows_of(out / f"{name}.csv")


def test_gradients_are_those_of_all_trained_parameters(here, capsys):
    assert analyse.main(["gradients", str(RUN), "--rows", "50"]) == 0
    rows = checked(RUN / "figures", "gradients")
    assert "runs/one/figures/gradients.csv" in capsys.readouterr().out
    student, teacher, data = models_of(here)
    trained = [p for name, p in student.named_parameters() if not name.endswith(FROZEN)]
    cosines = []
    for ids, label in data:
        logits, target = student(ids).logits[0], (teacher(ids).logits[0].detach() / 2).softmax(-1)
        losses = -logits.log_softmax(-1)[label], -(target * (logits / 2).log_softmax(-1)).sum()  # KL but for a constant
        one, other = (
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained, retain_graph=True)]) for loss in losses
        )
        cosines.append(float(torch.cosine_similarity(one, other, dim=0)))
    whole = [row for row in rows if row["ratio"] == "1.0"]
    assert len(rows) == 70 and len(whole) == 7
    for row in whole:
        assert int(row["rows"]) == 50
        assert float(row["agree"]) == pytest.approx(np.mean(np.array(cosines) > 0))
        assert float(row["cosine"]) == pytest.approx(np.mean(cosines), abs=1e-4)
    tenth = {int(row["rows"]) for row in rows if row["ratio"] == "0.1"}
    assert tenth == {4}  # one of each batch of 16, and of the last one of 2


def test_gradients_of_the_head_of_a_checkpoint(here):
    (kept, *_) = sorted((RUN / "checkpoints").glob("step-*.ckpt"))
    given = ["gradients", str(RUN), "--rows", "20", "--head", "--strategies", "margin", "--out", "h", "--checkpoint"]
    assert analyse.main([*given, str(kept)]) == 0
    rows = checked(Path("h"), "gradients")
    assert {row["strategy"] for row in rows} == {"margin"} and len(rows) == 10


def test_gradients_of_a_run_on_text(tmp_path, teacher_folder, text_folder, monkeypatch):
    from transformers import AutoModelForMaskedLM

    from kdlab.reporting.analyses.open_run import OpenRun

    monkeypatch.chdir(tmp_path)
    done = call(tiny(teacher_folder, text_folder, f"hydra.run.dir={RUN}"), tmp_path)
    assert done.code == 0, done.output
    given = ["gradients", str(RUN), "--rows", "24", "--strategies", "entropy", "density", "random", "--out", "g"]
    assert analyse.main(given) == 0
    rows = {(row["strategy"], row["ratio"]): row for row in checked(Path("g"), "gradients")}
    student, teacher = (
        AutoModelForMaskedLM.from_pretrained(source).eval() for source in (RUN / "student", teacher_folder)
    )
    for name, p in student.named_parameters():
        p.requires_grad_(not name.endswith("position_embeddings.weight"))
    trained = [p for p in student.parameters() if p.requires_grad]
    agree, chosen = [], []
    for batch in OpenRun(RUN, text=True).batches(24):
        uncertain = []
        for ids, mask, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True):
            at, given = labels != -100, {"input_ids": ids[None], "attention_mask": mask[None]}
            logits, target = student(**given).logits[0, at], (teacher(**given).logits[0, at].detach() / 2).softmax(-1)
            losses = (
                torch.nn.functional.cross_entropy(logits, labels[at], reduction="sum"),
                -(target * (logits / 2).log_softmax(-1)).sum(),
            )
            one, other = (
                torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained, retain_graph=True)])
                for loss in losses
            )
            agree.append(float(one @ other) > 0)
            p = logits.detach().double().softmax(-1)
            uncertain.append(float(-(p * p.log()).sum(-1).mean()))
        best = np.argsort(uncertain)[::-1][: max(1, len(uncertain) // 2)]
        chosen += [i in best for i in range(len(uncertain))]
    assert len(agree) == 24 and {int(rows[name, "1.0"]["rows"]) for name in ("entropy", "density", "random")} == {24}
    assert float(rows["random", "1.0"]["agree"]) == pytest.approx(np.mean(agree))
    assert int(rows["entropy", "0.5"]["rows"]) == sum(chosen)
    assert float(rows["entropy", "0.5"]["agree"]) == pytest.approx(np.mean(np.array(agree)[chosen]))


def features_of(model, ids: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model.bert(ids).last_hidden_state[0, 0].double().numpy()


def entropy_of(model, ids: torch.Tensor) -> float:
    with torch.no_grad():
        p = model(ids).logits[0].double().softmax(-1).numpy()
    return float(-(p * np.log(p)).sum())


def test_selected_rows_from_what_the_run_folder_holds(here, capsys):
    assert analyse.main(["selected", str(RUN), "--rows", "50"]) == 0
    assert "its start, 2 checkpoints and its end" in capsys.readouterr().out
    rows = checked(RUN / "figures", "selected")
    assert sorted({int(row["step"]) for row in rows}) == [0, 3, 6, 8]
    student, teacher, data = models_of(here)
    features, labels = np.stack([features_of(student, ids) for ids, _ in data]), np.array([y for _, y in data])
    distance = [np.linalg.norm(x - features[labels == y].mean(0)) for x, y in zip(features, labels, strict=True)]
    (end,) = [row for row in rows if row["step"] == "8" and row["strategy"] == "all"]
    assert float(end["distance"]) == pytest.approx(np.mean(distance), rel=1e-4)
    everyone = {row["teacher_entropy"] for row in rows if row["strategy"] == "all"}
    assert [float(x) for x in everyone] == [pytest.approx(np.mean([entropy_of(teacher, ids) for ids, _ in data]), rel=1e-4)]  # fmt: skip
    assert {row["rows"] for row in rows if row["strategy"] == "entropy"} == {"13"}  # 4 of each 16, 1 of the last 2


def test_selected_rows_as_a_run_has_traced_them(here, tmp_path):
    run = shutil.copytree(RUN, tmp_path / "traced")
    lines = ["step,strategy,distance,rows", "0,random,1.5,3 1", "0,all,2.5,0 1 2 3", "4,random,0.5,2"]
    (run / "selected.csv").write_text("\n".join(lines) + "\n")
    assert analyse.main(["selected", str(run)]) == 0
    found = read(run / "figures" / "selected.csv")
    teacher, data = models_of(here)[1:]
    told = [entropy_of(teacher, data[i][0]) for i in range(4)]
    assert [(row["step"], row["strategy"], row["rows"], row["distance"]) for row in found] == [
        ("0", "random", "2", "1.5"), ("0", "all", "4", "2.5"), ("4", "random", "1", "0.5"),
    ]  # fmt: skip
    expected = [np.mean([told[3], told[1]]), np.mean(told), told[2]]
    np.testing.assert_allclose([float(row["teacher_entropy"]) for row in found], expected, rtol=1e-4)


def test_tsne_marks_the_rows_that_strategies_keep(here, task_folder):
    assert analyse.main(["tsne", str(RUN), "--rows", "40", "--out", "t"]) == 0
    rows = checked(Path("t"), "tsne")
    assert list(rows[0]) == ["row", "x", "y", "label", "selected_margin", "selected_random"]
    assert len({row["row"] for row in rows}) == 40
    for name in ("margin", "random"):
        assert sum(int(row[f"selected_{name}"]) for row in rows) == 4 + 4 + 2  # a quarter of 16, 16 and 8
    _, _, data = models_of(here)
    assert all(row["label"] == f"kind{data[int(row['row'])][1]}" for row in rows)
    assert len({(row["x"], row["y"]) for row in rows}) > 35


def without_teacher(file: Path) -> None:
    """Give a configuration the knowledge of labels alone."""
    config = yaml.safe_load(file.read_text())
    term = {"_target_": "kdlab.methods.knowledge.logits.label_loss", "_partial_": True}
    config["knowledge"] |= {"name": "labels", "terms": {"label": {"weight": 1.0, "at": "labelled", "term": term}}}
    file.write_text(yaml.safe_dump(config))


def test_runs_side_by_side(here):
    # beside the run one that says to have another ratio, temperature and number of layers
    for name, change in {"ratio": "ratio: 0.5", "temperature": "temperature: 4.0", "layers": "layers: 4"}.items():
        shutil.copytree(RUN, other := Path("both", name, "other"))
        shutil.copytree(RUN, Path("both", name, "run"))
        text, times = re.subn(rf"\b{name}: [\d.]+", change, (other / "config.yaml").read_text())
        assert times
        (other / "config.yaml").write_text(text)
        result = json.loads((other / "result.json").read_text())
        if name == "ratio":
            (other / "result.json").write_text(json.dumps(result | {"select": {**result["select"], "ratio": 0.5}}))
    assert analyse.main(["ratio", "both/ratio"]) == 0
    row, _ = checked(Path("both/ratio/figures"), "ratio")
    result = json.loads((RUN / "result.json").read_text())
    assert float(row["mean"]) == result["metrics"]["student"]["score"]
    assert float(row["queries"]) == result["ledger"]["teacher_queries"]["total"]
    assert analyse.main(["temperature", "both/temperature", "--out", "w"]) == 0
    row, _ = checked(Path("w"), "temperature")
    assert (row["select"], row["temperature"]) == ("entropy 25 %", "2.0")
    assert analyse.main(["against", "--key", "student.layers", "both/layers", "--out", "w"]) == 0
    row, _ = checked(Path("w"), "against_student.layers")
    assert (row["select"], row["student.layers"]) == ("select=entropy ratio=0.25", "2.0")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["gradients", "nowhere"], "no result.json"),
        (["gradients", "{run}", "--rows", "0"], "--rows 0: at least 1"),
        (["gradients", "{run}", "--strategies", "entrop"], "no strategy is called entrop: did you mean entropy"),
        (["gradients", "{run}", "--checkpoint", "none.ckpt"], "none.ckpt does not exist"),
        (["tsne", "{run}", "--ratio", "1"], "--ratio: a share between 0 and 1"),
        (["tsne", "{run}", "--rows", "3"], "--rows 4 or more"),
        (["ratio", "artifacts"], "no finished run in artifacts"),
        (["ratio", "{run}"], "needs runs at two or more of it; found 0.25"),
        (["selected", "whole"], "selects all rows (select.ratio=1)"),
        (["tsne", "whole"], "selects all rows (select.ratio=1)"),
        (["selected", "alone"], "asked no teacher"),
        (["selected", "text"], "plain text"),
    ],
)
def test_bad_input_is_one_line(given, said, here, capsys):
    if not Path("text").exists():
        shutil.copytree(RUN, "text")
        result = json.loads((RUN / "result.json").read_text())
        Path("text/result.json").write_text(json.dumps({**result, "stage": "pretrain", "head": "masked_lm"}))
        for name, lines in {"whole": r"(?m)^  ratio: .*", "alone": ""}.items():
            shutil.copytree(RUN, name)
            (Path(name) / "selected.csv").unlink(missing_ok=True)
            if lines:
                text, times = re.subn(lines, "  ratio: 1.0", (Path(name) / "config.yaml").read_text())
                assert times == 1
                (Path(name) / "config.yaml").write_text(text)
        shutil.copy(RUN / "config.yaml", "alone/config.yaml")
        without_teacher(Path("alone/config.yaml"))
    assert analyse.main([arg.format(run=RUN) for arg in given]) == 2
    err = capsys.readouterr().err
    assert said in err and err.startswith("kdlab: ") and len(err.splitlines()) == 1


def test_tsne_says_what_to_install(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    assert analyse.main(["tsne", str(RUN)]) == 2
    assert "pip install 'kdlab[analysis]'" in capsys.readouterr().err


def test_help_names_every_analysis(tmp_path):
    done = command(["--help"], tmp_path, "kdlab.analyse")
    assert done.code == 0
    for said in (
        "gradients",
        "selected",
        "tsne",
        "temperature",
        "ratio",
        "against",
        "AdaDS Fig. 1",
        "Dynamic KD Fig. 5",
    ):
        assert said in " ".join(done.output.split())
