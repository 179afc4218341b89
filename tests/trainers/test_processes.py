"""Rows that several processes hold between them: exchanged, read and summed as one process would."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from schemas.errors import UserError
from tests.support.ports import free_port
from trainers.processes import ALONE, Processes
from trainers.propagated import backward

WHOLE = torch.arange(7 * 5, dtype=torch.float32).view(7, 5) / 10
"""Seven rows of five columns, which three processes cannot share evenly."""
READ = [torch.tensor(rows) for rows in ([6, 0, 0], [1], [2, 6, 3, 6])]
"""What each process reads; row 6 of the last is read by two of them."""


def exchanged(processes: Processes) -> dict[str, torch.Tensor]:
    """What one process sees."""
    rows = processes.part(WHOLE).requires_grad_()
    columns = processes.to_columns(rows)
    table = processes.table(processes.to_rows(columns**2, WHOLE.shape[1]))
    losses = [table[rows].sum() * (n + 1) for n, rows in enumerate(READ) if processes.count == 1 or n == processes.rank]
    partly = processes.table(rows * 1.0)
    read = [partly[torch.tensor([0, 6])].sum() for _ in losses]
    using = [n for n in range(len(READ)) if n != 1]  # process 1 reads, and its loss does without
    losses += read[: len(using)] if processes.count == 1 else [one for one in read if processes.rank in using]
    torch.autograd.backward(torch.stack(losses).sum())
    for one in (table, partly):
        one.collect()
    backward([table, partly])
    held, unused = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    if processes.rank != 1:
        held.grad = torch.full((2,), processes.rank + 1.0)
    processes.add_gradients_up([held, unused])
    assert unused.grad is None
    assert rows.grad is not None
    assert held.grad is not None
    return {
        "columns": columns.detach(),
        "read": table.constant(torch.tensor([0, 3, 6])),
        "gradient": processes.whole(rows.grad),
        "held": held.grad,
    }


def in_process(rank: int, count: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = Processes.join()
    torch.save(exchanged(processes) | {"share": torch.tensor(range(5)[processes.share(5)])}, f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_three_processes_see_and_sum_what_one_does(tmp_path: Path) -> None:
    multiprocessing.spawn(in_process, (3, free_port(), str(tmp_path)), nprocs=3)
    alone, seen = exchanged(ALONE), [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    assert torch.equal(torch.cat([one["columns"] for one in seen], dim=1), alone["columns"])
    assert all(torch.equal(one["columns"], WHOLE[:, one["share"]]) for one in seen)
    assert all(torch.equal(one["read"], alone["read"]) for one in seen)
    assert torch.equal(seen[0]["gradient"], alone["gradient"])
    assert all(torch.equal(one["held"], torch.full((2,), 1.0 + 3)) for one in seen)


def test_shares_cover_everything_and_differ_by_one_at_most() -> None:
    for total in (3, 7, 20):
        shares = [Processes(rank, 3).share(total) for rank in range(3)]
        assert [n for share in shares for n in range(total)[share]] == list(range(total))
        assert max(Processes(0, 3).sizes(total)) - min(Processes(0, 3).sizes(total)) <= 1


def test_a_process_that_does_not_come_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match=r"processes: expected all to meet within 1 s.*1/2 clients.*every machine"):
        Processes.join(wait=timedelta(seconds=1))
