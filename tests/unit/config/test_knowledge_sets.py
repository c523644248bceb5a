"""The knowledge sets of KSM, Dynamic KD and DeKD: which terms, with which weights, as METHODS.md sections 5 to 7 quote them."""

from __future__ import annotations

import functools

import hydra
import pytest

from kdlab.config.composition import composition
from kdlab.methods.knowledge import base, layer_maps
from tests.support.student_views import ROWS, shown

FINK = ("label_loss", 1.0, "labelled", {})
RESK = ("soft_loss", 1.0, "all", {"temperature": 1.0})
FEAK = ("patient", 1.0, "all", {"layers": "uniform", "squared": False})
RELK = ("relation", 1.0, "all", {"layers": "skip"})
SETS = {
    "fink": {"fink": FINK},
    "resk": {"resk": RESK},
    "feak": {"fink": FINK, "feak": FEAK},  # a classifier learns from no hidden state, so labels train it
    "relk": {"fink": FINK, "relk": RELK},
    "fink_resk": {"fink": FINK, "resk": RESK},
    "fink_resk_feak": {"fink": FINK, "resk": RESK, "feak": FEAK},
    "ksm": {"fink": FINK, "resk": RESK, "feak": FEAK, "relk": RELK},
    "dynamickd_objective": {
        "label": ("label_loss", 0.5, "labelled", {}),
        "soft": ("soft_loss", 0.5, "all", {"temperature": 1.0}),
        "patient": ("patient", 100.0, "all", {"layers": "skip", "average": True}),  # beta of BERT-PKD
    },
    "dekd": {
        "label": ("label_loss", 0.5, "labelled", {}),
        "soft": ("soft_loss", 0.3, "all", {"temperature": 5.0}),
        "aligned": ("aligned", 0.2, "all", {}),
    },
    "uhc": {"soft": ("soft_loss", 1.0, "all", {"temperature": 5.0})},
    "muki": {"soft": ("soft_loss", 1.0, "all", {"temperature": 1.0})},  # tau of MUKI's public code
    "dfa": {
        "soft": ("joined_soft_loss", 1.0, "all", {"temperature": 5.0}),
        "features": ("FeatureAlignment", 1.0, "all", {}),
    },
    "cfl": {
        "soft": ("joined_soft_loss", 1.0, "all", {"temperature": 5.0}),
        "common": ("CommonFeatures", 1.0, "all", {"width": 128, "reconstruction": 1.0}),
    },
}


@functools.cache
def composed(name: str):
    found = composition(["+exp=adads_finetune", f"knowledge={name}"])[0].knowledge
    assert found.name == name
    return {key: term for key, term in found.terms.items() if term.weight > 0}


@pytest.mark.parametrize("name", SETS)
def test_the_terms_are_those_of_the_paper(name):
    found = {}
    for key, t in composed(name).items():
        given = {k: v for k, v in t.term.items() if not k.startswith("_")}
        found[key] = (t.term["_target_"].rpartition(".")[2], t.weight, t["at"], given)
    assert found == SETS[name]


@pytest.mark.parametrize("name", SETS)
def test_every_term_is_made_and_reads_what_it_says(name):
    student, teacher = shown(2, seed=1), shown(4)
    for t in composed(name).values():
        term = hydra.utils.instantiate(t.term)
        if base.is_joint(term) and not base.on_logits(term):
            term.build(6, [6, 6], 0)
            value = term(student, [teacher, teacher]).detach()
        elif not base.on_logits(term):
            value = term(student, teacher)
        else:
            assert base.queries_teacher(term) == (t["at"] == "all")
            continue
        assert value.shape == (ROWS,) and value.isfinite().all() and (value > 0).all()


def test_dekds_alignment_reads_the_teacher_for_every_row():
    """T Eq. 8 and 9: H are the hidden representations of the teacher, whoever answers the row (Eq. 7)."""
    found = composed("dekd")
    assert {name: t.get("teacher", "adopted") for name, t in found.items()} == {
        "label": "adopted", "soft": "adopted", "aligned": "largest",
    }  # fmt: skip


def test_dynamic_kds_layers_are_2_4_6_8_10():
    layers = composed("dynamickd_objective")["patient"].term.layers
    assert [n for _, n in layer_maps.layer_pairs(layers, 6, 12)] == [2, 4, 6, 8, 10]
