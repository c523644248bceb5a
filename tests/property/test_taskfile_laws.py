"""Laws of reading labelled rows: what is written comes back, labels keep their meaning, splits are splits."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlab.data.tasks.files import read_table
from kdlab.data.tasks.inference import classes_of
from kdlab.data.tasks.labels import align, codes
from kdlab.data.tasks.rows import LabelledRow, hold_out

words = st.text(st.characters(codec="utf-8", exclude_characters="\0\t\n\r"), min_size=1).filter(str.strip)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"))  # csv takes a bare \r for a line's end
names = st.lists(st.text("abcdefgh", min_size=1), min_size=2, max_size=8, unique=True)


@settings(deadline=None, max_examples=100)
@given(rows=st.lists(st.tuples(words, words), min_size=1))
def test_tsv_gives_back_every_text_without_tabs_and_line_ends(rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.tsv")
        path.write_bytes("".join(f"{a}\t{b}\n" for a, b in [("text", "label"), *rows]).encode())
        found = list(read_table(path, ("text",), "label"))
    assert [record.texts for record in found] == [(text,) for text, _ in rows]
    assert [record.label for record in found] == [label.strip() for _, label in rows]


@settings(deadline=None, max_examples=100)
@given(rows=st.lists(st.tuples(texts, st.integers(-3, 30)), min_size=1))
def test_csv_jsonl_and_parquet_give_back_every_text(rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Path(folder, "t.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
        lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in rows]
        Path(folder, "t.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
        parquet.write_table(table, Path(folder, "t.parquet"))
        for suffix in ("csv", "jsonl", "parquet"):
            found = list(read_table(Path(folder, f"t.{suffix}"), ("text",), "label"))
            assert [(record.texts[0], int(record.label or "")) for record in found] == rows


@settings(deadline=None, max_examples=100)
@given(classes=names, data=st.data())
def test_aligned_logits_answer_with_the_datas_classes(classes: list[str], data) -> None:
    teacher = data.draw(st.permutations([name.upper() for name in classes]))
    logits = torch.randn(5, len(classes), generator=torch.Generator().manual_seed(0))
    said = [teacher[i].lower() for i in logits.argmax(1)]
    assert [classes[i] for i in logits[:, list(align(classes, teacher))].argmax(1)] == said


@settings(deadline=None, max_examples=100)
@given(values=st.lists(st.sampled_from(["a", "b", "A", "-1", "1", "1.0", "2", "01", "1_1", "11"]), min_size=1))
def test_every_value_seen_is_a_class_and_the_order_of_rows_is_none(values: list[str]) -> None:
    classes = classes_of(values)
    assert classes is not None
    assert classes == classes_of(values[::-1])
    code = codes(classes, classes)
    kept = {value: code.index(value) for value in values}
    assert set(kept.values()) == set(range(len(classes)))
    whole = all(value in ("-1", "1", "1.0", "2", "11") for value in values)  # only there 1.0 is the number 1
    assert len(classes) == len({value.replace("1.0", "1") if whole else value for value in values})


@settings(deadline=None, max_examples=100)
@given(
    numbers=st.lists(st.integers(0, 30), min_size=2).filter(lambda numbers: len(set(numbers)) > 1),
    share=st.floats(0.01, 0.5),
    data=st.data(),
)
def test_held_out_rows_are_a_split_by_text(numbers: list[int], share: float, data) -> None:
    rows = [LabelledRow((f"text {number}",), float(i)) for i, number in enumerate(numbers)]
    train, held = hold_out(rows, share)
    assert sorted(row.label or 0.0 for row in train + held) == [float(i) for i in range(len(rows))]
    assert train
    assert held
    assert not {row.texts for row in train} & {row.texts for row in held}
    assert len({row.texts for row in held}) == max(1, round(share * len(set(numbers))))
    again = [LabelledRow((f" TEXT  {number} ",), -1.0) for number in numbers]  # the same texts, written otherwise
    train, held = hold_out([*rows, *again], share)
    assert not {" ".join(row.texts[0].lower().split()) for row in train} & {row.texts[0] for row in held}
    assert len(held) == 2 * sum(row.label != -1.0 for row in held)
    held = hold_out(rows, share)[1]
    shuffled = data.draw(st.permutations(rows))
    assert set(hold_out(shuffled, share)[1]) == set(held)
