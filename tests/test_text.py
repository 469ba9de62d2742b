import os
from pathlib import Path

import pytest

from vitlet.text import did_you_mean, plural, printable


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
