"""Checks of a command's images, before torch is imported: the last ones, since they list the files."""

from pathlib import Path
from typing import Any


def require_images(data: Path, *, follow_outside: bool, labelled: bool = False) -> None:
    """Refuse small data without images or, for commands that learn classes, without labels.

    Raises:
        DataError, ResourceError: as the job, where larger data is refused; see `vitlet.data.glance`.
    """
    from vitlet.data.classes import require_classes
    from vitlet.data.glance import glance

    index = glance(data, follow_outside=follow_outside)
    if labelled and index is not None:
        require_classes(index)


def require_learnable(data: Path, recipe: Any, *, follow_outside: bool) -> None:
    """Refuse small data without the images, labels or boxes that a recipe learns from.

    Raises:
        DataError, ResourceError: as the job, where larger data is refused; see `vitlet.data.glance`.
    """
    from vitlet.data.classes import classes_of
    from vitlet.data.glance import glance

    if (index := glance(data, follow_outside=follow_outside)) is not None:
        classes_of(index, recipe)
