"""Every choice of select, adopt, weigh and knowledge, alone and combined with choices of other groups.

The choices are found in conf/ and what a combination needs is read from the marks of its rules and terms, so a new YAML
file is tried without a word here. All pairs, and triples of choices that differ in kind: tests/nightly/test_compositions.py.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf

from kdlab.config.composition import CONF
from kdlab.methods.knowledge.base import fields_beyond_logits, is_joint, on_logits, queries_teacher
from kdlab.methods.knowledge.logits import mean_squared_error
from kdlab.methods.ksm.module import KSM
from kdlab.methods.marks import marks_of
from kdlab.storage import tables
from tests.end_to_end.test_finetune import BATCH, KEPT, STEPS, Lab, result_of, weights
from tests.support.cadence import each_time
from tests.support.runs import KillAt, call, outcome, tiny

# ---- what can be combined

TEACHERS = {"one": [], "two": ["+teachers.others.small.layers=3"], "specialists": ["teachers.split=2"]}
GROUPS = {
    name: sorted(file.stem for file in (CONF / name).glob("*.yaml"))
    for name in ("knowledge", "select", "adopt", "weigh")
} | {"teachers": list(TEACHERS)}
GROUPS["weigh"] = [  # a rule of single positions is for text (tests/end_to_end/test_positions.py)
    name
    for name in GROUPS["weigh"]
    if not any(
        marks_of(hydra.utils.get_object(arm["_target_"])).summary
        for arm in OmegaConf.load(CONF / "weigh" / f"{name}.yaml").get("arms", {}).values()
        if "_target_" in arm  # that of weigh=ksm_hard is in weigh=ksm
    )
]
ELSEWHERE = {  # choices that need other rows, or answers of the teacher to all rows: they have tests of their own
    "adopt": {"by_column", "causal_assistant"}, "select": {"disagreement", "reducible", "tip", "teachability"},
}  # fmt: skip
for group, names in ELSEWHERE.items():
    assert names <= set(GROUPS[group])
    GROUPS[group] = [name for name in GROUPS[group] if name not in names]
BRIEF = [  # the module that learns to weigh does so in an episode of a few steps, from a few rows
    "weigh.episodes=1", "weigh.phase=3", "weigh.reward_rows=16",
]  # fmt: skip


@functools.cache
def read(group: str, choice: str) -> Any:
    """A choice's YAML with what it is made from, as Hydra would put it together."""
    own = OmegaConf.load(CONF / group / f"{choice}.yaml")
    found = OmegaConf.create({})
    for base in own.pop("defaults", []):
        if base != "_self_":
            where, _, name = base.removesuffix("@_here_").lstrip("/").rpartition("/")
            found = OmegaConf.merge(found, read(where or group, name))
    return OmegaConf.merge(found, own)


@functools.cache
def functions(group: str, choice: str) -> dict[str, Any]:
    """The functions and classes that a choice names, by arm (of knowledge: by term that has a weight)."""
    given = read(group, choice)
    if group == "knowledge":
        return {name: hydra.utils.get_object(t.term["_target_"]) for name, t in given.terms.items() if t.weight > 0}
    return {name: hydra.utils.get_object(arm["_target_"]) for name, arm in given.arms.items()}


def reads_largest(choice: str) -> bool:
    """True if a term of knowledge reads the largest teacher for every row."""
    terms = read("knowledge", choice).terms
    return any(terms[name].get("teacher") == "largest" for name in functions("knowledge", choice))


def learns(choice: str) -> bool:
    """True if the choices train a weighing module before the run."""
    return any(isinstance(arm, type) for arm in functions("weigh", choice).values())


@functools.cache
def needs(group: str, choice: str) -> tuple[Any, ...]:
    """The kind of a choice: all that decides what it reads and what it can be combined with."""
    if group == "teachers":
        return (choice,)
    found, given = functions(group, choice), read(group, choice)
    match group:
        case "knowledge":
            asked = {name: term for name, term in found.items() if queries_teacher(term)}
            return (
                bool(asked), any(map(is_joint, found.values())), any(map(on_logits, asked.values())),
                any(not on_logits(term) for term in found.values()), frozenset().union(*map(fields_beyond_logits, found.values())),
                bool(given.get("phases")), any(marks_of(term).layer_mask for term in found.values()),
                mean_squared_error in found.values(), reads_largest(choice),
            )  # fmt: skip
        case "adopt":
            rules = []
            for arm, rule in found.items():
                marks = marks_of(rule)
                more = {key: value for key, value in given.arms[arm].items() if not key.startswith("_")}
                # whether it asks both of two teachers about every row
                both = "teachers" in marks.needs or bool((rule(torch.full((3,), 0.5), None, 2, **more) > 0).all())
                rules.append((marks.needs, marks.mixes, marks.min_teachers, both))
            return (given.assistant is not None, *rules)
        case "weigh":
            return (learns(choice), *(marks_of(rule).needs for rule in found.values()))
    reads = frozenset((marks_of(strategy).needs, marks_of(strategy).rowwise) for strategy in found.values())
    return (given.policy["_target_"], reads, given.get("ratio") == 1)


def contradiction(one: dict[str, str]) -> str | None:
    """Pattern of the error that refuses a combination (choices by group); None if it must train."""
    asked, joint = needs("knowledge", one["knowledge"])[:2]
    assistant, *rules = needs("adopt", one["adopt"])
    looks = set().union(*needs("weigh", one["weigh"])[1:])
    if one["teachers"] == "specialists" and assistant:
        return "teachers.split"
    if "features" in looks and not asked:
        return "queries none"
    if not asked:
        return None
    alone = one["teachers"] == "one" and not assistant
    if alone and any(fewest > 1 for _, _, fewest, _ in rules):
        return "chooses among"
    if not rules and one["teachers"] == "two" and not joint:
        return "no rule assigns"
    if joint and not alone and not all(both for *_, both in rules):
        return "queries only some teachers"
    mixes = any(mixes == "answers" for _, mixes, *_ in rules)
    *_, numbers, largest = needs("knowledge", one["knowledge"])
    if mixes and one["teachers"] == "specialists" and numbers:
        return "compares logits"
    if largest and one["teachers"] == "specialists":
        return "teacher=adopted"
    return None


def command(one: dict[str, str]) -> list[str]:
    """The overrides that a combination needs."""
    found = [f"{group}={choice}" for group, choice in one.items() if group != "teachers"] + TEACHERS[one["teachers"]]
    if read("select", one["select"]).get("ratio") == 1:
        found.append("select.ratio=1")
    if learns(one["weigh"]):
        found += BRIEF
    terms = functions("knowledge", one["knowledge"])
    for name, rule in read("weigh", one["weigh"]).arms.items():
        if "certain" in rule:  # names of terms: answers of the teacher, and its states
            answers = [term for term, function in terms.items() if on_logits(function) and queries_teacher(function)]
            states = [term for term, function in terms.items() if not on_logits(function)]
            lists = {"certain": answers, "uncertain": states}
            found += [f"weigh.arms.{name}.{key}=[{','.join(names)}]" for key, names in lists.items()]
    return found


def covering(strength: int, alike: bool = False, seed: int = 0) -> list[dict[str, str]]:
    """A greedily small set of combinations that covers every possible `strength` choices of different groups.

    `alike`: one choice stands for all of its kind. Of rows that are worth the same, the one with the most new pairs.
    """
    rng = random.Random(seed)
    groups = {
        g: list({needs(g, c): c for c in rng.sample(GROUPS[g], len(GROUPS[g]))}.values()) if alike else GROUPS[g]
        for g in GROUPS
    }

    def met(one: dict[str, str], size: int) -> set[Any]:
        return set(itertools.combinations(one.items(), size))

    def rows(start: dict[str, str]) -> list[dict[str, str]]:
        rest = [group for group in groups if group not in start]
        found = [start | dict(zip(rest, some, strict=True)) for some in itertools.product(*(groups[g] for g in rest))]
        found = [one for one in (found if len(found) < 500 else rng.sample(found, 500)) if contradiction(one) is None]
        return [{group: one[group] for group in groups} for one in rng.sample(found, min(60, len(found)))]

    starts = [
        dict(zip(some, choices, strict=True))
        for some in itertools.combinations(groups, strength)
        for choices in itertools.product(*(groups[group] for group in some))
    ]
    rng.shuffle(starts)
    old: set[Any] = set()
    pairs: set[Any] = set()
    found = []
    for start in starts:
        if tuple(start.items()) in old:
            continue
        fitting = rows(start)
        if not fitting:
            continue
        best = max(fitting, key=lambda one: (len(met(one, strength) - old), len(met(one, 2) - pairs)))
        found.append(best)
        old |= met(best, strength)
        pairs |= met(best, 2)
    return found


def title(one: dict[str, str]) -> str:
    return "-".join(one.values())


SOME = covering(1)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, teacher_folder, four_classes) -> Lab:
    return Lab(tmp_path_factory.mktemp("teaching"), teacher_folder, four_classes)


# two specialists of two classes each may well know no more than the majority after so few steps
FEW = ["teachers.sanity=false", "trainer.probes=0", "trainer.evaluate_every=8"]


def whole(folder: Path) -> dict[str, Any]:
    """The parts of a result that must be equal in two runs of one command."""
    knowledge = folder / "knowledge.csv"
    return outcome(folder) | {"knowledge": knowledge.read_text() if knowledge.exists() else None}


def assert_trains(lab: Lab, one: dict[str, str]) -> Path:
    """Train a combination and check its files against the choices; returns the run folder."""
    folder, output = lab.run(*command(one), *FEW)
    result = result_of(folder)
    assert result["status"] == "finished" and math.isfinite(result["metrics"]["student"]["loss"]), output
    assert result["knowledge"] == read("knowledge", one["knowledge"]).name and result["select"]["name"] == one["select"]
    assert result["policy"]["name"] == one["weigh"]
    asked = needs("knowledge", one["knowledge"])[0]
    queries = result["ledger"]["teacher_queries"]
    assert (queries["total"] > 0) == asked and result["adopt"] == (one["adopt"] if asked else None)
    kept = BATCH if read("select", one["select"]).get("ratio") == 1 else KEPT
    halves = range(0, 2 * len(result["teachers"]) + 1, 1 if reads_largest(one["knowledge"]) else 2)
    assert queries["total"] in (asked * STEPS * kept * n // 2 for n in halves)
    rows = tables.read(folder / "knowledge.csv") if (folder / "knowledge.csv").exists() else []
    assert len(rows) in (0, STEPS)
    weighed = [float(value) for row in rows for name, value in row.items() if name.startswith("weight_")]
    assert bool(weighed) == bool(functions("weigh", one["weigh"])) and all(0 <= w <= 1 for w in weighed)
    return folder


def assert_goes_on(lab: Lab, one: dict[str, str], step: int, when: str) -> None:
    """A combination that was killed and is started again ends as if it had not been, bit for bit."""
    wanted = whole(lab.run(*command(one), *FEW)[0])
    given, into = [*command(one), *FEW], f"killed/{title(one)}"
    assert lab.try_(*given, prepare=KillAt(step, when), into=into)[1].code == -9
    folder, done = lab.try_(*given, into=into)
    assert done.code == 0 and "resuming the unfinished run" in done.output, done.output
    found = whole(folder)
    for part in wanted:
        assert found[part] == wanted[part], part


@pytest.mark.parametrize("number", each_time(range(len(SOME)), 0, 1), ids=map(title, SOME))
def test_every_choice_of_every_group_trains_and_some_are_killed_and_go_on(number, lab):
    assert_trains(lab, SOME[number])
    if number % 4 == 0:
        assert_goes_on(lab, SOME[number], *((2, "start"), (4, "end"), (5, "start"), (7, "end"))[number // 4 % 4])


def assert_refused(done: Any, *words: str) -> None:
    """One line, exit code 2, no traceback."""
    lines = [line for line in done.output.splitlines() if line.startswith("kdlab: ")]
    assert done.code == 2 and len(lines) == 1 and "Traceback" not in done.output, done.output
    assert all(word in lines[0] for word in words), lines[0]


def contradictions() -> dict[str, dict[str, str]]:
    """Of each reason for a refusal a combination, drawn from all."""
    rows = (dict(zip(GROUPS, row, strict=True)) for row in itertools.product(*GROUPS.values()))
    found: dict[str, list[dict[str, str]]] = {}
    for one in rows:
        if (why := contradiction(one)) is not None:
            found.setdefault(why, []).append(one)
    rng = random.Random(1)
    return {title(one): one for one in map(rng.choice, found.values())}


@pytest.mark.parametrize("which", CONTRADICTIONS := contradictions())
def test_contradictions_are_refused_in_one_line(which, lab):
    one = CONTRADICTIONS[which]
    folder, done = lab.try_(*command(one), *FEW)
    assert_refused(done, contradiction(one) or "")
    assert not folder.exists()


SMALL = TEACHERS["two"]
HARD = ["adopt=hard", *SMALL]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["student.layers=4", "knowledge=dekd", "knowledge.terms.aligned.teacher=adopted", *HARD], ["layers"]),
        (["weigh=uncertainty"], ["patient"]),
        (["adopt=muki_soft", *SMALL, "adopt.mc_dropout=-1"], ["adopt.mc_dropout=-1"]),
        (["adopt=muki_soft", *SMALL, "adopt.arms.muki_soft.scale=0"], ["scale=0"]),
        ([*HARD, "+adopt.mc_dropout=2"], ["adopt.mc_dropout=2", "adopt=hard", "muki_soft"]),
        (["knowledge=dekd", "knowledge.terms.aligned.teacher=large"], ["knowledge.terms.aligned.teacher=large", "largest"]),
        (["knowledge=tinybert", "knowledge.phase_lrs=[1e-3]"], ["knowledge.phase_lrs", "2 phases"]),
        (["knowledge=tinybert", "knowledge.phase_lrs=[1e-3,0]"], ["knowledge.phase_lrs=[0.001, 0.0]"]),
        (["weigh=ksm", "weigh.episodes=0"], ["weigh.episodes"]),
        (["weigh=ksm", "weigh.path=nowhere"], ["nowhere", "KSM"]),
        (["weigh=random_soft", "weigh.path=nowhere"], ["weigh.path"]),
        (["weigh=ksm", "weigh.reward=f1"], ["weigh.reward=f1", "accuracy"]),
    ],
)  # fmt: skip
def test_other_contradictions_are_refused_in_one_line(more, words, lab):
    assert_refused(lab.try_("knowledge=response", *FEW, *more)[1], *words)


# ---- laws of adoption


@pytest.fixture(scope="module")
def ready(lab) -> Path:
    """A classifier of this task, so that a run takes it as it is."""
    more = ["+exp=finetune", "student=whole", "trainer.max_steps=40", "data.batch_size=32", "optim.lr=5e-3"]
    return lab.run(*more, "select.ratio=1")[0] / "student"


def assert_close(a: Path, b: Path) -> None:
    first, second = (safetensors.torch.load_file(folder / "student" / "model.safetensors") for folder in (a, b))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_allclose(tensor.numpy(), second[name].numpy(), atol=1e-4, err_msg=name)


@pytest.mark.parametrize("knowledge", each_time(["pkd", "distilbert"], "pkd"))
def test_equal_teachers_teach_as_one(knowledge, lab, ready):
    # the gradient of a key's bias is 0 but for rounding, and Adam would make whole steps of that
    given = [f"knowledge={knowledge}", "select=entropy", f"teachers.path={ready}", "optim.eps=1e-5", *FEW]
    alone = lab.run(*given)[0]
    for rule in ("soft", "ensemble"):
        both = lab.run(*given, f"adopt={rule}", f"+teachers.others.twin.path={ready}")[0]
        assert_close(alone, both)
        wanted, found = (result_of(folder)["metrics"]["student"]["loss"] for folder in (alone, both))
        assert found == pytest.approx(wanted, abs=1e-4)
        assert len(result_of(both)["teachers"]) == 2


def queries_in(folder: Path) -> dict[str, int]:
    return {name: n["total"] for name, n in result_of(folder)["ledger"]["teacher_queries"]["per_teacher"].items()}


@pytest.mark.parametrize("ratio", each_time([1, 0.25], 1))  # a share of the rows by day: test_several_teachers.py
def test_hard_asks_each_of_two_teachers_about_half_of_the_rows(ratio, lab):
    folder, output = lab.run("select=random", f"select.ratio={ratio}", "knowledge=response", *HARD, *FEW)
    half = STEPS * BATCH * ratio / 2
    assert queries_in(folder) == {"small": half, lab.teacher.name: half}
    rows = tables.read(folder / "knowledge.csv")
    assert [float(row["asked_small"]) for row in rows] == [0.5] * STEPS
    assert {row["adopt"] for row in rows} == {"hard"}
    assert "small" in output


def test_hard_among_three_teachers_gives_the_larger_ones_what_is_left_over(lab):
    """Four rows a step for three teachers: two for the largest."""
    more = ["adopt=assistant", "+teachers.others.small.layers=1", "knowledge=response", "select=random", *FEW]
    assert queries_in(lab.run(*more)[0]) == {"small": STEPS, "assistant": STEPS, lab.teacher.name: 2 * STEPS}


def test_dynamic_alignment_chooses_as_many_layers_as_the_student_has(lab):
    given = ["select=random", "knowledge=dekd", "adopt=assistant", *FEW]
    folder = lab.run(*given)[0]  # DeKD, Eq. 8, 9: the teacher's layers for every row, the assistant's for none
    assert queries_in(folder) == {"assistant": STEPS * KEPT // 2, lab.teacher.name: STEPS * KEPT}
    assert not [name for name in tables.read(folder / "knowledge.csv")[0] if name.startswith("layer_aligned_assistant")]
    other = lab.run(*given, "knowledge.terms.aligned.teacher=adopted")[0]
    assert queries_in(other) == {"assistant": STEPS * KEPT // 2, lab.teacher.name: STEPS * KEPT // 2}
    for run, teacher, depth in (
        (folder, lab.teacher.name, 4), (other, "assistant", 3), (other, lab.teacher.name, 4)
    ):  # fmt: skip
        rows = tables.read(run / "knowledge.csv")
        assert len(rows) == STEPS
        names = [name for name in rows[0] if name.startswith(f"layer_aligned_{teacher}_")]
        assert len(names) == depth
        for row in rows:
            chosen = [float(row[name]) for name in names]
            assert sum(chosen) == pytest.approx(2) and all(0 <= share <= 1 for share in chosen)
    assert len({tuple(row[name] for name in names) for row in rows}) > 1  # they change


MC = ["select=random", "teachers.split=2", "knowledge=muki", "adopt=muki_soft", "adopt.mc_dropout=2", *FEW]


def test_each_forward_of_monte_carlo_dropout_is_a_query_and_a_resumed_run_repeats_it(lab, tmp_path):
    lively = tmp_path / "lively"  # the tests' models have no dropout
    shutil.copytree(lab.teacher, lively)
    config = json.loads((lively / "config.json").read_text()) | {"hidden_dropout_prob": 0.3}
    (lively / "config.json").write_text(json.dumps(config))
    given = [*MC, f"teachers.path={lively}"]
    lab.run(*MC, "adopt.mc_dropout=0")  # its specialists, made from the same weights, have no dropout
    folder, _ = lab.run(*given)
    assert queries_in(folder) == {f"specialist-{n}": 3 * STEPS * KEPT for n in (1, 2)}
    plain = lab.run(*given, "adopt.mc_dropout=0")[0]
    assert queries_in(plain) == {f"specialist-{n}": STEPS * KEPT for n in (1, 2)}
    assert weights(folder) != weights(plain)
    assert lab.try_(*given, prepare=KillAt(4, "end"), into="killed/mc")[1].code == -9
    again, done = lab.try_(*given, into="killed/mc")
    assert done.code == 0, done.output
    assert whole(again) == whole(folder)


def test_a_teacher_without_dropout_has_no_monte_carlo_uncertainty(lab):
    assert_refused(lab.try_(*MC)[1], "adopt.mc_dropout=2", "specialist-1 has no dropout")


# ---- laws of the module that learns to weigh

FOUR = ["fink", "resk", "feak", "relk"]


def write_module(folder: Path, answer: float, action: str = "hard", terms: list[str] = FOUR) -> Path:
    """A module whose actor has one answer, the sigmoid of `answer`, whatever it sees."""
    module = KSM(terms, 32, [32], action=action)
    *_, last = (layer for layer in module.networks["actor"].modules() if isinstance(layer, torch.nn.Linear))
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(answer)
    module.save(folder)
    return folder


@pytest.mark.parametrize(
    ("action", "answer", "more"),
    [("soft", 100.0, ["select=entropy"]), ("hard", 0.0, ["select=random", "knowledge.labels_on=all"])],
    ids=["soft", "hard, labels on all"],
)
def test_a_module_that_always_answers_ones_is_the_fixed_set_bit_for_bit(action, answer, more, lab, tmp_path):
    """sigmoid(100) is 1 in float32, and a hard action makes 1 of the half that sigmoid(0) is."""
    given = ["knowledge=ksm", *more, *FEW]
    module = write_module(tmp_path / "ones", answer, action)
    wanted, found = (outcome(lab.run(*given, *policy)[0]) for policy in ([], ["weigh=ksm", f"weigh.path={module}"]))
    for one in (wanted, found):
        one.pop("knowledge")  # it names the policy, which differs
    assert found == wanted


def test_a_module_that_answers_a_half_halves_every_weight(lab, tmp_path):
    module = write_module(tmp_path / "half", 0.0, "soft")
    given = ["knowledge=ksm", "select=random", "optim.clip=1e9", *FEW]
    weighed = lab.run(*given, "weigh=ksm", f"weigh.path={module}")[0]
    halves = [f"knowledge.terms.{name}.weight=0.5" for name in FOUR]
    assert weights(weighed) == weights(lab.run(*given, *halves)[0])
    rows = tables.read(weighed / "knowledge.csv")
    assert all(float(row[f"weight_{name}"]) == 0.5 for row in rows for name in FOUR)


LEARNING = ["+exp=ksm", "select=random", "weigh.episodes=2", "weigh.phase=3", "weigh.reward_rows=16", *FEW]


def artifact(lab: Lab, kind: str, *more: str, **options: Any) -> Path:
    """The artifact that a run made, or found, in a store of its own."""
    store = lab.folder / "stores" / str(lab.count)
    shutil.copytree(lab.folder / "artifacts", store)
    shutil.rmtree(store / kind, ignore_errors=True)
    done = lab.try_(*more, f"artifacts={store}", **options)[1]
    assert done.code == 0, done.output
    (found,) = (folder for folder in (store / kind).iterdir() if folder.is_dir() and not folder.name.startswith("."))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("ksm.safetensors", "ksm.json", "ksm.csv")}


@pytest.fixture(scope="module")
def learnt(lab) -> Path:
    lab.run("select=random", *FEW)  # its teacher
    return artifact(lab, "ksm", *LEARNING)


def test_a_module_is_trained_over_episodes_and_then_serves_frozen(lab, learnt):
    rows = tables.read(learnt / "ksm.csv")
    assert [(row["episode"], row["step"]) for row in rows] == [(e, s) for e in ("1", "2") for s in ("3", "6", "8")]
    for first, second in itertools.pairwise(rows):
        if first["episode"] == second["episode"]:
            fall = float(first["measured"]) - float(second["measured"])
            assert float(second["reward"]) == pytest.approx(fall, abs=1e-9)
    folder, output = lab.run(*LEARNING)
    assert "making the knowledge selection module" in output
    again = lab.run(*LEARNING, "optim.warmup=0.1")  # the default: the same run
    assert "making" not in again[1] and outcome(again[0]) == outcome(folder)
    given = outcome(lab.run(*LEARNING, f"weigh.path={learnt}")[0])
    assert given == outcome(folder)
    stages = [stage for stage in result_of(folder)["preparation"] if "KSM" in stage["what"]]
    assert len(stages) == 1 and stages[0]["queries"] > 0


def test_a_module_killed_in_an_episode_is_trained_anew_bit_for_bit(lab, learnt):
    store = lab.folder / "stores" / "killed"
    shutil.copytree(lab.folder / "artifacts", store)
    shutil.rmtree(store / "ksm", ignore_errors=True)
    assert lab.try_(*LEARNING, f"artifacts={store}", prepare=KillAt(5, "end"))[1].code == -9
    assert lab.try_(*LEARNING, f"artifacts={store}")[1].code == 0
    (found,) = (folder for folder in (store / "ksm").iterdir() if (folder / "ksm.json").exists())
    assert contents(found) == contents(learnt)


def test_a_module_serves_another_task_and_none_of_other_terms_or_widths(lab, learnt, task_folder):
    given = [*LEARNING, f"weigh.path={learnt}"]
    folder, output = lab.run(*given, f"data.path={task_folder}")
    assert "making the knowledge selection module" not in output
    modules = [stage for stage in result_of(folder)["preparation"] if "KSM" in stage["what"]]
    assert [(stage["what"], stage["made_now"]) for stage in modules] == [("KSM, of weigh.path", False)]
    assert result_of(folder)["data"]["shape"]["labels"] == ["kind0", "kind1", "kind2"]
    assert_refused(lab.try_(*given, "knowledge=fink_resk")[1], "fink, resk, feak, relk", "fink, resk")
    assert_refused(lab.try_(*given, "student.hidden=16")[1], "32", "16")
    assert_refused(lab.try_(*given, *HARD)[1], "[32]", "[32, 32]")


def test_the_issues_own_example(lab):
    more = ["select=adads", "adopt=hard", "select.ratio=0.25", *SMALL]
    folder, _ = lab.run(*LEARNING, *more)
    assert queries_in(folder) == {"small": STEPS * KEPT / 2, lab.teacher.name: STEPS * KEPT / 2}
    assert any(row["reward"] for row in tables.read(folder / "selector.csv"))
    assert all(0 <= float(row["weight_relk"]) <= 1 for row in tables.read(folder / "knowledge.csv"))


# ---- where rewards come from


class Witness:
    """Writes which rows were set aside and which were trained on, training by training, into a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self) -> None:
        from kdlab.data.datamodules import TrainingDataModule
        from kdlab.modules.student import StudentModule

        step, aside = StudentModule.training_step, TrainingDataModule.set_aside

        def trap(module: Any, batch: Any, batch_idx: int) -> Any:
            self.note("trained", batch.rows[batch.real].tolist())
            return step(module, batch, batch_idx)

        def setting(data: Any, rows: int) -> None:
            aside(data, rows)
            held = [row for batch in data.aside_batches() for row in batch.rows.tolist()]
            self.note("aside", held)

        StudentModule.training_step = trap  # pyright: ignore
        TrainingDataModule.set_aside = setting

    def note(self, what: str, rows: list[int]) -> None:
        with self.file.open("a") as out:
            out.write(json.dumps({what: rows}) + "\n")


def test_rows_held_out_for_rewards_are_never_trained_on(lab, tmp_path):
    """Two whole passes in each of two episodes: all rows but those set aside."""
    seen = tmp_path / "seen.jsonl"
    more = [*LEARNING, "select.ratio=1", "trainer.max_steps=28", "weigh.phase=14"]
    lab.run("select=random", *FEW)  # its teacher
    artifact(lab, "ksm", *more, prepare=Witness(seen))
    episodes: list[tuple[set[int], list[int]]] = []
    after: list[int] = []
    for line in map(json.loads, seen.read_text().splitlines()):
        if "aside" in line:
            assert len(line["aside"]) == len(set(line["aside"])) == 16
            episodes.append((set(line["aside"]), []))
        else:
            open_one = next((trained for _, trained in episodes if len(trained) < 28 * BATCH), after)
            open_one.extend(line["trained"])
    assert len(episodes) == 2
    for aside, trained in episodes:
        assert sorted(trained) == sorted(2 * [row for row in range(240) if row not in aside])
    assert set(after) >= episodes[0][0] | episodes[1][0]  # the training that counts has all rows


def test_the_dev_set_is_read_by_training_only_where_it_is_asked_to_and_then_it_is_marked(lab, four_classes, tmp_path):
    """Two tasks that differ in their dev rows alone."""
    other = shutil.copytree(four_classes, tmp_path / "other")
    lines = (four_classes / "dev.tsv").read_text().splitlines()
    (other / "dev.tsv").write_text("\n".join([*lines[:1], *lines[1:31]]) + "\n")
    lab.run("select=random", *FEW)
    for where, same in (("heldout", True), ("dev", False)):
        given = [*LEARNING, f"weigh.reward_data={where}"]
        kept = [
            contents(artifact(lab, "ksm", *given, f"data.path={rows}", into=f"dev/{where}-{rows.name}"))
            for rows in (four_classes, other)
        ]
        assert (kept[0] == kept[1]) == same
        assert (kept[0]["ksm.safetensors"] == kept[1]["ksm.safetensors"]) == same
        folders = [lab.folder / f"dev/{where}-{rows.name}" for rows in (four_classes, other)]
        assert [result_of(folder)["policy"]["reward_data"] for folder in folders] == [where, where]
        if same:
            assert weights(folders[0]) == weights(folders[1])


# ---- pre-training

TEXT = {
    "ensemble": ["adopt=ensemble"],
    "hard": ["adopt=hard"],
    "assistant": ["adopt=assistant", "adopt.assistant.max_steps=2", "adopt.assistant.batch_size=8"],
    "uncertainty": ["weigh=uncertainty", "weigh.arms.uncertainty.uncertain=[cosine]"],
    "random_soft": ["weigh=random_soft"],
    "ksm": ["weigh=ksm", "knowledge=ksm", *BRIEF],
}
ON_TEXT = ["+teachers.others.small.layers=3", "teachers.prepare.max_steps=2", "teachers.prepare.max_length=32"]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """A folder in which the runs on text share their corpus and teachers."""
    return tmp_path_factory.mktemp("text")


@pytest.mark.parametrize("what", each_time(TEXT, "hard"))
def test_on_text(what, text, teacher_folder, text_folder):
    more = [*TEXT[what], "select=random", "trainer.probes=0", *(ON_TEXT if what in ("ensemble", "hard") else [])]
    given = tiny(teacher_folder, text_folder, *more)
    done = call([*given, f"hydra.run.dir={what}"], text)
    assert done.code == 0, done.output
    second = {"ensemble": "small", "hard": "small", "assistant": "assistant"}.get(what)
    queries, result = queries_in(text / what), result_of(text / what)
    assert set(queries) == {teacher_folder.name} | ({second} if second else set())
    further = {"small": {"teacher small"}, "assistant": {"assistant"}}.get(second or "", set())
    assert result["metrics"].keys() == {"student", "teacher"} | further
    kept = sum(queries.values()) / (2 if what == "ensemble" else 1)
    assert kept == pytest.approx(result["ledger"]["rows_seen"] / 4, abs=1)  # the last batch of a pass is smaller
    if second is not None:
        # of an odd number of rows the larger teacher has one more, as in Dynamic KD's public code
        assert queries[teacher_folder.name] - queries[second] in ((0,) if what == "ensemble" else (0, 1))
    if what in ("hard", "ksm"):
        again = [*given, f"hydra.run.dir={what}-killed"]
        assert call(again, text, KillAt(4, "start")).code == -9
        done = call(again, text)
        assert done.code == 0 and "resuming the unfinished run" in done.output, done.output
        assert whole(text / f"{what}-killed") == whole(text / what)
