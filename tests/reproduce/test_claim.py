"""The decision rules, and the quantities that they are applied to, against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitlet.evaluate.compare import mean_interval
from vitlet.reproduce.claim import decide, decide_part
from vitlet.reproduce.claims import CLAIMS
from vitlet.reproduce.quantities import Looked

VALUES = st.lists(st.floats(-1, 1), min_size=1, max_size=6)


def test_a_part_is_supported_only_above_its_margin_as_a_whole():
    interval = mean_interval([0.30, 0.31, 0.32])
    assert decide_part(interval, margin=0.1) == "supported"
    assert decide_part(interval, margin=0.31) == "undecided"
    assert decide_part(interval, margin=0.5) == "not supported"
    assert decide_part(mean_interval([9.0]), margin=0.0) == "undecided", "one seed decides nothing"


@given(VALUES, st.floats(-1, 1))
def test_a_part_and_its_contrary_are_never_both_supported(values: list[float], margin: float):
    here = decide_part(mean_interval(values), margin=margin)
    there = decide_part(mean_interval([-v for v in values]), margin=-margin)
    assert {here, there} != {"supported"}
    if "supported" in (here, there):
        assert "not supported" in (here, there)


@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        (["supported", "supported"], "supported"),
        (["supported", "undecided"], "undecided"),
        (["undecided", "not supported"], "not supported"),
        (["not supported", "not run"], "not run"),
    ],
)
def test_a_claim_needs_all_of_its_parts(parts: list[str], answer: str):
    assert decide(parts) == answer  # type: ignore[arg-type]


def test_weights_of_every_part_sum_to_nothing_so_that_a_level_alone_decides_no_claim():
    for claim in CLAIMS:
        for part in claim.parts:
            assert sum(weight for weight, _ in part.terms) == pytest.approx(0.0), part.title


@pytest.fixture
def looked() -> Looked:
    """Three blocks, two heads; the subject differs from the reference as the numbers say."""
    return Looked(
        names=("reference", "subject"),
        cka={"subject": np.diag([0.9, 0.8, 0.5, 0.3])},
        distance={"reference": np.full((3, 2), 4.0), "subject": np.array([[4.0, 2.0], [3.0, 3.0], [1.0, 2.0]])},
        entropy={"reference": np.full((3, 2), 3.0), "subject": np.array([[3.0, 3.0], [3.0, 3.0], [2.0, 1.0]])},
        spectrum={"subject": np.array([-1.5, -2.0, -3.0, -4.0])},
        images=64,
    )


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("cka-lower", 0.85),
        ("cka-higher", 0.4),
        ("distance-lower", 3.0),
        ("distance-higher", 1.5),
        ("entropy-higher", 1.5),
        ("head-spread-lower", 1.0),
        ("distance-gap", (1.0 + 1.0 + 2.5) / 3),
        ("entropy-gap", 0.5),
        ("embedding-frequencies", -1.5),
    ],
)
def test_quantities_by_hand(looked: Looked, quantity: str, value: float):
    assert looked.value(quantity, "subject") == pytest.approx(value)  # type: ignore[arg-type]


def test_every_quantity_of_a_claim_can_be_read(looked: Looked):
    asked = {m.quantity for claim in CLAIMS for part in claim.parts for _, m in part.terms} - {"top1"}
    assert len(asked) == 9
    assert all(np.isfinite(looked.value(q, "subject")) for q in asked)
