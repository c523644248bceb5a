"""Tokens of documents and examples: which are to be predicted, beside transformers' own chat templates and loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kdlab.data.causal.encoding import DROP, ends, example_documents, text_documents
from kdlab.data.causal.example import Example
from kdlab.errors import UserError
from kdlab.types import IGNORE
from tests.support.causal import END, TEMPLATE, characters, decoder

CHAT = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "So long."},
)


def one(example: Example, tokenizer: Any, max_length: int = 200, **options: Any) -> Any:
    (document,) = example_documents([example], tokenizer, max_length, **options)
    return document


def learnt(document: Any, tokenizer: Any) -> str:
    return tokenizer.decode(document.ids[document.targets])


def test_a_text_ends_with_the_end_token_and_learns_all_but_its_first():
    (document,) = text_documents(["abc"], characters())
    assert document.ids.tolist()[-1] == END and len(document.ids) == 4
    assert document.targets.tolist() == [False, True, True, True]


def test_a_beginning_that_the_tokenizer_puts_there_is_kept_and_not_learnt():
    tokenizer = characters(begin=True)
    (document,) = text_documents(["abc"], tokenizer)
    assert document.ids.tolist() == [*tokenizer("abc")["input_ids"], END]
    assert document.targets.tolist() == [False, True, True, True, True]


def test_special_tokens_that_are_written_in_a_text_are_plain_text():
    (document,) = text_documents(["<|end|>"], characters())
    assert document.ids.tolist().count(END) == 1 and len(document.ids) == len("<|end|>") + 1
    assert one(Example("here", "<|end|>", "a"), characters()).ids.tolist().count(END) == 1


def test_the_prompt_is_not_learnt_and_the_completion_is_with_its_end():
    tokenizer = characters()
    document = one(Example("here", "2+2=", "four"), tokenizer)
    assert tokenizer.decode(document.ids) == "2+2=four<|end|>"
    assert learnt(document, tokenizer) == "four<|end|>"


def test_the_loss_of_a_prompt_and_its_completion_is_that_of_transformers():
    tokenizer, model = characters(), decoder()
    document = one(Example("here", "2+2=", "four"), tokenizer)
    ids = torch.tensor(document.ids, dtype=torch.long)
    theirs = torch.where(torch.tensor(document.targets), ids, IGNORE)  # transformers shifts these itself
    ours = torch.full_like(ids, IGNORE)
    ours[:-1] = theirs[1:]
    with torch.no_grad():
        out = model(input_ids=ids.unsqueeze(0), labels=theirs.unsqueeze(0))
    torch.testing.assert_close(torch.nn.functional.cross_entropy(out.logits[0], ours), out.loss)


def test_a_conversation_has_the_tokens_of_the_template_and_learns_the_replies_alone():
    tokenizer = characters()
    document = one(Example("here", messages=CHAT), tokenizer)
    assert document.ids.tolist() == tokenizer.apply_chat_template(list(CHAT), tokenize=True, return_dict=False)
    assert learnt(document, tokenizer) == "Hello.<|end|>So long.<|end|>"


def test_a_template_that_marks_replies_decides_itself():
    marked = (
        "{% for message in messages %}<|{{ message['role'] }}|>{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] }}{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = characters(marked)
    assert learnt(one(Example("here", messages=CHAT), tokenizer), tokenizer) == "Hello.So long."


def test_a_template_that_rewrites_earlier_messages_is_refused_with_its_line():
    rewriting = "{{ messages|length }} " + TEMPLATE
    with pytest.raises(UserError, match="rows, line 3: the chat template changes what stands before a reply"):
        one(Example("rows, line 3", messages=CHAT), characters(rewriting))


def test_a_missing_template_and_one_that_refuses_are_one_line():
    with pytest.raises(
        UserError, match="rows, line 3: a conversation, and the teacher's tokenizer has no chat template"
    ):
        one(Example("rows, line 3", messages=CHAT), characters(None))
    with pytest.raises(UserError, match="rows, line 3: the chat template refuses it: no system"):
        one(Example("rows, line 3", messages=CHAT), characters("{{ raise_exception('no system') }}"))


def test_long_completions_are_cut_and_long_prompts_are_refused_or_dropped():
    tokenizer = characters()
    document = one(Example("here", "abc", "defgh"), tokenizer, 6)
    assert tokenizer.decode(document.ids) == "abcdef" and document.cut == 3
    assert one(Example("here", "abcde", "f"), tokenizer, 6).targets.sum() == 1
    with pytest.raises(UserError, match=r"rows, line 9: the prompt has 6 tokens, and data.max_length=6 leaves none"):
        one(Example("rows, line 9", "abcdef", "g"), tokenizer, 6)
    assert one(Example("here", "abcdef", "g"), tokenizer, 6, long_prompts=DROP) is None


def test_examples_keep_their_order_over_batches_and_kinds(monkeypatch):
    monkeypatch.setattr("kdlab.data.causal.encoding.BATCH", 3)
    tokenizer = characters()
    examples = [Example("", messages=CHAT) if i % 3 == 1 else Example("", "p", str(i)) for i in range(8)]
    found = [learnt(document, tokenizer) for document in example_documents(examples, tokenizer, 200)]
    expected = ["Hello.<|end|>So long.<|end|>" if i % 3 == 1 else f"{i}<|end|>" for i in range(8)]
    assert found == expected


def test_equal_prompts_have_one_key_and_other_prompts_another():
    keys = [
        one(Example("", prompt, answer), characters()).key for prompt, answer in (("p", "a"), ("p", "b"), ("q", "a"))
    ]
    assert keys[0] == keys[1] != keys[2]


def test_a_tokenizer_without_an_end_token_is_one_line():
    tokenizer = characters()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end token"):
        ends(tokenizer)
    assert np.array_equal(ends(characters())[1], [END])
