import os
import shlex
from pathlib import Path

import pytest

from vitlet.text import (
    counted,
    decimal,
    did_you_mean,
    percent,
    plural,
    points,
    printable,
    quoted,
    shareable,
    shareable_word,
    slug,
    told_apart,
    true_minus,
)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain äé日本.png", "plain äé日本.png"),
        ("a\nb\tc\r", "a\\x0ab\\x09c\\x0d"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("line\u2028end", "line\\u2028end"),
        (b"\xff\xfe.jpg", "\\xff\\xfe.jpg"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("\U000e0001tag", "\\U000e0001tag"),
        ("<img onerror=alert(1)>", "<img onerror=alert(1)>"),
        (Path("a/b"), "a/b"),
        ("", ""),
    ],
)
def test_names_are_shown_on_one_line_without_tricks(name: object, shown: str) -> None:
    assert printable(name) == shown
    printable(name).encode("utf-8")


@pytest.mark.parametrize("path", ["runs/one", "My run", "it's $(here); `there`", "-flag", "é 日本", "", Path("a b/c")])
def test_a_path_in_a_command_is_one_word_of_it(path: str | Path) -> None:
    assert shlex.split(f"vitlet resume {quoted(path)}")[2:] == [str(path)]


def test_a_path_in_a_command_has_no_tricks_and_no_quotes_without_need() -> None:
    assert quoted("runs/one-2.pth") == "runs/one-2.pth"
    assert quoted("a\nb") == "'a\\x0ab'"


def test_nothing_unprintable_is_left_of_any_character() -> None:
    for code in (*range(0x3000), *range(0xD7F0, 0xE010), *range(0x1F600, 0x1F610), 0x10FFFF):
        shown = printable(chr(code))
        assert shown.isprintable() or shown.isspace(), hex(code)
        assert "\n" not in shown


def test_the_nearest_word_or_all() -> None:
    assert did_you_mean("warmpu", ["warmup", "betas"]) == "Did you mean warmup?"
    assert did_you_mean("zzz", ["warmup", "betas"]) == "Known: betas, warmup"
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean("zzz", [f"{i:02d}" for i in range(30)]).endswith("18, 19, …")


def test_numbers_agree() -> None:
    assert plural(1, "image") == "1 image"
    assert plural(0, "image") == "0 images"
    assert plural(2000, "class", "classes") == "2,000 classes"
    assert counted(3, 5000, split="test") == "3 seeds, 5,000 test images"
    assert counted(1, 1) == "1 seed, 1 image"


def test_differences_have_a_sign_and_a_true_minus() -> None:
    assert [points(d) for d in (0.3, -0.0443, -0.0001, 0.0)] == ["+30.0", "−4.4", "0.0", "0.0"]
    assert [points(d, sign=False) for d in (0.3, -0.0443, -0.0001)] == ["30.0", "−4.4", "0.0"]
    assert [decimal(d, 3) for d in (0.0625, -1.0, -0.0001)] == ["+0.062", "−1.000", "0.000"]
    assert [true_minus(text) for text in ("-0", "-1e-05", "12")] == ["0", "−1e−05", "12"]
    assert percent(0.5919) == "59.2 %"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/run"], ["run"]),
        (["a/run", "b/run", "b/other"], ["a/run", "b/run", "other"]),
        (["x/a/run", "y/a/run", "z/b/run"], ["x/a/run", "y/a/run", "b/run"]),
        (["a/run", "a/run", "b/run"], ["a/run (1)", "a/run (2)", "b/run"]),
        (["random", "a/random"], ["random", "a/random"]),
    ],
)
def test_the_end_of_a_path_tells_it_apart(paths: list[str], names: list[str]) -> None:
    assert told_apart([Path(path).parts for path in paths]) == names


def test_a_slug_is_fit_for_a_file_name() -> None:
    assert slug("MAE, 400 epochs (D-MAE)") == "mae-400-epochs-d-mae"
    assert slug("größe/..") == "gr-e"
    assert slug("日本") == ""


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("../../home/alice/client x/photos", "photos"),
        ("/home/alice/photos.csv", "photos.csv"),
        ("~/photos", "photos"),
        ("../photos", "photos"),
        ("timm:vit_tiny@../alice/w.pth", "timm:vit_tiny@w.pth"),
        ("torchvision:pets@../../alice/data", "torchvision:pets@data"),
    ],
)
def test_of_a_path_outside_the_working_folder_the_last_component_stays(word: str, shown: str) -> None:
    assert shareable_word(word) == shown


@pytest.mark.parametrize(
    "word",
    ["runs/mae/recipe.json", "photos", "..", "--data", "0.1", "s3://bucket/a/b", "https://me@host/a", "a@/b", "...b/c",
     "timm:vit_tiny@weights/a.pth", "untrained:resnet18"],
)  # fmt: skip
def test_other_words_stay_as_they_are(word: str) -> None:
    assert shareable_word(word) == word


def test_a_command_that_is_passed_on_names_no_folder_outside():
    command = "vitlet pretrain runs/a/recipe.json --data '../../home/alice/client x/photos/' --out NEW"
    assert shareable(command) == "vitlet pretrain runs/a/recipe.json --data photos --out NEW"
    assert shareable("a  command 'of'  no path") == "a  command 'of'  no path", "as it was written"
    assert shareable("an 'unclosed quote") == "an 'unclosed quote"
    assert shareable("an 'unclosed /home/alice/photos") == "an 'unclosed photos"
