"""Processes: gradients through gather and sum against one process, starting and stopping, what errors say."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from recognition import distributed
from tests.launch import run_processes

COUNTS = {2: [3, 1], 3: [2, 0, 3]}


def rows_of(rank: int, count: int) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)


def whole_loss(rows: torch.Tensor) -> torch.Tensor:
    """Couples every row with every other."""
    return ((rows @ rows.T).sin() * torch.arange(1.0, 1.0 + len(rows))).sum()


def gather_uneven(rank: int, counts: list[int]) -> dict:
    local = rows_of(rank, counts[rank]).requires_grad_()
    everyone = distributed.gather(local, counts)
    whole_loss(everyone).backward()

    one, other = rows_of(rank, 2).requires_grad_(), rows_of(rank + 9, 2).requires_grad_()
    (distributed.gather(one) + distributed.gather(other)).pow(2).sum().backward()
    same = distributed.gather(torch.full((2,), rank))

    term = torch.tensor([rank + 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    total = distributed.all_reduce_sum(term)
    total.pow(3).sum().backward()

    with pytest.raises(ValueError) as error:
        distributed.gather(local, [count + 1 for count in counts])
    with pytest.raises(RuntimeError, match=r"running already: call distributed.stop\(\)"):
        distributed.start("cpu")
    return {
        "rows": everyone.detach(),
        "gradient": local.grad,
        "twice": (one.grad, other.grad),
        "integers": same,
        "total": total.detach(),
        "of_term": term.grad,
        "error": str(error.value),
        "world": (distributed.world_size(), distributed.global_rank()),
    }


@pytest.fixture(scope="module", params=[2, 3])
def results(request) -> list[dict]:
    return run_processes(request.param, gather_uneven, COUNTS[request.param])


def test_gather_and_its_gradient_equal_one_process(results):
    """Every process computes the whole loss, so a row's gradient is world_size times the true one."""
    size = len(results)
    rows = torch.cat([rows_of(rank, count) for rank, count in enumerate(COUNTS[size])]).requires_grad_()
    whole_loss(rows).backward()
    for rank, result in enumerate(results):
        assert result["world"] == (size, rank)
        assert torch.equal(result["rows"], rows.detach())
        assert result["integers"].tolist() == [r for r in range(size) for _ in range(2)]
    torch.testing.assert_close(torch.cat([r["gradient"] for r in results]), size * rows.grad)


def test_two_gathers_under_one_sum_do_not_disturb_each_other(results):
    """Their gradients arrive in one and the same tensor: reducing it in place would reduce it twice."""
    size = len(results)
    for rank, result in enumerate(results):
        wanted = size * 2 * (rows_of(rank, 2) + rows_of(rank + 9, 2))
        torch.testing.assert_close(result["twice"][0], wanted)
        torch.testing.assert_close(result["twice"][1], wanted)


def test_all_reduce_sum_gives_each_process_the_gradient_of_the_one_loss(results):
    size = len(results)
    total = torch.tensor([size * (size + 1) / 2, 2.0 * size], dtype=torch.float64)
    for result in results:
        assert torch.equal(result["total"], total)
        torch.testing.assert_close(result["of_term"], 3 * total**2)


def test_wrong_counts_are_named(results):
    for rank, result in enumerate(results):
        count = COUNTS[len(results)][rank]
        assert result["error"] == f"process {rank} holds {count} rows, counts say {count + 1}"


def test_one_process_alone_starts_and_stops_again_and_again(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (distributed.world_size(), distributed.global_rank()) == (1, 0)
    for _ in range(2):
        world = distributed.start("cpu")
        try:
            assert world.is_main and world.world_size == 1 and world.device == torch.device("cpu")
            assert dist.get_backend() == "gloo"
            with pytest.raises(RuntimeError, match="running already"):
                distributed.start("cpu")
            row = torch.ones(1, 2, requires_grad=True)
            (distributed.gather(row, [1]) + distributed.all_reduce_sum(row)).sum().backward()
            assert torch.equal(row.grad, torch.full((1, 2), 2.0))
        finally:
            distributed.stop()
        assert not dist.is_initialized()
    distributed.stop()  # nothing to leave: no error


def test_wrong_devices_are_named():
    with pytest.raises(ValueError, match=r"train.device is 'tpu'; it must be 'auto', 'cpu' or 'cuda'"):
        distributed.start("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"train.device=cuda, but torch finds no CUDA device"):
            distributed.start("cuda")
    assert not dist.is_initialized()
