from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import kdlab
from kdlab import ranks

BIG = 2**53 + 1  # not a float64


def local(number: int) -> dict[str, torch.Tensor]:
    """What rank `number` of two brings."""
    return {
        "integers": torch.tensor([BIG, number]),
        "doubles": torch.tensor([0.1, 1e-12 * (number + 1)], dtype=torch.float64),
        "rows": torch.arange(3 * (number + 1)).reshape(number + 1, 3) + 100 * number,
        "ragged": torch.full((2 - number, 2 + number), number + 1),
        "none": torch.full((number * 2,), 7),
        "flags": torch.tensor([True, False, number == 1]),
        "halves": torch.tensor([[1.5], [number]], dtype=torch.bfloat16),
        "tall": torch.full((1, 2, 2), float(number)),
    }


def two_ranks(number: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=number, world_size=2)
    mine = local(number)
    found = {
        "identity": [ranks.rank(), ranks.world()],
        "integers": ranks.all_sum(mine["integers"]),
        "doubles": ranks.all_sum(mine["doubles"]),
        "largest": ranks.all_max(mine["doubles"]),
        "untouched": mine["integers"],
        "rows": ranks.gather_rows(mine["rows"]),
        "ragged": ranks.gather_rows(mine["ragged"], pad=-1),
        "none": ranks.gather_rows(mine["none"]),
        "empty": ranks.gather_rows(mine["rows"][:0]),
        "flags": ranks.gather_rows(mine["flags"]),
        "halves": ranks.gather_rows(mine["halves"]),
        "tall": ranks.gather_rows(mine["tall"]),
        "any": [ranks.all_any(number == 1), ranks.all_any(False)],
        "objects": ranks.gather_objects({"rank": number}),
        "broadcast": ranks.broadcast_object(f"from {number}"),
    }
    try:
        ranks.gather_rows(mine["ragged"])
    except ValueError as error:
        found["refused"] = str(error)
    torch.save(found, folder / f"{number}.pt")
    dist.destroy_process_group()


def test_two_ranks_agree(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(kdlab.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen([sys.executable, __file__, str(n), str(tmp_path)], env=env) for n in range(2)]
    assert [process.wait(timeout=60) for process in started] == [0, 0]
    for number in range(2):
        found = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        assert found["identity"] == [number, 2]
        assert found["integers"].tolist() == [2 * BIG, 1]
        assert found["doubles"].dtype == torch.float64
        assert found["doubles"].tolist() == [0.2, 1e-12 + 2e-12]
        assert found["largest"].tolist() == [0.1, 2e-12]
        assert found["untouched"].tolist() == [BIG, number]
        assert found["rows"].tolist() == [[0, 1, 2], [100, 101, 102], [103, 104, 105]]
        assert found["ragged"].tolist() == [[1, 1, -1], [1, 1, -1], [2, 2, 2]]
        assert found["none"].tolist() == [7, 7]
        assert found["empty"].shape == (0, 3)
        assert found["flags"].dtype == torch.bool
        assert found["flags"].tolist() == [True, False, False, True, False, True]
        assert found["halves"].dtype == torch.bfloat16
        assert found["halves"].tolist() == [[1.5], [0], [1.5], [1]]
        assert found["tall"].tolist() == [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]
        assert found["any"] == [True, False]
        assert found["objects"] == [{"rank": 0}, {"rank": 1}]
        assert found["broadcast"] == "from 0"
        assert "[2, 3]" in found["refused"]


@pytest.mark.parametrize("name", local(1))
def test_alone_everything_is_the_identity(name):
    tensor = local(1)[name]
    total = ranks.all_sum(tensor)
    assert torch.equal(total, tensor)
    assert total.data_ptr() != tensor.data_ptr()
    assert torch.equal(ranks.all_max(tensor), tensor)
    assert torch.equal(ranks.gather_rows(tensor, pad=0), tensor)


def test_alone_the_rank_is_zero_of_one():
    assert (ranks.rank(), ranks.world()) == (0, 1)
    assert (ranks.all_any(True), ranks.all_any(False)) == (True, False)
    assert ranks.gather_objects(3) == [3]
    assert ranks.broadcast_object({"a": 1}) == {"a": 1}


def test_nothing_carries_a_gradient():
    weight = torch.ones(2, requires_grad=True)
    assert not ranks.all_sum(weight).requires_grad
    assert not ranks.gather_rows(weight).requires_grad


if __name__ == "__main__":
    two_ranks(int(sys.argv[1]), Path(sys.argv[2]))
