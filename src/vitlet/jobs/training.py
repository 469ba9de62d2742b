"""Pre-training, fine-tuning and resuming: one assembly for all three."""

import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import Unpack

import torch

from vitlet.data.choice import Subset
from vitlet.data.index import Index, open_index
from vitlet.data.loader import TrainingBatches
from vitlet.data.names import absolute_data
from vitlet.errors import CheckpointError, DataError, UsageError
from vitlet.jobs.detecting import finish_detection
from vitlet.jobs.material import (
    Launch,
    Material,
    classes_of,
    describe,
    gather_material,
    pick_device,
    start_encoder,
)
from vitlet.jobs.options import Flags, Options, overrides, require_start, require_uncut, require_verb
from vitlet.jobs.outcome import finish_pretraining, finish_supervised, model_facts, write_encoder
from vitlet.jobs.probes import looks
from vitlet.jobs.steps import in_steps
from vitlet.methods.detection import Detection
from vitlet.methods.objective import Objective
from vitlet.methods.supervised import Supervised
from vitlet.nn.kernels import has_bf16, onednn_is_exact, routed_to_onednn
from vitlet.recipe import Recipe
from vitlet.recipes import by_name, from_json, with_overrides
from vitlet.run import Run, environment, read_json, remove_folder, sweep, write_json
from vitlet.text import plural, printable
from vitlet.train import checkpoint
from vitlet.train.log import MetricsLog, Teller
from vitlet.train.loop import Writer, train
from vitlet.train.optim import build_optimizer, lr_schedule
from vitlet.train.ranks import World
from vitlet.train.trackers import require_installed
from vitlet.weights.names import Source
from vitlet.weights.source import facts_of


def pretrain(
    recipe: str | Recipe,
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    init: str | os.PathLike[str] | None = None,
    subset: str | None = None,
    options: Options | None = None,
    **flags: Unpack[Flags],
) -> Run:
    """Pre-train an encoder on images, labels unseen.

    Args:
        recipe: A name of `vitlet recipes`, or a value.
        data: Folder, manifest or Parquet.
        out: The run directory; an unfinished run of the same recipe in it is resumed.
        init: A run or model folder to start from; None starts from random weights.
        subset: Use only a part of the training images, see `vitlet.data.choice`; the seed decides which.
        options: What does not change the numbers.
        **flags: `epochs`, `batch_size`, `seed`, `precision`, and `set` for dotted keys.

    Returns:
        The finished run.

    Raises:
        VitletError: of the kinds that `vitlet.errors` lists.
    """
    asked = resolved(recipe, flags)
    require_verb(asked, "pretrain")
    part = None if subset is None else str(Subset.parse(subset))
    launch = Launch("pretrain", asked.fingerprint(), absolute_data(data), _start_of(init), subset=part)
    return _start(asked, launch, Run(Path(out)), options or Options())


def finetune(
    recipe: str | Recipe,
    *,
    init: str | os.PathLike[str] | None,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    num_labels: int | None = None,
    keep_blocks: int | None = None,
    subset: str | None = None,
    hold_out: bool = False,
    options: Options | None = None,
    **flags: Unpack[Flags],
) -> Run:
    """Train a classifier on labelled images, or a detector on images with boxes, from an encoder or random weights.

    Args:
        recipe: A recipe of supervised training or of detection.
        init: A run or model folder whose encoder is the start; None trains from scratch.
        data: Folder, manifest or Parquet with labels; for a detector COCO's or Roboflow's annotations.
        out: The run directory.
        num_labels: Use only so many training labels, balanced over classes; the seed decides which.
        keep_blocks: Take only the patch embedding, the tokens and so many of the lowest blocks from `init`; 0 takes
            nothing but the shape.
        subset: As for `pretrain`; `num_labels` are then taken from it.
        hold_out: Train without a part of the training images and count on that, so that the choice among settings
            leaves the test images alone.
        options: What does not change the numbers.
        **flags: As for `pretrain`.

    Returns:
        The finished run, its accuracy or its APs in `results/`.
    """
    asked = resolved(recipe, flags)
    require_verb(asked, "finetune")
    require_start(init, keep_blocks)
    part = None if subset is None else str(Subset.parse(subset))
    data, start = absolute_data(data), _start_of(init)
    launch = Launch("finetune", asked.fingerprint(), data, start, num_labels, keep_blocks, part, hold_out)
    return _start(asked, launch, Run(Path(out)), options or Options())


def resume(path: str | os.PathLike[str], *, options: Options | None = None) -> Run:
    """Go on with an interrupted run from its latest valid checkpoint; a finished run is left as it is."""
    run = Run.open(path)
    recipe = from_json(run.recipe_json(), where=printable(run.recipe_file))
    launch = Launch(**read_json(run.path / "environment.json")["launch"])
    return _execute(recipe, launch, run, options or Options())


def resolved(recipe: str | Recipe, flags: Flags) -> Recipe:
    """The recipe with the flags applied."""
    base = by_name(recipe) if isinstance(recipe, str) else recipe
    return with_overrides(base, overrides(flags))


def _start_of(init: str | os.PathLike[str] | None) -> str | None:
    return None if init is None else str(Source.parse(init).absolute())


def _start(recipe: Recipe, launch: Launch, run: Run, options: Options) -> Run:
    """Begin a run, or go on with the one that stands in its folder."""
    recipe = _possible_here(recipe, options)
    if run.path.is_dir() and not run.recipe_file.is_file() and any(p.name != ".lock" for p in run.path.iterdir()):
        raise UsageError(
            f"{printable(run.path)} is not empty and not a run", fix="give --out a new folder; nothing was changed"
        )
    if run.recipe_file.is_file() and not options.fresh:
        _require_same(run, launch)
    return _execute(recipe, launch, run, options, fresh=options.fresh)


def _require_same(run: Run, launch: Launch) -> None:
    here, there = dataclasses.asdict(launch), read_json(run.path / "environment.json").get("launch", {})
    changed = [key for key in here if there.get(key) != here[key]]
    if changed:
        raise UsageError(
            f"{printable(run.path)} holds another run",
            why=f"{', '.join(changed)} differ: {', '.join(printable(str(there.get(k))) for k in changed)} there",
            fix="--fresh to replace it, another --out to keep both, or vitlet resume RUN to go on with it",
        )


def _possible_here(recipe: Recipe, options: Options) -> Recipe:
    """The recipe in a precision that the device has in hardware; anything else is said."""
    device = pick_device(options)
    precision = recipe.budget.precision
    if (precision == "bf16" and not has_bf16(device)) or (precision == "fp16" and device.type != "cuda"):
        Teller(quiet=options.quiet).say(f"note: this {device.type} has no fast {precision}; training in fp32 instead.")
        return recipe.changed(budget=recipe.budget.changed(precision="fp32"))
    return recipe


def _execute(recipe: Recipe, launch: Launch, run: Run, options: Options, *, fresh: bool = False) -> Run:
    require_uncut(recipe, options)
    world = World.join()
    try:
        if fresh and world.is_first and run.recipe_file.is_file():
            with run.lock():
                pass  # nobody else is writing it
            remove_folder(run.path)
        world.wait()  # or another rank would still find the old run
        with run.lock() if world.is_first else contextlib.nullcontext():
            _train(recipe, launch, run, options, world)
    finally:
        world.leave()
    return run


def _train(recipe: Recipe, launch: Launch, run: Run, options: Options, world: World) -> None:
    began, cpu_began = time.monotonic(), time.process_time()
    require_installed(options.log)
    teller = Teller(run if world.is_first else None, quiet=options.quiet or not world.is_first)
    with world.one_first():
        index = open_index(launch.data)
    if _is_finished(run, index, options):
        Teller(quiet=teller.console.quiet).say(f"{printable(run.path)} is finished and stays as it is")
        return
    encoder, recipe = start_encoder(recipe, launch)
    seed = recipe.budget.seed
    # Before any image is read, so that whatever the method refuses (a teacher, a layer, a ratio) is refused at once.
    num_classes = len(classes_of(index, recipe))
    objective = recipe.objective.build(encoder, num_classes=num_classes, seed=seed).to(pick_device(options))
    with world.one_first():
        material = gather_material(index, recipe, launch, options, teller)
    world.require_same(describe(index, material.verdicts), of="images")
    batches = TrainingBatches(
        index=material.index,
        ids=material.ids,
        views=recipe.data.views,
        batch_size=recipe.budget.batch_size,
        seed=seed,
        workers=options.num_workers(image_size=recipe.encoder.image_size),
        rank=world.rank,
        num_ranks=world.size,
        objects=material.objects(recipe),
    )
    budget, probe_every, warmup = in_steps(recipe, material, options)
    optimizer = build_optimizer(objective, recipe.optimizer, depth=recipe.encoder.depth)
    start, offset = _restored(run, recipe, material, objective, optimizer, options, teller)
    if world.is_first:
        _describe(run, recipe, launch)
        write_json(run.path / "data_check.json", material.check())
        sweep(run.checkpoints)
    facts = {"recipe": recipe.fingerprint(), "data": material.index.fingerprint, "images": len(material.ids)}
    log = MetricsLog(run, offset=offset, trackers=options.log if world.is_first else ())
    writer = Writer(run=run, metrics=log, teller=teller, world=world, facts=facts)
    known = model_facts(run, recipe, material) if world.is_first else None
    probes = looks(run, recipe, material, every=probe_every, facts=known)
    if start < budget.total_steps:
        teller.say(
            f"{launch.verb} {recipe.name}: {plural(len(material.ids), 'image')}, "
            f"{plural(budget.total_steps - start, 'step')} of {recipe.budget.batch_size}, seed {seed}, "
            f"{sum(p.numel() for p in objective.parameters()):,} parameters"
        )
    schedule = lr_schedule(
        recipe.optimizer, batch_size=recipe.budget.batch_size, warmup=warmup, total=budget.total_steps
    )
    on_cpu = next(objective.parameters()).device.type == "cpu"
    with routed_to_onednn(on_cpu and onednn_is_exact()):
        train(
            objective,
            batches=batches,
            optimizer=optimizer,
            schedule=schedule,
            budget=budget,
            writer=writer,
            probes=probes,
            start=start,
        )
    writer.metrics.close()
    if world.is_first:
        cost = {"wall_seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu_began}
        _finish(run, recipe, launch, material, objective, teller, cost)


def _is_finished(run: Run, index: Index, options: Options) -> bool:
    """Whether the run needs nothing more; what its checkpoints were needed for may be gone by then.

    Raises:
        DataError: if it was trained on other data than stands there now.
    """
    started = read_json(run.path / "environment.json") if run.recipe_file.is_file() else {}
    if not {"finished", "data"} <= started.keys():
        return False
    _require_same_data(index, started["data"], options)
    return True


def _require_same_data(index: Index, fingerprint: str, options: Options) -> None:
    if fingerprint != index.fingerprint and not options.accept_data_change:
        raise DataError(
            f"{index.name} has changed since the run began",
            why="Names, sizes, labels or splits of its images are not the same",
            fix="restore the images, or go on with --accept-data-change",
        )


def _restored(
    run: Run,
    recipe: Recipe,
    material: Material,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    options: Options,
    teller: Teller,
) -> tuple[int, int]:
    """(step to go on from, bytes of metrics to keep); (0, 0) for a new run."""
    found, passed = checkpoint.latest(run)
    for sentence in passed:
        teller.say(f"warning: {sentence} Going on from an earlier checkpoint.")
    if found is None:
        return 0, 0
    if found.manifest["recipe"] != recipe.fingerprint():
        raise CheckpointError(
            f"checkpoint {printable(found.path)} belongs to another recipe",
            why=f"its fingerprint is {found.manifest['recipe']}, recipe.json gives {recipe.fingerprint()}",
            fix="restore recipe.json, or start anew with --fresh",
        )
    _require_same_data(material.index, found.manifest["data"], options)
    checkpoint.restore(found, objective=objective, optimizer=optimizer)
    teller.say(f"resuming {printable(run.path)} after step {found.step}")
    return found.step, found.manifest["metrics_bytes"]


def _describe(run: Run, recipe: Recipe, launch: Launch) -> None:
    if run.recipe_file.is_file():
        return
    init = {"init": facts_of(launch.init)} if launch.init else {}  # now: at the end it may be gone
    write_json(
        run.path / "environment.json",
        environment(command=launch.command(run.path)) | {"launch": dataclasses.asdict(launch)} | init,
    )
    write_json(run.recipe_file, recipe.to_json())  # last: a folder with a recipe is a run


def _finish(
    run: Run,
    recipe: Recipe,
    launch: Launch,
    material: Material,
    objective: Objective,
    teller: Teller,
    cost: dict[str, float],
) -> None:
    objective.eval()
    if isinstance(objective, Supervised):
        finish_supervised(run, recipe, material, objective, teller=teller)
    elif isinstance(objective, Detection):
        facts = write_encoder(run, recipe, material, objective)
        finish_detection(run, recipe, material, objective, facts=facts, teller=teller)
    else:
        finish_pretraining(run, recipe, material, objective)
    # Last: what is called finished has its model and its numbers.
    now = {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "data": material.index.fingerprint}
    write_json(run.path / "environment.json", read_json(run.path / "environment.json") | now | cost)
