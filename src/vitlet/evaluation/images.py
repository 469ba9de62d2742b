"""The images of an evaluation: each exactly once, with no substitutes."""

from collections.abc import Iterable, Iterator

from vitlet.data.batch import Batch
from vitlet.errors import DataError
from vitlet.text import printable


def each_once(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches of `loader`, checking each.

    Training may continue with a substitute for an image that has become unreadable; a score may not, since it would
    count one image twice and another never.

    Raises:
        DataError: if there are no images, or one was substituted.
    """
    seen: set[int] = set()
    for batch in loader:
        if batch.replaced:
            raise DataError(
                "an image can no longer be read",
                where=printable(batch.replaced[0][1]),
                why="It was good when the data was checked; a score without it would be another score",
                fix="bring it back, or run vitlet check DATA and evaluate again",
            )
        positions = set(batch.positions.tolist())
        assert len(positions) == len(batch), "the loader gave an image twice"
        assert not positions & seen, "the loader gave an image twice"
        seen |= positions
        yield batch
    if not seen:
        raise DataError("no images to evaluate", fix="check the folder or the manifest's split column")
