"""Options that a recipe cannot take."""

import pytest

from vitlet.errors import UsageError
from vitlet.jobs.options import Options, require_uncut
from vitlet.recipes import by_name


def test_a_loss_that_compares_the_images_of_a_batch_refuses_to_see_parts_of_it() -> None:
    with pytest.raises(UsageError, match=r"--micro-batch with mocov3_micro.*leave --micro-batch out"):
        require_uncut(by_name("mocov3_micro"), Options(micro_batch=8))
    require_uncut(by_name("mocov3_micro"), Options())
    require_uncut(by_name("dino_micro"), Options(micro_batch=8))
