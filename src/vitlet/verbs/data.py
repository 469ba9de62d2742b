"""Commands for data sets and recipes."""

import textwrap
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vitlet.arguments import AtLeastOne, Share, Shared, Whole, chosen_recipe, existing_data
from vitlet.console import Terminal
from vitlet.verbs.images import require_images


def check(
    data: Path,
    *,
    out: Path | None = None,
    workers: Whole | None = None,
    max_bad: Share = 0.01,
    follow_outside: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Decode every image once and report unreadable, odd, duplicate or leaking ones, imbalance and bad annotations.

    Args:
        data: Folder, CSV or Parquet manifest, or Hugging Face Parquet.
        out: Folder for data_check.json, bad_files.csv and copies.csv, which lists all copies and leaks.
        workers: Decoding processes; by default one a core.
        max_bad: Accepted share of unreadable images.
        follow_outside: Also read files outside the folder that links and tables in it lead to.
    """
    require_images(existing_data(data), follow_outside=follow_outside)
    from vitlet.jobs.checking import check as job
    from vitlet.jobs.options import Options

    job(data, out=out, options=Options(workers=workers, max_bad=max_bad, follow_outside=follow_outside))


def pack(
    data: Path,
    *,
    out: Path,
    short_side: AtLeastOne | None = None,
    raw: Annotated[bool, Parameter(negative="")] = False,
    shard_mb: AtLeastOne = 256,
    workers: Whole | None = None,
    max_bad: Share = 0.01,
    follow_outside: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a data set as tar shards for fast or remote storage; every command and WebDataset can read them.

    Args:
        data: Folder, CSV or Parquet manifest, or Hugging Face Parquet.
        out: A new folder.
        short_side: Shrink larger images to this short side in pixels; by default every file stays as it is.
        raw: Store decoded pixels: ten times the space, no decoding.
        shard_mb: Approximate size of a shard in MiB (2^20 bytes).
        workers: Decoding processes, and threads that pack; by default one a core.
        max_bad: Share of unreadable images that may be left out.
        follow_outside: Also read files outside the folder that links and tables in it lead to.
    """
    require_images(existing_data(data), follow_outside=follow_outside)
    from vitlet.jobs.options import Options
    from vitlet.jobs.packing import pack as job

    options = Options(workers=workers, max_bad=max_bad, follow_outside=follow_outside)
    job(data, out=out, short_side=short_side, raw=raw, shard_mb=shard_mb, options=options)


def recipes(name: str | None = None) -> None:
    """List the recipes, or show every effective value of one.

    Args:
        name: A recipe name, or the recipe.json of a run.
    """
    from vitlet.disk import to_json_bytes
    from vitlet.recipes import all_recipes

    out = Terminal()
    if name is not None:
        recipe = chosen_recipe(name, Shared())
        out.print(all_recipes()[recipe.name].__doc__ or "", markup=False)
        out.print(to_json_bytes(recipe.to_json()).decode(), markup=False)
        return
    known = all_recipes()
    width = max(map(len, known)) + 2
    # A narrow terminal breaks lines within the second column; a file or a pipe gets one line a recipe.
    columns = max(out.width, width + 20) if out.is_terminal else 10_000
    for title, function in known.items():
        line = f"{title:{width}}{(function.__doc__ or '').splitlines()[0]}"
        out.print(textwrap.fill(line, columns, subsequent_indent=" " * width), markup=False)
