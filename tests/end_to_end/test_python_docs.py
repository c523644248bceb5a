"""Every example of docs/python.md runs as it stands there, but for the sizes in `SMALLER`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from kdlab.testing.child_process import TINY_TASK
from tests.conftest import tiny_config, tiny_tokenizer, write_task, write_teacher
from tests.support.documents import ROOT

PAGE = ROOT / "docs" / "python.md"
CHANGED = ("+exp", "select.ratio", "student.layers", "trainer.max_steps")
OVERRIDES = [one for one in TINY_TASK if not one.startswith(CHANGED)]
# text of the page -> text that runs in seconds
SMALLER = {
    "One call": {"max_steps=500,": f"max_steps=6, overrides={OVERRIDES},"},
    "Your own Trainer": {
        "STEPS = 300": "STEPS = 6",
        "layers=[0, 2, 4]": "layers=[0, 2]",
        "    steps=STEPS,\n": "    steps=STEPS, batch_size=16, max_length=32,\n",
        "observed_batches(64)": "observed_batches(8)",
        "max_steps=STEPS,\n": 'max_steps=STEPS, accelerator="cpu", enable_progress_bar=False,\n',
    },
    "Your own LightningModule": {
        "STEPS = 400": "STEPS = 150",
        "logger=False": "logger=False, enable_progress_bar=False, enable_model_summary=False",
    },
    "HF Trainer": {},
    "A loop in PyTorch": {"STEPS = 200": "STEPS = 60"},
    "Equations alone": {},
}

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of Lightning and transformers, in a process that is the user's
]


def examples() -> dict[str, str]:
    """The code of each section of the page."""
    _, *sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)
    return {
        section.partition("\n")[0]: code[1]
        for section in sections
        if (code := re.search(r"```python\n(.*?)```", section, re.S))
    }


def run(title: str) -> dict[str, Any]:
    """Run the example of a section; returns its names."""
    code = examples()[title]
    for text, smaller in SMALLER[title].items():
        assert text in code, text
        code = code.replace(text, smaller)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, f"{PAGE.name}: {title}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def classifier(folder: Path, layers: int = 4, seed: int = 0) -> transformers.PreTrainedModel:
    torch.manual_seed(seed)
    config = tiny_config("bert", layers)
    config.id2label = {i: f"kind{i}" for i in range(3)}
    config.label2id = {name: i for i, name in config.id2label.items()}
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


def test_every_example_of_the_page_is_tested():
    assert examples().keys() == SMALLER.keys()


def test_one_call(capsys):
    write_task(Path("my_rows"))
    write_teacher(Path("my_model"))
    names = run("One call")
    assert "teacher queries" in capsys.readouterr().out and names["result"].schedule
    assert Path("my_student/model.safetensors").is_file()


def test_your_own_trainer(capsys):
    write_task(Path("my_rows"))
    classifier(Path("my_classifier"))
    names = run("Your own Trainer")
    assert names["trainer"].global_step == 6 and "accuracy" in capsys.readouterr().out
    (logged,) = Path("logs").rglob("metrics.csv")
    assert "soft" in logged.read_text().partition("\n")[0] and Path("my_student/model.safetensors").is_file()
    assert not Path("artifacts").exists() and not Path("outputs").exists()


def test_your_own_lightning_module(capsys):
    names = run("Your own LightningModule")
    assert [row["step"] for row in names["written"]] == list(range(0, 150, 10))
    assert float(re.findall(r"loss (\d\.\d+)", capsys.readouterr().out)[-1]) < 1.0  # log 3 is 1.10


def test_hf_trainer():
    kept: list[int] = []

    def record(rows):
        kept.append(len(rows))
        return rows

    import kdlab
    from kdlab.testing.tiny import task_rows

    names, tokenizer = run("HF Trainer"), tiny_tokenizer()
    rows = [
        {**tokenizer(texts[0], padding="max_length", max_length=16, truncation=True), "labels": label}
        for texts, label in task_rows(64)
    ]
    student, teacher = classifier(Path("student"), 2), classifier(Path("teacher"), 4, seed=1)
    selector = kdlab.Selector("adads", ratio=0.25, total_steps=4, interval=1)
    plain = selector.rows
    selector.rows = lambda *args, **more: record(plain(*args, **more))  # type: ignore[method-assign]
    arguments = transformers.TrainingArguments(
        "hf",
        max_steps=4,
        per_device_train_batch_size=16,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = names["SelectingTrainer"](
        student, arguments, train_dataset=rows, selector=selector, teacher=teacher, observe=lambda: 1.0
    )
    trainer.train()
    assert kept == [4] * 4 and json.loads(json.dumps(selector.state_dict()))["step"] == 3


def test_a_loop_in_pytorch(capsys):
    names = run("A loop in PyTorch")
    found = float(re.findall(r"loss (\d\.\d+)", capsys.readouterr().out)[-1])
    assert found < 1.0 and names["selector"].arm in names["selector"].arms


def test_equations_alone(capsys):
    run("Equations alone")
    assert "'entropy': 0.05" in capsys.readouterr().out
