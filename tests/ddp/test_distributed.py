from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from kdlab.runtime import distributed
from tests.support import forks

BIG = 2**53 + 1  # not a float64


def local(number: int) -> dict[str, torch.Tensor]:
    """The inputs of rank `number` of two."""
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
        "identity": [distributed.rank(), distributed.world()],
        "integers": distributed.all_sum(mine["integers"]),
        "doubles": distributed.all_sum(mine["doubles"]),
        "largest": distributed.all_max(mine["doubles"]),
        "untouched": mine["integers"],
        "rows": distributed.gather_rows(mine["rows"]),
        "ragged": distributed.gather_rows(mine["ragged"], pad=-1),
        "none": distributed.gather_rows(mine["none"]),
        "empty": distributed.gather_rows(mine["rows"][:0]),
        "flags": distributed.gather_rows(mine["flags"]),
        "halves": distributed.gather_rows(mine["halves"]),
        "tall": distributed.gather_rows(mine["tall"]),
        "any": [distributed.all_any(number == 1), distributed.all_any(False)],
        "objects": distributed.gather_objects({"rank": number}),
        "broadcast": distributed.broadcast_object(f"from {number}"),
    }
    try:
        distributed.gather_rows(mine["ragged"])
    except ValueError as error:
        found["refused"] = str(error)
    torch.save(found, folder / f"{number}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_ranks_agree(tmp_path):
    forks.on_two_ranks(lambda number: two_ranks(number, tmp_path))
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
    total = distributed.all_sum(tensor)
    assert torch.equal(total, tensor)
    assert total.data_ptr() != tensor.data_ptr()
    assert torch.equal(distributed.all_max(tensor), tensor)
    assert torch.equal(distributed.gather_rows(tensor, pad=0), tensor)


def test_alone_the_rank_is_zero_of_one():
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert (distributed.all_any(True), distributed.all_any(False)) == (True, False)
    assert distributed.gather_objects(3) == [3]
    assert distributed.broadcast_object({"a": 1}) == {"a": 1}


def test_nothing_carries_a_gradient():
    weight = torch.ones(2, requires_grad=True)
    assert not distributed.all_sum(weight).requires_grad
    assert not distributed.gather_rows(weight).requires_grad
