"""Over ranks: gathered rows in order, means with gradients, and nothing at all for one process."""

from pathlib import Path

import torch
from torch import Tensor

from forked import results_of_ranks
from vitlet.distributed import across
from vitlet.distributed.world import World


def test_one_process_is_the_identity() -> None:
    x = torch.ones(3, 2, requires_grad=True)
    assert (across.rank(), across.size()) == (0, 1)
    assert across.mean(x) is x
    assert torch.equal(across.gather(x), x)
    assert not across.gather(x).requires_grad


def shared(rank: int) -> dict[str, Tensor]:
    """What one of two ranks makes of its rows and the other's."""
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    mine = (x * (1 + 10 * rank)).T
    mean = across.mean(mine)
    ((mean**2).sum() * (1 + rank)).backward()
    assert x.grad is not None
    with World.here().apart():
        apart = torch.tensor([across.rank(), across.size(), torch.equal(across.gather(mine), mine)])
    return {"rank": torch.tensor([across.rank(), across.size()]), "rows": across.gather(mine.T), "apart": apart,
            "mean": mean.detach(), "gradient": x.grad,
            "free": torch.tensor(not across.gather(mine).requires_grad)}  # fmt: skip


def test_two_ranks(tmp_path: Path) -> None:
    first, second = results_of_ranks(shared, tmp_path)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    whole = x.clone().requires_grad_()
    mean = (whole.T + 11 * whole.T) / 2
    ((mean**2).sum() * (1 + 2)).backward()  # the sum of both ranks' losses, as a function of one x
    assert whole.grad is not None
    for number, rank in enumerate((first, second)):
        assert rank["rank"].tolist() == [number, 2]
        assert rank["apart"].tolist() == [0, 1, 1]
        assert torch.equal(rank["rows"], torch.cat([x, 11 * x]))
        torch.testing.assert_close(rank["mean"], 6 * x.T)
        assert rank["free"]
    torch.testing.assert_close(first["gradient"] + second["gradient"], whole.grad)
