"""One table says which word means which split, wherever the word stands."""

import re

import pytest

from vitlet.data.detection.layouts import find_annotations
from vitlet.data.index import open_index
from vitlet.data.splits import SPLITS, WORDS, code_of, code_of_file, codes_of_files
from vitlet.errors import DataError


def test_only_whole_words_name_a_split():
    words = ("train", "Training", "VAL", "valid", "validation", "test", "testing")
    assert [code_of(word) for word in words] == [0, 0, 1, 1, 1, 2, 2]
    assert [code_of(word) for word in ("", "trains", "train2017", "eval", "dev")] == [None] * 5


def test_a_file_name_only_starts_with_the_split():
    files = ("train-00000-of-00002.parquet", "Validation.tar", "val2017.json", "testing.tar", "my-train.tar")
    assert [code_of_file(file) for file in files] == [0, 1, 1, 2, None]


def test_a_word_that_goes_on_is_no_split():
    """The control is the former rule, which asked for the first letters alone."""
    files = ("valley.parquet", "valley-00000.tar", "testbed.parquet", "Trainspotting.tar", "trains.tar", "valé.tar")
    assert [code_of_file(file) for file in files] == [None] * len(files)
    assert all(re.match("train|val|test", file, re.IGNORECASE) for file in files)
    assert codes_of_files(files[:3], where="d") == dict.fromkeys(files[:3], 0)
    with pytest.raises(DataError, match=r"the split of valley\.parquet is not clear"):
        codes_of_files(["valley.parquet", "test.parquet"], where="d")


@pytest.mark.parametrize(("word", "code"), WORDS.items())
@pytest.mark.parametrize("end", ["", ".tar", "-00000.tar", "_1.tar", "2017.json", " 1.tar"])
def test_every_word_for_a_split_starts_a_file_name(word: str, code: int, end: str):
    assert code_of_file(word + end) == code_of_file(word.upper() + end) == code


def test_files_are_training_data_if_none_of_them_names_a_split():
    assert codes_of_files(["a.tar", "test/b.tar"], where="d") == {"a.tar": 0, "test/b.tar": 0}
    assert codes_of_files(["x/test.tar", "train.tar"], where="d") == {"x/test.tar": 2, "train.tar": 0}
    with pytest.raises(DataError, match=r"the split of a\.tar is not clear \(d\)"):
        codes_of_files(["a.tar", "train.tar"], where="d")


@pytest.mark.parametrize(("word", "code"), WORDS.items())
def test_a_word_means_the_same_in_a_folder_a_table_and_an_annotated_folder(word: str, code: int, tmp_path, tree):
    others = [split for number, split in enumerate(SPLITS) if number != code]
    folders = open_index(tree(tmp_path / "folders", f"{word}2017/1.png", *(f"{name}/1.png" for name in others)))
    assert {folders.path(i).split("/")[0]: int(folders.splits[i]) for i in range(3)}[f"{word}2017"] == code
    table = tree(tmp_path / "table", "1.png") / "table.csv"
    table.write_text(f"path,split\n1.png,{word}\n")
    assert open_index(table).splits.tolist() == [code]
    annotated = tmp_path / "annotated" / word
    annotated.mkdir(parents=True)
    (annotated / "_annotations.coco.json").touch()
    assert [file.split for file in find_annotations(tmp_path / "annotated")] == [code]
