"""What a format cannot hold is refused from the words alone."""

import pytest

from vitlet.choices import ExportTarget
from vitlet.errors import UsageError
from vitlet.weights.form import Form


@pytest.mark.parametrize("target", ["timm", "torch-export"])
def test_eight_bits_need_a_format_that_has_them(target: ExportTarget) -> None:
    with pytest.raises(UsageError, match=rf"--int8 with --to {target}.*--to onnx"):
        Form(target, int8=True).require_possible()
    Form("onnx", int8=True, embed_preprocessing=True).require_possible()
    Form("openvino", int8=True).require_possible()


def test_timm_has_no_place_for_preprocessing_in_the_network() -> None:
    with pytest.raises(UsageError, match=r"--embed-preprocessing with --to timm.*leave it out"):
        Form("timm", embed_preprocessing=True).require_possible()
    Form("torch-export", embed_preprocessing=True).require_possible()
