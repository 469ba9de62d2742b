"""The command that fine-tunes on many data sets."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vitlet.arguments import AtLeastOne, Looking, existing_source
from vitlet.disk import existing
from vitlet.errors import UsageError


def transfer(
    *runs: str,
    suite: str,
    out: Path,
    root: Path | None = None,
    only: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    seeds: AtLeastOne = 3,
    select_on_test: Annotated[bool, Parameter(negative="")] = False,
    download: Annotated[bool, Parameter(negative="")] = False,
    looking: Looking | None = None,
) -> None:
    """Fine-tune encoders on a suite of data sets, with settings chosen on training images; finished runs are reused.

    Args:
        runs: Finished runs, model folders, timm:NAME@FILE, or `none` for random weights.
        suite: `paper` (Flowers-102, Pets, Aircraft, Cars, CIFAR-100, iNaturalist-18), or a TOML file.
        out: Folder for runs/, results/, transfer.json and report.html.
        root: With --suite paper: the folder in which torchvision keeps the data sets.
        only: Name of a data set of the suite to use; may be repeated.
        seeds: Repetitions of the chosen setting.
        select_on_test: Choose the setting on the test split, as the paper's code does; the results are labelled so.
        download: Let torchvision download public data sets that are missing from --root.
    """
    from vitlet.jobs.suites import read_suite

    if not runs:
        raise UsageError("no encoder to transfer", fix="vitlet transfer RUN --suite paper --root ROOT --out DIR")
    found = read_suite(suite, root=root, only=only)  # before torch is imported
    if root is not None and not download:
        existing(root)
    starts = [run if run == "none" else existing_source(run) for run in runs]
    from vitlet.jobs.transferring import transfer as job

    job(
        starts,
        suite=found,
        out=out,
        seeds=seeds,
        select_on_test=select_on_test,
        download=download,
        options=(looking or Looking()).options(),
    )
