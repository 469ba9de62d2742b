"""Images are opened and checked by one rank of a host, and what takes long is shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import QUIET, write_images

from vitlet import console
from vitlet.console import Teller
from vitlet.data.index import open_index
from vitlet.jobs import images
from vitlet.jobs.images import opened


@pytest.mark.parametrize("copies", [True, False])
def test_a_copy_into_the_cache_is_shown(
    copies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control copies nothing, and says nothing."""
    data = write_images(tmp_path, train=4)

    def slow(data: Path, *, progress: Callable[[int, int], None], **options: Any) -> Any:
        for megabytes in (1, 2, 3) if copies else ():
            progress(megabytes, 4)
        return open_index(data, **options)

    monkeypatch.setattr(images, "open_index", slow)
    monkeypatch.setattr(console, "_PLAIN_LINE_SECONDS", 0)
    assert len(opened(data, QUIET, Teller())) == 8
    said = capsys.readouterr().out
    assert ("copying images into the cache, MB: 3/4, 0 s left" in said) == copies
    assert copies or not said
