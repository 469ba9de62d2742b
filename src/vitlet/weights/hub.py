"""Names of models on a hub: `hf://user/name`. Free of torch and of network access."""

import re
from dataclasses import dataclass

from vitlet.errors import UsageError
from vitlet.text import printable

_SCHEME = "hf://"
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"


@dataclass(frozen=True)
class HubName:
    """Owner and name of a model on a hub."""

    owner: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "HubName":
        """Read `hf://owner/name`.

        Raises:
            UsageError: for anything else.
        """
        found = re.fullmatch(rf"{_SCHEME}({_PART})/({_PART})", text)
        if found is None or any(".." in part or "--" in part for part in found.groups()):
            raise UsageError(f"{printable(text)} does not name a model on a hub", fix="hf://USER/NAME")
        return cls(found[1], found[2])

    @property
    def repository(self) -> str:
        """`owner/name`, as the hub's own tools write it."""
        return f"{self.owner}/{self.name}"

    def __str__(self) -> str:
        return f"{_SCHEME}{self.repository}"
