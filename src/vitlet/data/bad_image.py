"""The error of an image that cannot be used. Free of torch, like the index."""

from vitlet.errors import DataError
from vitlet.text import printable


class BadImage(DataError):
    """A file that is not a usable image; `path` as given, `reason` a sentence without a full stop."""

    def __init__(self, path: str, reason: str) -> None:
        """The message shows `path` with its control characters escaped."""
        self.path, self.reason = path, reason
        super().__init__(
            f"cannot use the image {printable(path)}", why=reason, fix="vitlet check DATA lists every such file"
        )

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, str]]:
        """Keep both fields when pickled."""
        return BadImage, (self.path, self.reason)
