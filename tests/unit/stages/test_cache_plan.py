"""Parts of the teachers' answers that a cache keeps, from the terms of the run."""

from __future__ import annotations

from typing import Any

import pytest

from kdlab.config.composition import composition
from kdlab.config.schema import checked
from kdlab.errors import UserError
from kdlab.runs.forecast import stand_ins
from kdlab.runtime.ledger import Ledger
from kdlab.stages.cache_plan import cache_spec, kept_in_memory
from kdlab.stages.registry import stage_of
from kdlab.teachers.cache.codec import CacheSpec
from kdlab.testing.child_process import tiny, tiny_task

SOFT = "kdlab.methods.knowledge.logits.soft_loss"


@pytest.fixture
def spec(tmp_path, monkeypatch, teacher_folder, text_folder) -> Any:
    """The parts that a cache of a tiny run on text keeps."""
    monkeypatch.chdir(tmp_path)

    def of(*more: str) -> CacheSpec:
        command = tiny(teacher_folder, text_folder, "teachers.cache=memory", "teachers.cache_k=8", *more)
        return cache_spec(stage_of(checked(composition(command)[0]), lambda line: None))

    return of


@pytest.mark.parametrize("temperature", [2.0, 3.5])
def test_tokens_are_drawn_at_the_temperature_of_the_loss(spec, temperature):
    found = spec("teachers.cache_vocabulary=sampled", f"knowledge.terms.soft.term.temperature={temperature}")
    assert (found.vocabulary, found.k, found.temperature) == ("sampled", 8, temperature)


def test_terms_of_two_temperatures_share_no_draw(spec):
    second = f"+knowledge.terms.second={{weight: 1, at: labelled, term: {{_target_: {SOFT}, _partial_: true, temperature: 4}}}}"
    with pytest.raises(UserError, match=r"draws at one temperature, and the terms have \[2.0, 4.0\]"):
        spec("teachers.cache_vocabulary=sampled", second)
    assert spec("teachers.cache_vocabulary=topk", second).vocabulary == "topk"


@pytest.mark.parametrize("vocabulary", ["topk", "sampled"])
def test_a_term_that_reads_all_logits_takes_a_full_vocabulary(spec, vocabulary):
    with pytest.raises(UserError, match="compares all logits: cache_vocabulary=full"):
        spec(f"teachers.cache_vocabulary={vocabulary}", "knowledge=mse")


def test_answers_are_kept_for_a_block_and_no_longer(tmp_path, monkeypatch, teacher_folder, task_folder):
    """A row that comes again in the block is no query; after it every row is one."""
    monkeypatch.chdir(tmp_path)
    command = tiny_task(teacher_folder, task_folder)
    stage = stage_of(checked(composition(command)[0]), lambda line: None)
    data = stage.inputs.data_module(2, None)
    (batch,) = data.coming_batches(0, 1)
    ledger = Ledger(len(data.train), fixed_inputs=True)
    (teacher,) = stand_ins.teachers_of(stage, ledger)

    def queries() -> int:
        return ledger.totals()["teacher_queries"]["total"]

    with kept_in_memory(stage, [teacher], ledger):
        for _ in range(3):
            teacher.answer(batch)
        assert queries() == len(batch)
    assert teacher.cache is None
    teacher.answer(batch)
    assert queries() == 2 * len(batch)
