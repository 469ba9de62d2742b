"""Making one run of a plan: a finished one is skipped, an interrupted one continues from its checkpoint.

A run is finished when its folder holds node.json, which is written last. So a kill at any moment costs at most the
steps since the last checkpoint of the runs in progress.

A run that diverges, or fails for another reason of its own, leaves failed.json in its folder, and so does one whose
process is lost.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitlet.disk import read_json, remove_folder, storage_error, to_json_bytes, write_json
from vitlet.environment import environment, hardware
from vitlet.errors import CheckpointError, DataError, NonFiniteError, VitletError, WorkerError
from vitlet.evaluation.result import write_result
from vitlet.jobs.analysing import analyse
from vitlet.jobs.evaluating import evaluate
from vitlet.jobs.evaluation import probe
from vitlet.jobs.material import pick_device
from vitlet.jobs.options import Options
from vitlet.jobs.suites import best_setting
from vitlet.jobs.training import finetune, pretrain
from vitlet.recipe import Recipe
from vitlet.recipes import from_json, with_overrides
from vitlet.replication.images import write_half
from vitlet.replication.plan import DIVERGED, FAILED_FILE, NODE_FILE, Node, recipe_of
from vitlet.run import Run
from vitlet.train.clock import Clock

QUIET = Options(quiet=True)
OF_ONE_RUN: tuple[type[VitletError], ...] = (NonFiniteError, DataError, CheckpointError, WorkerError)
"""Errors that concern only the run they come from. A full disk, a stop and wrong usage concern all runs."""


def make(node: Node, *, options: Options = QUIET) -> None:
    """Make or resume one run. Its inputs must be finished.

    Args:
        node: Node of a plan.
        options: Settings that change no number; `fresh` is decided here.
    """
    if node.is_finished:
        return
    options = options.changed(fresh=_was_moved(node))
    clock = Clock()
    is_resumed = not options.fresh and Run(node.folder).recipe_file.is_file()
    match node.kind:
        case "images":
            assert node.half is not None
            write_half(
                node.data, node.half, node.folder, note=to_json_bytes(_facts(node)),
                follow_outside=options.follow_outside,
            )  # fmt: skip
            return
        case "pretrain":
            pretrain(_asked(node), data=node.data, out=node.folder, subset=node.subset, options=options)
        case "finetune":
            _finetune(node, options)
        case "evaluate":
            assert node.start is not None
            result = evaluate(node.start, data=node.data, protocol=node.labels, options=options)
            write_result(Run(node.folder), "top1", result)
        case "probe":
            assert node.start is not None
            result = probe(node.start, data=node.data, protocol=node.protocol, pool=node.pool, options=options)
            write_result(Run(node.folder), "top1", result)
        case "look":
            words = [f"random:{f}" if i in node.untrained else str(f) for i, (_, f) in enumerate(node.subjects)]
            analyse(words, data=node.data, out=node.folder, images=node.look_images, seed=node.seed, options=options)
    write_json(node.folder / NODE_FILE, _facts(node) | clock.spent() | {"is_resumed": is_resumed})


def attempt(node: Node, *, options: Options = QUIET) -> None:
    """Call `make`, but write an error that concerns only this run into the run's folder instead of raising it.

    Raises:
        VitletError: for errors that concern other runs too, such as images that cannot be divided.
    """
    try:
        make(node, options=options)
    except OF_ONE_RUN as error:
        if node.kind == "images":
            raise
        record_failure(node, error)


def record_failure(node: Node, error: VitletError) -> None:
    """Write failed.json."""
    found = {"error": type(error).__name__, "exit_code": error.exit_code, "what": error.what, "message": str(error)}
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(node.folder / FAILED_FILE, found | {"address": node.address, "when": when})


def forget_failures(nodes: Sequence[Node], *, even_diverged: bool) -> None:
    """Allow failed runs to be made again.

    Args:
        nodes: Nodes of a plan.
        even_diverged: Whether to include runs that diverged, which they would do again; then all failed
            runs start over. Otherwise only the others are retried, from their checkpoints.
    """
    for node in nodes:
        failure = node.failure
        if failure is not None and even_diverged:
            remove_folder(node.folder)
        elif failure is not None and failure["error"] != DIVERGED:
            file = node.folder / FAILED_FILE
            try:
                file.unlink()
            except OSError as error:
                raise storage_error(error, file, 0) from error


def _finetune(node: Node, options: Options) -> None:
    try:
        finetune(
            _asked(node), init=node.start, data=node.data, out=node.folder, num_labels=node.num_labels,
            keep_blocks=node.keep_blocks, hold_out=node.hold_out, options=options,
        )  # fmt: skip
    except NonFiniteError:
        if not node.hold_out:
            raise
    if node.hold_out:  # a grid leaves many; only the number is kept
        remove_folder(Run(node.folder).checkpoints)


def _asked(node: Node) -> Recipe:
    """The recipe to train, with the teacher filled in."""
    recipe = _setting(node)
    return recipe if node.teacher is None else with_overrides(recipe, {"objective.teacher": str(node.teacher)})


def _setting(node: Node) -> Recipe:
    """The node's recipe or, if settings were tried, that of the best one."""
    if not node.settings:
        return recipe_of(node)
    tried = [(from_json(read_json(place / "recipe.json")), _accuracy(place)) for place in node.settings]
    return best_setting(tried, of=node.title)


def _accuracy(run: Path) -> float | None:
    """Top-1 of a run; None if it diverged, which leaves no result."""
    file = run / "results" / "top1.json"
    return read_json(file)["value"] if file.is_file() else None


def _was_moved(node: Node) -> bool:
    """Whether an unfinished run recorded another data path, to which its checkpoints are tied."""
    if not Run(node.folder).recipe_file.is_file():
        return False
    return Run(node.folder).environment.launch["data"] != str(node.data)


def is_on_cpu(options: Options) -> bool:
    """Whether the device resolves to the CPU here."""
    return pick_device(options).type == "cpu"


def _facts(node: Node) -> dict[str, Any]:
    """The content of node.json."""
    return {
        "address": node.address,
        "kind": node.kind,
        "title": node.title,
        "seed": node.seed,
        "inputs": list(node.inputs),
        "recipe": _setting(node).fingerprint() if node.recipe else "",
        "num_labels": node.num_labels,
        "keep_blocks": node.keep_blocks,
        "subset": node.subset,
        "machine": hardware() | {"commit": environment()["commit"]},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def folder_bytes(folder: Path) -> int:
    """Total size of the files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else 0
