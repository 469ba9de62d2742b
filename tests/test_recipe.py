import random
import string

import pytest

from vitlet.config import apply_overrides, dotted_keys
from vitlet.errors import UsageError
from vitlet.recipe import EncoderConfig, Recipe
from vitlet.recipes import all_recipes, by_name, from_json, with_overrides

NAMES = list(all_recipes())
TYPOS = 400


def one_edit(word: str, draw: random.Random) -> str:
    """A slip of one finger: a letter lost, doubled, wrong, or swapped with its neighbour."""
    at = draw.randrange(len(word))
    match draw.randrange(4):
        case 0:
            return word[:at] + word[at + 1 :]
        case 1:
            return word[:at] + draw.choice(string.ascii_lowercase) + word[at:]
        case 2:
            return word[:at] + draw.choice(string.ascii_lowercase) + word[at + 1 :]
        case _:
            return word[:at] + word[at + 1 : at + 2] + word[at : at + 1] + word[at + 2 :]


def typos(words: list[str], *, num: int) -> list[tuple[str, str]]:
    """(wrong, meant); what a slip makes of a word is never another word or nothing."""
    draw, found = random.Random(0), []
    while len(found) < num:
        meant = draw.choice(words)
        head, _, last = meant.rpartition(".")
        wrong = one_edit(last, draw)
        full = f"{head}.{wrong}" if head else wrong
        if wrong and full not in words:
            found.append((full, meant))
    return found


def test_mistyped_override_keys_get_the_right_suggestion() -> None:
    values = by_name("finetune_tiny_ori_300e").to_json()
    keys = [key for key in dotted_keys(values) if not key.rpartition(".")[2].isdigit()]
    wrong = []
    for typo, meant in typos(keys, num=TYPOS):
        with pytest.raises(UsageError) as caught:
            apply_overrides(values, {typo: 1})
        if f"Did you mean {meant}" not in str(caught.value):
            wrong.append((typo, meant, str(caught.value)))
    assert len(wrong) <= 0.05 * TYPOS, wrong[:5]


def test_mistyped_keys_of_a_recipe_file_get_the_right_suggestion() -> None:
    values = by_name("mae_micro").to_json()
    sections = {s: list(values[s]) for s in ("data", "encoder", "objective", "optimizer", "budget")}
    keys = [f"{section}.{key}" for section, found in sections.items() for key in found]
    wrong = []
    for typo, meant in typos(keys, num=TYPOS):
        section, _, key = typo.partition(".")
        changed = {**values, section: {**values[section], key: 1}}
        with pytest.raises(UsageError) as caught:
            from_json(changed)
        if f"Did you mean {meant.rpartition('.')[2]}" not in str(caught.value):
            wrong.append((typo, meant, str(caught.value)))
    assert len(wrong) <= 0.05 * TYPOS, wrong[:5]


def test_mistyped_recipe_names_get_the_right_suggestion() -> None:
    wrong = []
    for typo, meant in typos(NAMES, num=TYPOS):
        with pytest.raises(UsageError) as caught:
            by_name(typo)
        if f"Did you mean {meant}" not in str(caught.value):
            wrong.append((typo, meant))
    assert len(wrong) <= 0.05 * TYPOS, wrong[:5]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = by_name(name)
    assert recipe.name == name
    again = from_json(recipe.to_json())
    assert again == recipe
    assert type(again) is type(recipe)
    assert again.fingerprint() == recipe.fingerprint()


def test_fingerprints_change_with_every_value() -> None:
    recipe = by_name("mae_micro")
    prints = {by_name(name).fingerprint() for name in NAMES}
    assert len(prints) == len(NAMES)
    for change in ({"budget.seed": 1}, {"data.views.0.flip": 0.4}, {"objective.norm_pixels": False}):
        assert with_overrides(recipe, change).fingerprint() != recipe.fingerprint()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 30}, r"image_size 30 is not a multiple of encoder\.patch_size 16"),
        ({"image_size": 9, "patch_size": 5}, r"image_size 9 is not a multiple of encoder\.patch_size 5"),
        ({"heads": 5}, r"width 192 is not a multiple of encoder\.heads 5"),
        ({"heads": 5, "position": "sincos"}, r"width 192 is not a multiple of encoder\.heads 5"),
        ({"width": 90, "heads": 9, "position": "sincos"}, r"width 90 is not a multiple of 4"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_what_does(changes: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        EncoderConfig().changed(**changes)
    for fix in caught.value.fix.split(", or "):
        key, _, value = fix.removeprefix("encoder.").partition("=")
        EncoderConfig().changed(**changes | {key: int(value)})


@pytest.mark.parametrize("ratio", [0, 1, 1.5, -0.1])
def test_mask_ratios_that_hide_nothing_or_all_are_refused(ratio: float) -> None:
    with pytest.raises(UsageError, match=r"objective\.mask_ratio"):
        with_overrides(by_name("mae_micro"), {"objective.mask_ratio": ratio})


def test_views_must_fit_the_encoder() -> None:
    for key in ("data.views.0.size", "data.evaluation.size", "encoder.image_size"):
        with pytest.raises(UsageError, match=r"is not encoder\.image_size") as caught:
            with_overrides(by_name("mae_micro"), {key: 64})
        fixes = dict(fix.split("=") for fix in caught.value.fix.split(" and "))
        with_overrides(by_name("mae_micro"), {key: 64} | {name: int(size) for name, size in fixes.items()})


ONE_VIEW = [name for name in NAMES if name.startswith("debug") and name not in ("debug_mocov3", "debug_dino")]


@pytest.mark.parametrize("name", ONE_VIEW)
def test_a_second_view_is_refused_by_a_method_that_uses_one(name: str) -> None:
    recipe = by_name(name)
    (view,) = recipe.to_json()["data"]["views"]
    with pytest.raises(UsageError, match=r"data\.views|one view"):
        with_overrides(recipe, {"data.views": [view, view]})


@pytest.mark.parametrize("width", range(4, 200, 13))
@pytest.mark.parametrize("heads", [1, 3, 5, 7, 16])
def test_a_decoder_that_does_not_divide_is_refused_with_one_that_does(width: int, heads: int) -> None:
    recipe, shape = by_name("mae_micro"), {"objective.decoder_width": width, "objective.decoder_heads": heads}
    if width % 4 == 0 and width % heads == 0:
        with_overrides(recipe, shape)
        return
    with pytest.raises(UsageError, match=r"is not a multiple of") as caught:
        with_overrides(recipe, shape)
    for fix in caught.value.fix.split(", or "):
        key, _, value = fix.partition("=")
        with_overrides(recipe, shape | {key: int(value)})


@pytest.mark.parametrize("values", [{}, {"name": 3}, {"name": "no_such_recipe"}])
def test_what_is_no_recipe_is_refused(values: dict) -> None:
    with pytest.raises(UsageError):
        from_json(values)


def test_the_learning_rate_scales_with_the_batch() -> None:
    assert by_name("mae_tiny_400e").optimizer.lr(4096) == pytest.approx(2.4e-3)
    micro: Recipe = by_name("mae_micro")
    assert micro.optimizer.lr(1) == micro.optimizer.lr(999) == micro.optimizer.base_lr
