import os
from pathlib import Path

import pytest

from vitlet.text import did_you_mean, plural, printable, shareable, shareable_word


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
