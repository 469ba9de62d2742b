"""What was published stands as it was read, and every step that a row names can be run at the paper's scale."""

import pytest

from vitlet.bench.published import PAPER
from vitlet.recipes import by_name, with_overrides
from vitlet.reproduce.catalogue import ITEMS, chosen
from vitlet.reproduce.claims import CLAIMS
from vitlet.reproduce.scale import Chosen, ImageSet, Treatment
from vitlet.reproduce.scales import SCALES, scale_by_name
from vitlet.reproduce.steps import MEANINGS, Finetune, Look, Measured, Pretrain, Probe, Table, steps_of

TABLES = [item for item in ITEMS.values() if isinstance(item, Table)]
VERIFIED = {
    ("table-1", "from scratch, 12 heads (DeiT-Tiny)", "impr."): 75.8,
    ("table-1", "from scratch, 12 heads (DeiT-Tiny)", "ori."): 74.5,
    ("table-1", "MoCo-v3, 400 epochs", "impr."): 76.8,
    ("table-1", "MAE, 400 epochs", "impr."): 78.0,
    ("table-1", "MAE, 400 epochs, fine-tuned for 100", "impr."): 76.2,
    ("table-1", "D-MAE, 400 epochs", "impr."): 78.4,
    ("table-1", "MAE, 400 epochs, linear probe", "impr."): 23.4,
    ("table-2", "MAE-Tiny-FT, relative positions, 1000 epochs", "top-1, %"): 79.0,
    ("table-4", "MAE-Tiny", "COCO box AP"): 39.9,
    ("table-5", "D-MAE-Tiny", "COCO mask AP"): 37.4,
    ("figure-2", "MAE-Tiny", "12"): 76.2,
    ("appendix-b3", "D-MAE", "impr."): 82.5,
}
"""Read in the paper's text or the authors' repository."""


TIMM = {
    "ResNet-18": "69.744", "ResNet-50": "80.376", "EfficientNet-B0": "77.690", "EfficientNet-B1": "78.796",
    "MobileNet-v2 1.0": "72.970", "MobileNet-v3-L 1.0": "75.766", "LeViT-128, distilled": "78.492",
    "LeViT-192, distilled": "79.832", "XCiT-T12/16, distilled": "78.576", "PiT-Ti, distilled": "74.532",
    "CaiT-XXS-24": "78.384", "MobileViT-S": "78.312", "DeiT-Tiny, 3 heads": "72.172",
    "DeiT-Tiny, 3 heads, distilled": "74.512",
}  # fmt: skip
"""Top-1 of timm's list, in the cell or beside the paper's own."""
BESIDE = {
    ("table-1", "from scratch, 12 heads (DeiT-Tiny)", "impr."): "76.1 [H]",
    ("table-1", "MAE, 400 epochs", "impr."): "78.1 [H]",
    ("table-1", "MAE, 400 epochs", "hours of it, eight V100"): "about 40 on eight 2080 [H]",
    ("table-4", "MAE-Tiny", "COCO box AP"): "below MoCo-v3 on COCO [T]",
    ("table-4", "MAE-Tiny", "COCO mask AP"): "below MoCo-v3 on COCO [T]",
    ("table-5", "D-MAE-Tiny", "COCO mask AP"): "37.3 [J]",
}
"""What other sources have for the same cell."""


def published() -> dict[tuple[str, str, str], object]:
    return {(t.name, row.title, c.column): c.published for t in TABLES for row in t.rows for c in row.cells}


def every_step() -> set[object]:
    found: set[object] = {step for item in ITEMS.values() for step in steps_of(item)}
    found |= {step for claim in CLAIMS for step in claim.steps()}
    grown = True
    while grown:
        starts = {s.start for s in found if isinstance(s, Measured) and s.start is not None}
        starts |= {start for s in found if isinstance(s, Look) for _, start in s.subjects if start is not None}
        starts |= {s.teacher for s in found if isinstance(s, Pretrain | Finetune) and s.teacher is not None}
        grown = not starts <= found
        found |= starts
    return found


def test_verified_figures_are_as_they_were_read():
    found = published()
    for place, value in VERIFIED.items():
        assert found[place].value == value, place
        assert found[place].is_confirmed, place


def test_what_other_sources_have_stands_beside_the_figure():
    found = published()
    for row, top1 in TIMM.items():
        value = found["table-2", row, "top-1, %"]
        assert (value.printed, value.tag) == (top1, "L") or f"timm: {top1} [L]" in value.note, row
    for place, words in BESIDE.items():
        assert words in found[place].note, place


def test_timms_figures_are_those_of_the_benchmark():
    """Both were copied from timm's lists."""
    titles = {m.title: m for m in PAPER.values()}
    found = published()
    for row, top1 in TIMM.items():
        title = row.replace("3 heads, distilled", "distilled")
        model = titles[title if title in titles else title.removesuffix(", distilled")]
        assert model.top1 == float(top1), row
        assert model.images_per_second == found["table-2", row, "images/s, RTX 3090"].value, row


def test_a_row_that_the_paper_lacks_says_whose_it_is():
    """Control: of the rows in Tables 3 to 5 it alone has nothing published."""
    bare = {(t.name, row.title) for t in TABLES if t.name in ("table-3", "table-4", "table-5")
            for row in t.rows if not any(c.published for c in row.cells)}  # fmt: skip
    assert bare == {("table-4", "from scratch (a row of ours)")}
    assert "the sources disagree" in ITEMS["table-4"].about


def test_what_is_guessed_of_an_appendix_is_called_unconfirmed():
    for name in ("appendix-a1", "appendix-a2", "appendix-a4", "appendix-b2", "appendix-b3", "appendix-b4"):
        assert "[M" in ITEMS[name].about, name
    for name in ("appendix-b1", "appendix-b5"):
        assert "Exists in the paper [T]" in ITEMS[name].about or "Named in the paper [T]" in ITEMS[name].about


def test_recalled_figures_are_never_confirmed():
    values = [p for p in published().values() if p is not None]
    recalled = [p for p in values if p.tag in ("M+", "M?")]
    assert len(recalled) > 20
    assert not any(p.is_confirmed for p in recalled)
    assert {p.tag for p in values} <= MEANINGS.keys()


def test_every_table_figure_and_claim_keeps_its_place():
    assert set(ITEMS) >= {f"table-{i}" for i in range(1, 6)} | {f"figure-{i}" for i in range(1, 8)}
    assert [n for n in ITEMS if n.startswith("appendix")] == [
        *(f"appendix-a{i}" for i in range(1, 7)), *(f"appendix-b{i}" for i in range(1, 6))
    ]  # fmt: skip
    assert [claim.number for claim in CLAIMS] == list(range(1, 19))
    assert all(claim.parts for claim in CLAIMS)
    choice = chosen(["all"])
    assert (len(choice.items), len(choice.claims)) == (len(ITEMS), 18)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_cells_stand_in_columns_of_their_table(table: Table):
    for row in table.rows:
        columns = [cell.column for cell in row.cells]
        assert set(columns) <= set(table.columns), row.title
        assert len(columns) == len(set(columns)), row.title


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_has_an_answer_for_every_role(name: str):
    scale = scale_by_name(name)
    for step in every_step():
        assert step.data in scale.sets, step
        if isinstance(step, Pretrain):
            assert step.method in scale.methods, step
        elif isinstance(step, Finetune):
            role = scale.treatments[step.treatment]
            assert not isinstance(role, Chosen) or by_name(role.recipes[step.data]).objective.learns_labels
        elif isinstance(step, Probe):
            assert step.protocol in scale.probes, step


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_fits_its_recipes(name: str):
    scale = scale_by_name(name)
    for role in scale.methods.values():
        if isinstance(role, Treatment):
            assert not with_overrides(by_name(role.recipe), role.changes).objective.learns_labels
    budgets = [s.budget for s in scale.sets.values() if isinstance(s, ImageSet)]
    for role in scale.treatments.values():
        for budget in budgets:
            if isinstance(role, Treatment):
                assert with_overrides(by_name(role.recipe), {**role.changes, **budget}).objective.learns_labels


def test_a_budget_changes_lengths_and_nothing_else():
    scale = scale_by_name("own")
    shorter = scale.within(0.5)
    before, after = scale.methods["mae"], shorter.methods["mae"]
    assert after.changes["budget.duration"]["n"] == before.changes["budget.duration"]["n"] // 2
    assert {k: v for k, v in after.changes.items() if k != "budget.duration"} == {
        k: v for k, v in before.changes.items() if k != "budget.duration"
    }
    assert shorter.sets["flowers"].budget["budget.duration"]["n"] == 6_000
    assert shorter.seeds == scale.seeds


@pytest.mark.parametrize("name", ["micro", "own", "smoke"])
def test_what_stands_in_says_how_much_it_is(name: str):
    sets = scale_by_name(name).sets
    for image_set in sets.values():
        if isinstance(image_set, ImageSet) and image_set.label_share is not None:
            assert f"{100 * image_set.label_share:g} % of the labels" in image_set.title
