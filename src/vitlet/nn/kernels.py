"""Matrix products: which precisions the hardware supports, and which library computes fp32 on a CPU.

torch passes fp32 products to MKL, which uses only AVX2 on some CPUs that have more. Its precision setting "medium"
passes them to oneDNN instead if the CPU has AVX-512. There oneDNN may round the factors to bf16 (it does on CPUs with
AMX) or not. CPU names do not tell; a product with a known result does. Speed is not measured here, since a resumed
run must make the same choice.
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

# MKL's and oneDNN's relative error in fp32 is near 2.5e-7 on this product, TF32's 3e-4, bf16's 3e-3.
_FP32_ERROR = 2e-6


def onednn_is_exact() -> bool:
    """Whether `routed_to_onednn` would change which library computes fp32 products here, and keep their precision."""
    with routed_to_onednn():
        precise, product = keeps_fp32(torch.matmul), torch.matmul(*_factors())
    return precise and not torch.equal(product, torch.matmul(*_factors()))


def keeps_fp32(product: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether a matrix product of fp32 tensors has fp32's error."""
    a, b = _factors()
    exact = a.double() @ b.double()
    error = (product(a, b) - exact).norm() / exact.norm()
    return bool(error < _FP32_ERROR)


@torch.compiler.assume_constant_result
def has_bf16(device: torch.device) -> bool:
    """Whether `device` has instructions for bf16 products; without them, bf16 is emulated and many times slower.

    torch.compile evaluates this once and keeps the answer, since it cannot trace queries of the processor.

    For devices other than CPUs and CUDA nothing is known and the answer is yes: whoever asks for bf16 there gets it.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    if platform.machine() in ("x86_64", "AMD64"):  # oneDNN says yes from AVX-512 on, and emulates
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def routed_to_onednn(enabled: bool = True) -> Iterator[None]:
    """Inside, let oneDNN compute fp32 products on the CPU. For CPU runs only: on a GPU the setting means TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if enabled else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.compiler.assume_constant_result
def is_routed_to_onednn() -> bool:
    """Whether the caller is inside `routed_to_onednn`; torch.compile keeps the answer."""
    return torch.get_float32_matmul_precision() != "highest"


def _factors() -> tuple[Float[Tensor, "M D"], Float[Tensor, "D M"]]:
    """Factors of the size of a ViT-Tiny layer: small products are not passed to oneDNN."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(256, 192, generator=draw), torch.randn(192, 256, generator=draw)
