"""Counts of models against closed forms, and turns that are taken by all."""

import timm
import torch
from torch import nn

from vitlet.benchmarks import models as module
from vitlet.benchmarks.models import Candidate, bench_models, count_flops, steps
from vitlet.benchmarks.published import PAPER

MILLIONS = {
    "resnet18": 11.69, "resnet50": 25.56, "efficientnet_b0": 5.29, "efficientnet_b1": 7.79, "mobilenetv2_100": 3.50,
    "mobilenetv3_large_100": 5.48, "levit_128": 9.21, "levit_192": 10.95, "xcit_tiny_12_p16_224": 6.72,
    "pit_ti_distilled_224": 5.10, "cait_xxs24_224": 11.96, "mobilevit_s": 5.58, "deit_tiny_patch16_224": 5.72,
    "deit_tiny_distilled_patch16_224": 5.91,
}  # fmt: skip
"""Wang et al. 2023, Table 2, by timm's tables [L]."""


def test_flops_by_hand() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 10))
    assert count_flops(Candidate(linear, 4)) == 2 * 48 * 10
    convolution = nn.Conv2d(3, 8, kernel_size=3, padding=1)
    assert count_flops(Candidate(convolution, 6)) == 2 * 36 * 8 * 27


def test_a_parameter_that_a_module_gets_as_input_does_not_stop_the_count() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.head = nn.Parameter(torch.zeros(1, 6)), nn.Linear(6, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.token).expand(len(images), -1)

    assert count_flops(Candidate(Odd(), 4)) == 2 * 6 * 2


def test_attention_is_counted_whichever_kernel_would_run() -> None:
    """A ViT of 5 tokens: without the two products of attention the count would be short."""
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=32, depth=1, num_heads=2, num_classes=7
    )
    tokens, width = 5, 32
    per_block = tokens * width * 12 * width + 2 * tokens * tokens * width
    expected = 4 * 3 * 256 * width + per_block + width * 7
    assert count_flops(Candidate(vit, 32)) == 2 * expected


def test_the_papers_models_are_those_that_timm_builds() -> None:
    assert PAPER.keys() == MILLIONS.keys()
    for name, millions in MILLIONS.items():
        with torch.device("meta"):
            network = timm.create_model(name, pretrained=False)
        assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions, name


def test_all_take_turns_and_the_first_does_not_count(monkeypatch) -> None:
    taken: list[int] = []

    def clocked(network: nn.Module, images: torch.Tensor, *, precision: str) -> float:
        assert not network.training
        taken.append(images.shape[-1])
        return 100.0 if len(taken) <= 2 else 0.5 * len(taken)

    monkeypatch.setattr(module, "_seconds", clocked)
    candidates = {
        "a": Candidate(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), 4),
        "b": Candidate(nn.Sequential(nn.Flatten(), nn.Linear(108, 2)), 6),
    }
    seen: list[int] = []
    found = bench_models(candidates, batch_size=8, repeats=3, progress=seen.append)
    assert taken == [4, 6] * 4
    assert seen == list(range(1, steps(2, 3) + 1))
    # Seconds of a: 100 (left out), 1.5, 2.5, 3.5.
    row = found["models"]["a"]
    assert (row["images_per_second"], row["slowest"], row["fastest"]) == (8 / 2.5, 8 / 3.5, 8 / 1.5)
    assert row["parameters"] == 98
    assert "eager, fp32, cpu, one thread" in found["engine"]


def test_a_real_turn_is_timed_and_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    found = bench_models({"a": Candidate(network, 32)}, batch_size=4, repeats=1)
    assert found["models"]["a"]["images_per_second"] > 0
    assert torch.get_num_threads() == before
