"""Batch normalisation: torch's numbers in one process and over two ranks, and no batch of one."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from forked import results_of_ranks
from vitlet.nn.batchnorm import GlobalBatchNorm1d


def _batch() -> Tensor:
    return 3 + 2 * torch.randn(12, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("affine", [True, False])
def test_in_one_process_it_is_torchs(affine: bool) -> None:
    ours, torchs = GlobalBatchNorm1d(5, affine=affine), nn.BatchNorm1d(5, affine=affine)
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    for _ in range(2):
        assert torch.equal(ours(_batch()), torchs(_batch()))
    assert torch.equal(ours.eval()(_batch()), torchs.eval()(_batch()))


def test_a_batch_of_one_is_refused_and_allowed_in_evaluation() -> None:
    norm = GlobalBatchNorm1d(5)
    with pytest.raises(ValueError, match="more than 1 value per channel"):  # torch's own; a recipe is refused before
        norm(torch.ones(1, 5))
    assert norm.eval()(torch.ones(1, 5)).shape == (1, 5)


def half(rank: int) -> dict[str, Tensor]:
    """What one of two ranks computes of the batch, in its half."""
    x = _batch()[6 * rank : 6 * rank + 6].requires_grad_()
    norm = GlobalBatchNorm1d(5)
    nn.init.constant_(norm.weight, 1.5)
    y = norm(x)
    (y**3).mean().backward()
    one = GlobalBatchNorm1d(2)(x[:1, :2].detach() * (1 + rank))
    assert x.grad is not None
    assert norm.weight.grad is not None
    return {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "mean": norm.running_mean,
            "var": norm.running_var, "batches": norm.num_batches_tracked, "one": one.detach()}  # fmt: skip


def test_two_ranks_give_the_numbers_and_gradients_of_one(tmp_path: Path) -> None:
    first, second = results_of_ranks(half, tmp_path)
    x = _batch().requires_grad_()
    norm = nn.BatchNorm1d(5)
    nn.init.constant_(norm.weight, 1.5)
    y = norm(x)
    (y**3).mean().backward()
    assert norm.weight.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(torch.cat([first["y"], second["y"]]), y.detach())
    # Each rank's loss is a mean over its half: its gradients are twice those of the whole, the loop takes their mean.
    torch.testing.assert_close(torch.cat([first["x"], second["x"]]) / 2, x.grad)
    torch.testing.assert_close((first["weight"] + second["weight"]) / 2, norm.weight.grad)
    for rank in (first, second):
        torch.testing.assert_close(rank["mean"], norm.running_mean)
        torch.testing.assert_close(rank["var"], norm.running_var)
        assert rank["batches"] == 1
    local = nn.BatchNorm1d(5)(_batch()[:6])
    assert not torch.allclose(first["y"], local, atol=1e-2)  # control: statistics of one rank's half are others
    torch.testing.assert_close(first["one"], -second["one"])  # one image a rank is a batch of two
