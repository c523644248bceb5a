from __future__ import annotations

import io

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlab.runtime.ledger import Ledger

TEACHERS = ["small", "large"]
rows = st.lists(st.integers(0, 18), max_size=8)
teacher = st.sampled_from(TEACHERS)
event = st.one_of(
    st.tuples(st.just("query"), teacher, rows),
    st.tuples(st.just("query_always"), teacher, rows),
    st.tuples(st.just("cached"), teacher, rows),
    st.tuples(st.just("flops"), st.sampled_from(["scoring", "observation"]), st.integers(0, 10**20)),
    st.tuples(st.just("all_data"), st.integers(0, 10**20), st.integers(0, 32)),
    st.tuples(st.just("epoch")),
)
events = st.lists(event, max_size=30)


def play(ledger: Ledger, script: list[tuple], epoch: int = 0) -> int:
    for kind, *what in script:
        match kind:
            case "query":
                ledger.count_queries(what[0], torch.tensor(what[1], dtype=torch.int64), epoch)
            case "query_always":
                ledger.count_queries(what[0], torch.tensor(what[1], dtype=torch.int64), -1)
            case "cached":
                ledger.count_cached(what[0], torch.tensor(what[1], dtype=torch.int64))
            case "flops":
                ledger.flops(*what)
            case "all_data":
                ledger.all_data(*what)
            case "epoch":
                epoch += 1
    return epoch


@settings(deadline=None, max_examples=80)
@given(script=events, fixed=st.booleans())
def test_counts_are_those_of_python_sets(script, fixed):
    ledger = Ledger(19, fixed)
    play(ledger, script)
    epoch, total, sets = 0, 0, {name: set() for name in TEACHERS}
    for kind, *what in script:
        if kind == "epoch":
            epoch += 1
        if kind in ("query", "query_always"):
            key = -1 if fixed or kind == "query_always" else epoch
            sets[what[0]] |= {(row, key) for row in what[1]}
            total += len(what[1])
    assert ledger.queries() == ledger.total_queries() == total
    totals = ledger.totals()
    assert totals["teacher_queries"]["total"] == total
    for name, one in totals["teacher_queries"]["per_teacher"].items():
        assert one["unique"] == len(sets.pop(name))
    assert not any(sets.values())
    assert totals["flops"]["total"] == sum(what[1] for kind, *what in script if kind == "flops")
    assert totals["flops"]["all_data"] == sum(what[0] for kind, *what in script if kind == "all_data")
    assert totals["rows_seen"] == sum(what[1] for kind, *what in script if kind == "all_data")
    cached = sum(len(what[1]) for kind, *what in script if kind == "cached")
    assert totals["teacher_queries"]["cached"] == cached


@settings(deadline=None, max_examples=80)
@given(script=events, fixed=st.booleans(), data=st.data())
def test_resumes_change_nothing(script, fixed, data):
    whole = Ledger(19, fixed)
    play(whole, script)
    part, epoch, start = Ledger(19, fixed), 0, 0
    for cut in sorted(data.draw(st.lists(st.integers(0, len(script)), max_size=3))):
        epoch, start = play(part, script[start:cut], epoch), cut
        file = io.BytesIO()
        torch.save(part.state_dict(), file)
        # What a killed run did after its checkpoint is not in it.
        part.flops("lost", 1)
        part.count_queries("small", torch.tensor([0]), epoch)
        file.seek(0)
        part = Ledger(19, fixed)
        part.load_state_dict(torch.load(file, weights_only=True))
    play(part, script[start:], epoch)
    assert part.queries() == whole.queries()
    assert part.totals() == whole.totals()


@settings(deadline=None, max_examples=40)
@given(script=events, fixed=st.booleans(), reads=st.sets(st.integers(0, 30)))
def test_reading_totals_changes_nothing(script, fixed, reads):
    unread, read, epoch = Ledger(19, fixed), Ledger(19, fixed), 0
    play(unread, script)
    for index, one in enumerate(script):
        epoch = play(read, [one], epoch)
        if index in reads:
            read.totals()
            read.state_dict()
    assert read.totals() == unread.totals()
    assert read.totals() == unread.totals()
