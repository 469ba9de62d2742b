"""The classes in some data, which a method may need: judged by the index alone, without torch."""

from collections.abc import Sequence

from vitlet.data.detection.annotations import annotations_of
from vitlet.data.index import Index
from vitlet.errors import DataError
from vitlet.recipe import Recipe
from vitlet.text import printable


def classes_of(index: Index, recipe: Recipe) -> tuple[str, ...]:
    """Return the classes in this data: of images or, for a detection method, of the objects in them.

    Raises:
        DataError: as `require_classes` if the method learns labels, or if it learns objects and they are not annotated.
    """
    if recipe.objective.learns_objects() is None:
        if recipe.objective.learns_labels:
            require_classes(index)
        return index.classes
    annotations = annotations_of(index)
    if annotations is None:
        raise DataError(
            f"{index.name} has no boxes",
            why=f"Recipe {recipe.name} learns the objects on the images",
            fix="give a folder with annotations/instances_train.json in COCO's format, or one in Roboflow's",
        )
    return annotations.classes


def require_classes(index: Index) -> None:
    """Refuse data whose classes cannot be learned, before an image is opened.

    Raises:
        DataError: if there are not two classes, or one has no image.
    """
    index.require_every_class()
    classes, where = index.classes, index.name
    if not classes:
        raise DataError(
            f"{where} has no labels",
            why="Fine-tuning and probes learn classes",
            fix="give class folders or a manifest with a label column; pre-training needs neither",
        )
    if len(classes) == 1:
        raise single_class(f"all labelled images are of a single class, {class_name(0, classes)}", where)


def single_class(what: str, where: str) -> DataError:
    """Return the error for images of one class."""
    return DataError(
        what,
        where=where,
        why="With one class there is nothing to tell apart, so accuracy would say nothing",
        fix="give images of at least two classes; pre-training itself works as it is",
    )


def class_name(number: int, classes: Sequence[str]) -> str:
    """Return the name of a class for a message, or its number if it has none."""
    return f"'{printable(classes[number])}'" if number < len(classes) else str(number)
