"""The decision rules, and the quantities that they are applied to, against numbers worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitlet.evaluation.compare import mean_interval
from vitlet.replication.chains import DISTILLED, MAE, distilled, tuned
from vitlet.replication.claim import Answer, Measure, decide, decide_part
from vitlet.replication.claims import CLAIMS
from vitlet.replication.quantities import Looked
from vitlet.replication.steps import Finetune, Pretrain

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
        patches={"subject": -0.5},
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
        ("patch-frequencies", -0.5),
    ],
)
def test_quantities_by_hand(looked: Looked, quantity: str, value: float):
    assert looked.value(quantity, "subject") == pytest.approx(value)  # type: ignore[arg-type]


def test_every_quantity_of_a_claim_can_be_read(looked: Looked):
    parts = [part for claim in CLAIMS for part in (*claim.parts, *claim.beside)]
    asked = {m.quantity for part in parts for _, m in part.terms} - {"top1"}
    assert len(asked) == 10
    assert all(np.isfinite(looked.value(q, "subject")) for q in asked)


def answered(number: int, value: Callable[[Measure], float]) -> Answer:
    """A claim on numbers that three seeds agree on."""
    claim = CLAIMS[number - 1]
    effects = [sum(w * value(m) for w, m in part.terms) for part in claim.parts]
    return decide(
        [
            decide_part(mean_interval([effect - 1e-6, effect, effect + 1e-6]), margin=part.margin)
            for effect, part in zip(effects, claim.parts, strict=True)
        ]
    )


def cka(**models: tuple[float, float]) -> Callable[[Measure], float]:
    """(lower, higher) third by the first letters of a subject's name."""
    by_name = {"MAE-Tiny": models["mae"], "MAE-Tiny-FT": models["fine"], "MoCov3-Tiny": models["moco"],
               "untrained MAE-Tiny": (0.6, 0.45), "untrained MoCov3-Tiny": (0.6, 0.45)}  # fmt: skip
    return lambda m: by_name[m.subject][m.quantity == "cka-higher"]


def test_claim_7_needs_a_steeper_fall_than_that_of_a_model_that_knows_the_labels():
    assert answered(7, cka(mae=(0.9, 0.55), fine=(0.95, 0.8), moco=(0.0, 0.0))) == "supported"
    alike = cka(mae=(0.95, 0.8), fine=(0.95, 0.78), moco=(0.0, 0.0))  # falls by more than 0.1, as any model does
    assert answered(7, alike) == "not supported"


def test_what_stands_beside_a_claim_has_the_units_of_its_parts_and_is_made_with_them():
    for claim in CLAIMS:
        if claim.beside:
            assert {part.unit for part in claim.beside} == {part.unit for part in claim.parts}
            assert {m.step for part in claim.beside for _, m in part.terms} <= set(claim.steps())
    assert [claim.number for claim in CLAIMS if claim.beside] == [1, 9, 11, 15]


def test_claim_8_needs_more_than_an_encoder_that_has_hardly_moved():
    assert answered(8, cka(mae=(0.9, 0.4), fine=(0.0, 0.0), moco=(0.9, 0.8))) == "supported"
    untrained = cka(mae=(0.9, 0.4), fine=(0.0, 0.0), moco=(0.59, 0.44))  # above MAE in the higher third, and as flat
    assert answered(8, untrained) == "not supported"


@pytest.mark.parametrize(("left", "answer"), [(0.4, "supported"), (0.8, "not supported")])
def test_claim_13_needs_most_of_the_gap_to_close(left: float, answer: Answer):
    gaps = {"DeiT-Tiny": 0.0, "MAE-Tiny": 1.0, "MAE-Tiny-FT": left}
    assert answered(13, lambda m: gaps[m.subject]) == answer


def test_claim_5_needs_a_gain_that_could_be_kept():
    """Where MAE is worse than no pre-training, a long tail that spares it has kept more than half of nothing."""

    def value(mae: float) -> Callable[[Measure], float]:
        by_start = {
            ("mae", "imagenet"): mae,
            ("mae", "imagenet-lt"): max(mae, 0.5),
            ("mocov3", "imagenet"): 0.6,
            ("mocov3", "imagenet-lt"): 0.5,
        }

        def top1(m: Measure) -> float:
            start = m.step.start if isinstance(m.step, Finetune) else None
            return by_start[start.method, start.data] if isinstance(start, Pretrain) else 0.5

        return top1

    assert answered(5, value(0.7)) == "supported"
    assert answered(5, value(0.4)) == "not supported"


@pytest.mark.parametrize(
    "rival",
    [*(Finetune(distilled(*b), "impr-100") for b in DISTILLED if b != (12,)), tuned(MAE, keep=12)],
    ids=lambda step: step.start.method + str(step.start.distil),
)
def test_one_point_of_figure_7_that_is_better_than_the_last_block_decides_claim_16(rival: Finetune):
    last = Finetune(distilled(12), "impr-100")
    assert answered(16, lambda m: float(m.step == last)) == "supported"
    assert answered(16, lambda m: 2.0 if m.step == rival else float(m.step == last)) == "not supported"
