"""Recipes: their values are the paper's, they survive JSON, and they cost no import of torch."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vitlet.errors import UsageError
from vitlet.recipe import EncoderConfig
from vitlet.recipes import all_recipes, by_name, from_json, with_overrides
from vitlet.recipes.seed import seed_micro
from vitlet.replication.steps import MEANINGS
from vitlet.units import Images, to_steps

NAMES = list(all_recipes())
ROOT = Path(__file__).parents[2]
_PAPER = r"\b(Wang|Gao|Caron|Xie|Fang) et al\. 20\d\d"
_PLACE = r"\b(Tables?|Figures?|Appendix|appendix) (\d|[A-Z]\.\d)|\b(README|SMALL\.md) of the (authors'|paper's)"


def _told(name: str) -> str:
    """What a recipe says, and the recipes that its first paragraph refers to."""
    text = inspect.getdoc(all_recipes()[name]) or ""
    others = [other for other in re.findall(r"`(\w+)`", text.split("\n\n")[0]) if other in NAMES]
    return "\n".join([text, *map(_told, others)])


def _has_results(name: str, text: str) -> bool:
    """Whether a recipe of ours says that it was not run, or results name it or a recipe that it was run with."""
    found = re.search(r"Measured here: (.+?)\.(\s|$)", text, re.DOTALL)
    assert found, "neither where its results are nor that it was not run"
    if found[1] == "not run":
        return False
    assert "`docs/results/`" in found[1]
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "results").glob("*.json"))
    assert any(re.search(rf"\b{word}\b", pages) for word in [name, *re.findall(r"`(\w+)`", found[1])]), "no results"
    return True


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_survives_json_unchanged(name: str) -> None:
    recipe = by_name(name)
    again = from_json(recipe.to_json())
    assert again == recipe
    assert type(again) is type(recipe)
    assert again.fingerprint() == recipe.fingerprint()


@pytest.mark.parametrize("name", NAMES)
def test_the_name_in_a_recipe_is_its_functions(name: str) -> None:
    assert all_recipes()[name].__name__ == name == by_name(name).name


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_says_where_it_comes_from(name: str) -> None:
    """Published ones with paper, table, score, its provenance, whether it was run here, and in which precision; ours as
    ours; debug ones apart.
    """
    make = all_recipes()[name]
    text = inspect.getdoc(make) or ""
    if make.__module__.endswith(".debug") or name.startswith("debug"):
        assert "steps" in text
    elif "Ours, not the paper's" in text or re.search(r"`\w*(micro|ours)\w*`", text):
        assert "Published" not in text
        _has_results(name, text)
    else:
        assert "Published" in text
        assert re.search(_PLACE, text), "no table, figure, appendix or page"
        assert re.search(_PAPER, _told(name)), "no paper"
        assert re.search(r"fp16|Precision\s+here is bf16", _told(name)) or make().budget.precision == "fp16"
        assert re.search(r"\[(T|R|J|H|C|X|I #\d+|L)\b|not published|unknown", text), "no provenance"
        assert "not" in text.split("Published", 1)[1].lower() or "docs/results/" in text
    # Recalled figures that nobody could check are never shown as published.
    assert not re.search(r"\[M[+?]?\]", text)


def test_what_was_measured_of_a_recipe_of_ours_is_there() -> None:
    assert _has_results("mae_micro", "Ours. Measured here: `docs/results/`. Small.")
    assert _has_results("d2mae_micro", "Measured here: `docs/results/`, after\n`seed_micro`.")
    assert not _has_results("d2mae_micro", "Ours.\n\nMeasured here: not run.")
    for wrong in ("Ours.", "Measured here: `docs/results/`.", "Measured here: yes."):
        with pytest.raises(AssertionError):
            _has_results("d2mae_micro", wrong)


def test_debug_recipes_end_after_twenty_steps() -> None:
    for name in (n for n in NAMES if n.startswith("debug")):
        recipe = by_name(name)
        assert to_steps(recipe.budget.duration, num_images=100, batch_size=recipe.budget.batch_size) == 20


def test_listing_and_overriding_recipes_does_not_import_torch() -> None:
    code = (
        "import sys; from vitlet.recipes import all_recipes, with_overrides;"
        "recipes = [make() for make in all_recipes().values()];"
        "with_overrides(recipes[0], {'budget.batch_size': 32});"
        "print(len(recipes), sorted({'torch', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(NAMES)} []\n"


def test_overrides_are_checked_and_typos_get_the_nearest_key() -> None:
    recipe = by_name("mae_micro")
    assert with_overrides(recipe, {"objective.mask_ratio": 0.6}).to_json()["objective"]["mask_ratio"] == 0.6
    with pytest.raises(UsageError, match=r"objective\.mask_ratoi.*Did you mean objective\.mask_ratio"):
        with_overrides(recipe, {"objective.mask_ratoi": 0.6})
    with pytest.raises(UsageError, match=r"objective\.mask_ratio = 1\.5"):
        with_overrides(recipe, {"objective.mask_ratio": 1.5})


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no recipe 'mae_mirco'.*Did you mean mae_micro"):
        by_name("mae_mirco")
    with pytest.raises(UsageError, match="not a recipe"):
        from_json({"data": 1})
    with pytest.raises(UsageError, match=r"unknown key 'bugdet'"):
        from_json({**by_name("debug").to_json(), "bugdet": {}})


@pytest.mark.parametrize("name", [name for name in all_recipes() if "micro" in name])
def test_a_micro_recipe_can_be_cut_as_short_as_one_likes(name: str) -> None:
    """`--epochs` alone must not leave a warm-up that is longer than the run, as a count of images would."""
    recipe = by_name(name)
    for total in (1, 10, 1000):
        assert to_steps(recipe.optimizer.warmup, num_images=64, batch_size=64, total=total) <= total
    control = to_steps(Images(n=12_800), num_images=64, batch_size=64, total=10)
    assert control > 10


@pytest.mark.parametrize("name", NAMES)
def test_a_published_figure_says_where_it_was_read_in_words_that_are_explained(name: str) -> None:
    conventions = (ROOT / "docs" / "conventions.md").read_text()
    tags = set(re.findall(r"\[([A-Z])(?: #\d+|, [^\]]+)?\]", all_recipes()[name].__doc__ or ""))
    assert tags <= set(MEANINGS)
    assert tags <= set(re.findall(r"^\| ([A-Z]) \| ", conventions, re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "change", "fix"),
    [
        ("finetune_micro", {"objective.pool": "class"}, "encoder.final_norm=true, or objective.pool=mean"),
        ("finetune_micro", {"encoder.final_norm": True}, "encoder.final_norm=false, or objective.pool=class"),
        (
            "finetune_tiny_ori_300e_moco",
            {"encoder.final_norm": False},
            "encoder.final_norm=true, or objective.pool=mean",
        ),
    ],
)
def test_a_head_reads_what_one_norm_has_seen(name: str, change: dict[str, object], fix: str) -> None:
    """The controls are the two forms that timm has."""
    with pytest.raises(UsageError, match=rf"Fix: {re.escape(fix)}"):
        with_overrides(by_name(name), change)
    for final_norm, pool in ((True, "class"), (False, "mean")):
        with_overrides(by_name(name), {"encoder.final_norm": final_norm, "objective.pool": pool})


def test_seed_reads_no_class_token_without_a_norm() -> None:
    """Its head has no norm, so a mean of anything is as good as a ConvNet's."""
    recipe, vit = seed_micro(), EncoderConfig(image_size=32, patch_size=8, width=24, depth=1, heads=3)
    token = recipe.objective.changed(pool="class")
    recipe.changed(encoder=vit, objective=token)
    recipe.changed(encoder=vit.changed(final_norm=False))
    with pytest.raises(UsageError, match=r"without a final norm.*objective\.pool=mean"):
        recipe.changed(encoder=vit.changed(final_norm=False), objective=token)
