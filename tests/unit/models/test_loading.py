"""Encoders of every supported family, and students made of teachers."""

from __future__ import annotations

import pytest
import torch
import transformers

from kdlab.errors import UserError
from kdlab.models import head_keys, loading
from kdlab.models.encoder import Encoder
from kdlab.models.student import freeze, pick_layers, student_from, transformer_layers
from kdlab.types import Batch, Outputs
from tests.conftest import tiny_config, write_teacher

FAMILIES = ["bert", "roberta", "distilbert", "electra"]


def inputs() -> Batch:
    ids = torch.randint(6, 100, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return Batch(torch.arange(3), 0, ids, mask, torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.bool))


@pytest.fixture(params=FAMILIES)
def teacher(request):
    torch.manual_seed(0)
    return transformers.AutoModelForMaskedLM.from_config(tiny_config(request.param)).eval()


def test_encode_then_project_equals_the_model_itself(teacher):
    batch = inputs()
    encoder = Encoder(teacher).eval()
    row, place = torch.tensor([0, 1, 2, 2]), torch.tensor([3, 6, 0, 11])
    with torch.no_grad():
        whole = teacher(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        found = encoder.project(encoder.vectors(encoder.encode(batch), row, place))
    torch.testing.assert_close(found, whole[row, place], rtol=1e-5, atol=1e-5)


def test_head_parameters_are_those_that_the_projection_uses(teacher):
    encoder = Encoder(teacher)
    vectors = torch.randn(4, 32)
    used = torch.autograd.grad(encoder.project(vectors).sum(), list(encoder.parameters()), allow_unused=True)
    expected = {id(p) for p, g in zip(encoder.parameters(), used, strict=True) if g is not None}
    assert {id(p) for p in encoder.head_parameters()} == expected
    assert len(list(encoder.parameters())) == len(list(teacher.parameters()))  # the head is not registered twice


def test_frozen_embeddings_are_no_head_parameters(teacher):
    freeze(teacher, ["word_embeddings"])
    encoder = Encoder(teacher)
    trained = encoder.head_parameters()
    assert trained and all(p.requires_grad for p in trained)
    trained[0].requires_grad_(False)  # also parameters that are frozen after the first call
    assert [id(p) for p in encoder.head_parameters()] == [id(p) for p in trained[1:]]


@pytest.mark.parametrize("layers", [[0, 2], [3], [1, 3, 0], [0, 1, 2, 3]])
def test_a_student_has_the_chosen_layers_the_embeddings_and_the_head(teacher, layers):
    student = student_from(teacher, layers)
    assert len(transformer_layers(student)) == len(layers) == student.config.num_hidden_layers
    for mine, theirs in enumerate(layers):
        for (name, p), (_, q) in zip(
            transformer_layers(student)[mine].named_parameters(),
            transformer_layers(teacher)[theirs].named_parameters(),
            strict=True,
        ):
            assert torch.equal(p, q), name
            assert p.data_ptr() != q.data_ptr()
    torch.testing.assert_close(student.get_input_embeddings().weight, teacher.get_input_embeddings().weight)
    assert student.get_output_embeddings().weight.data_ptr() == student.get_input_embeddings().weight.data_ptr()
    hidden = torch.randn(5, 32)
    with torch.no_grad():
        torch.testing.assert_close(Encoder(student.eval()).project(hidden), Encoder(teacher).project(hidden))


def test_a_student_with_all_layers_is_the_teacher(teacher):
    ids, mask = (batch := inputs()).input_ids, batch.attention_mask
    student = student_from(teacher, [0, 1, 2, 3]).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            student(input_ids=ids, attention_mask=mask).logits, teacher(input_ids=ids, attention_mask=mask).logits
        )


def test_a_student_survives_saving_and_loading(teacher, tmp_path):
    student = student_from(teacher, [0, 2]).eval()
    student.save_pretrained(tmp_path)
    ids, mask = (batch := inputs()).input_ids, batch.attention_mask
    again = loading.load_masked_lm(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(
            again(input_ids=ids, attention_mask=mask).logits, student(input_ids=ids, attention_mask=mask).logits
        )


def test_the_published_layer_choice():
    assert pick_layers(6, 12) == [0, 2, 4, 7, 9, 11]  # DistilBERT
    assert pick_layers(1, 6) == [0] and pick_layers(6, 6) == [0, 1, 2, 3, 4, 5]
    assert pick_layers([0, 2, 4], 6) == [0, 2, 4]


@pytest.mark.parametrize("layers", [0, 7, [], [0, 6], [-1]])
def test_layers_that_the_teacher_does_not_have_are_refused(layers):
    with pytest.raises(UserError, match="student.layers"):
        pick_layers(layers, 6)


def albert(**settings: int) -> transformers.AlbertConfig:
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    return transformers.AlbertConfig(vocab_size=130, **{**sizes, "num_hidden_layers": 4, **settings})


@pytest.mark.parametrize("layers", [[0], [0, 3], [0, 1, 2, 3]])
def test_a_student_of_a_repeated_layer_repeats_it_as_often_as_it_has_layers(layers):
    """ALBERT runs one layer `num_hidden_layers` times: the student's state is the teacher's after as many runs."""
    torch.manual_seed(0)
    teacher = transformers.AutoModelForMaskedLM.from_config(albert()).eval()
    student = student_from(teacher, layers).eval()
    ids, mask = (batch := inputs()).input_ids, batch.attention_mask
    with torch.no_grad():
        states = teacher(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        found = student(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert student.config.num_hidden_layers == len(layers) == len(found) - 1
    torch.testing.assert_close(found[-1], states[len(layers)])
    assert not {p.data_ptr() for p in student.parameters()} & {p.data_ptr() for p in teacher.parameters()}


def test_groups_of_shared_layers_are_refused():
    config = albert(num_hidden_groups=2)
    with pytest.raises(UserError, match="albert"):
        student_from(transformers.AutoModelForMaskedLM.from_config(config), [0, 1])


def test_whether_weights_bring_a_head(tmp_path):
    write_teacher(tmp_path / "whole")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "whole")
    assert head_keys.has_head(tmp_path / "whole", config)
    transformers.AutoModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "encoder")
    assert not head_keys.has_head(tmp_path / "encoder", config)


def test_pickled_weights_are_refused(tmp_path):
    write_teacher(tmp_path)
    weights = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="reading a pickle can run any code"):
        loading.load_masked_lm(tmp_path)


def test_features_are_means_over_real_tokens_or_the_vector_of_a_classifier():
    shown = Outputs(hidden=torch.arange(12.0).reshape(1, 3, 4), mask=torch.tensor([[1, 1, 0]]))
    config = tiny_config("bert")
    masked = Encoder(transformers.AutoModelForMaskedLM.from_config(config))
    torch.testing.assert_close(masked.features(shown), torch.tensor([[2.0, 3.0, 4.0, 5.0]]))
    classifier = Encoder(transformers.AutoModelForSequenceClassification.from_config(config))
    torch.testing.assert_close(classifier.features(shown), torch.tensor([[0.0, 1.0, 2.0, 3.0]]))


@pytest.mark.parametrize("family", [*FAMILIES, "mpnet", "deberta-v2", "modernbert-cls", "modernbert-mean", "albert"])
@pytest.mark.parametrize("segments", [False, True])
def test_a_classifier_in_two_halves_equals_the_model_itself(family, segments):
    torch.manual_seed(0)
    if family in FAMILIES:
        config = tiny_config(family)
    else:
        kind, _, pooling = family.partition("-") if family.startswith("modern") else (family, "", "")
        common = {"vocab_size": 130, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
                  "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip
        config = transformers.AutoConfig.for_model(
            kind, **common, **({"classifier_pooling": pooling} if pooling else {})
        )
    config.num_labels = 3
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    encoder, batch = Encoder(model).eval(), inputs()
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if segments:
        batch.token_types = (torch.arange(12) > 5).long().expand(3, -1).contiguous()
        if family in ("bert", "electra", "roberta", "albert"):
            given["token_type_ids"] = batch.token_types
    rows = torch.tensor([2, 0, 1])
    with torch.no_grad():
        found = encoder.project(encoder.vectors(encoder.encode(batch), rows, torch.zeros_like(rows)))
        expected = model(**given).logits[rows]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    used = torch.autograd.grad(encoder.project(torch.randn(4, 32)).sum(), list(model.parameters()), allow_unused=True)
    read = {id(p) for p, g in zip(model.parameters(), used, strict=True) if g is not None}
    assert {id(p) for p in encoder.head_parameters()} == read


@pytest.mark.parametrize(
    ("files", "revision", "refused"),
    [
        (["config.json", "pytorch_model.bin"], "34707a3", True),
        (["config.json", "pytorch_model.bin"], None, False),
        (["config.json", "model.safetensors", "pytorch_model.bin"], "34707a3", False),
        (["config.json", "model.safetensors.index.json"], "34707a3", False),
        (None, "34707a3", False),
    ],
    ids=["pickle", "default branch", "safetensors", "shards", "offline"],
)
def test_a_fixed_revision_with_a_pickle_only_is_refused_at_once(files, revision, refused, monkeypatch):
    def listed(name: str, revision: str) -> list[str]:
        if files is None:
            raise ConnectionError("offline")
        return files

    monkeypatch.setattr("huggingface_hub.list_repo_files", listed)
    if refused:
        with pytest.raises(
            UserError, match="student.path=owner/name: the revision 34707a3 has no weights in safetensors"
        ):
            loading.check_safetensors("owner/name", revision, "student.path")
    else:
        loading.check_safetensors("owner/name", revision, "student.path")
