"""Whether a method finds the classes that it learns is known from the index alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from vitlet.data.classes import class_name, classes_of, require_classes
from vitlet.data.index import open_index
from vitlet.errors import DataError
from vitlet.recipes import by_name


@pytest.mark.parametrize(
    ("classes", "message"),
    [((), "pets has no labels"), (("c\x1bat",), "all labelled images are of a single class, 'c\\x1bat' (pets)")],
)
def test_what_is_known_before_an_image_is_opened(classes: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets/1.png").touch()
    index = open_index(tmp_path / "pets")
    with pytest.raises(DataError) as caught:
        require_classes(replace(index, classes=classes))
    assert str(caught.value).startswith(message)
    require_classes(replace(index, classes=("cat", "dog")))


def test_each_method_asks_for_what_it_learns(annotated: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/1.png").write_text("")
    plain, boxed = open_index(tmp_path / "flat"), open_index(annotated)
    pretrain, finetune, detect = (by_name(name) for name in ("mae_micro", "finetune_micro", "detection_micro"))
    assert classes_of(plain, pretrain) == ()
    with pytest.raises(DataError, match="flat has no labels"):
        classes_of(plain, finetune)
    with pytest.raises(DataError, match=r"flat has no boxes.*detection_micro learns the objects"):
        classes_of(plain, detect)
    assert len(classes_of(boxed, detect)) == 2


def test_a_class_without_a_name_is_shown_by_its_number() -> None:
    assert (class_name(0, ["a\x1bb"]), class_name(1, ["a"])) == ("'a\\x1bb'", "1")
