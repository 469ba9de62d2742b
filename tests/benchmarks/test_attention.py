"""The attention benchmark: shapes and conditions of its result; times are not tested."""

import torch

from vitlet.benchmarks.attention import bench


def test_every_shape_is_timed_in_both_forms_and_nothing_global_is_left_changed() -> None:
    threads = torch.get_num_threads()
    result = bench(repeats=1, shapes=((2, 2, 5, 4), (1, 3, 7, 8)))
    assert {"2x4 heads, 5 tokens, fp32, training", "3x8 heads, 7 tokens, fp32, inference"} <= set(result["ratio"])
    for name, times in result["cpu_ms"].items():
        assert set(times) == {"explicit", "fused"}
        assert result["ratio"][name] == times["explicit"] / times["fused"]
    assert torch.get_num_threads() == threads
