"""Who may import whom (docs/design.md): a room imports rooms of its own layer and below, and only its layer's libraries."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import kdlab

PACKAGE = Path(kdlab.__file__).parent
LAYERS = [
    {"types", "errors", "seeding", "files", "strategies", "clustering", "policies", "rewards", "terms", "stateterms", "attentionterms", "amalgamation", "adoption", "weighing", "actorcritic", "optim", "ksmsettings", "significance", "chunked", "flops", "labels", "tasks", "metrics", "pareto", "layermaps", "sparselogits", "confidential", "stopping"},
    {"models", "embedded", "wikitext", "sources", "textfiles", "tokenising", "corpus", "taskfiles", "taskdata", "tasksources", "taskset", "wordnet", "masking", "artifacts", "checkpoints", "tables", "ledger", "ranks", "ksm", "packing", "varlen", "lastlayer", "encoder", "teacher", "attention", "scoring", "augment", "candidates", "wordvectors", "pool", "gradients", "published", "answerstore", "answerkeeping", "answerrows", "cache", "modelfolders", "storekeeping", "health", "small", "sharding", "cadence", "progress"},
    {"datamodules", "objective", "spending", "hearing", "rules", "distill", "choosing", "phases", "looking", "select", "callbacks", "checkpoint_io", "trace", "guard"},
    {"report", "reporttables", "reportfigures", "reportpage", "reportfilter", "papernames", "wandblogs", "tensorboardlogs", "dashboard", "workspace", "pictures", "opened", "analyses", "comparisons", "seedgroups", "baselines", "compare", "analyse", "suite", "jobs", "submission", "scoreboard", "config", "bench", "pretraining", "finetuning", "build", "folders", "augmented", "bounds", "checks", "choices", "episodes", "teacherpool", "fitting", "loggers", "runlogs", "teachingfigures", "rehearsal", "results", "teacherspecs", "schemas", "taskteachers", "teaching", "textteachers", "job", "run", "summary", "figures", "finished", "evaluate", "export", "sweepfiles", "sweep", "compositions", "expansion", "sweepchecks", "dispatch", "tally", "joblogs", "board", "localjobs", "distantjobs", "submititjobs", "rayjobs", "optunasearch", "caching", "remembering", "targets", "surroundings", "repeat", "yamlfiles", "ending", "supervise", "children", "traps", "lab", "killing", "mishaps", "diskfaults", "faulttables", "rankfaults", "longrun", "faults"},
]  # fmt: skip
LIBRARIES = [
    {"torch", "numpy", "faiss"},
    {"transformers", "datasets", "pyarrow", "safetensors", "huggingface_hub", "tokenizers", "tqdm"},
    {"pytorch_lightning"},
    {
        "hydra",
        "omegaconf",
        "wandb",
        "matplotlib",
        "yaml",
        "sklearn",
        "rich",
        "submitit",
        "ray",
        "optuna",
        "jinja2",
        "wandb_workspaces",
    },
]


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"kdlab.{a.name}" for a in node.names} if node.module == "kdlab" else {node.module or ""}
    return found


ROOMS = sorted(file.stem for file in PACKAGE.glob("*.py") if file.stem != "__init__")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_nothing_from_above(room):
    (layer,) = [i for i, rooms in enumerate(LAYERS) if room in rooms]
    rooms = set().union(*LAYERS[: layer + 1])
    libraries = set().union(*LIBRARIES[: layer + 1]) | set(sys.stdlib_module_names)
    for name in imports(PACKAGE / f"{room}.py"):
        top, _, rest = name.partition(".")
        if top == "kdlab":
            assert not rest or rest.split(".")[0] in rooms | {"__version__"}, f"{room} imports {name}"
        else:
            assert top in libraries, f"{room} imports {name}"


def test_the_equations_work_with_torch_alone():
    code = (
        "import sys, torch, kdlab.strategies, kdlab.policies, kdlab.rewards, kdlab.terms\n"
        "from kdlab.types import Evidence\n"
        "print(kdlab.strategies.entropy(Evidence(logits=torch.zeros(2, 4))).tolist())\n"
        "bad = {'transformers', 'datasets', 'pytorch_lightning', 'hydra', 'faiss', 'wandb'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[1.386")
