"""Assembly of one training run: data, network, optimizer and loop, in a run directory that can be resumed."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from vitlet.console import Teller
from vitlet.data.classes import classes_of
from vitlet.data.index import Index
from vitlet.data.loader import TrainingBatches
from vitlet.disk import remove_folder, sweep, write_json
from vitlet.distributed.world import World, is_restart
from vitlet.environment import write_begun, write_finished, write_started_again
from vitlet.errors import CheckpointError, DataError
from vitlet.jobs.attempts import remember, require_begun_here
from vitlet.jobs.detecting import finish_detection
from vitlet.jobs.images import described, opened
from vitlet.jobs.launch import Launch
from vitlet.jobs.left_out import known_left_out, record_left_out
from vitlet.jobs.material import (
    Material,
    gather_material,
    pick_device,
    start_encoder,
)
from vitlet.jobs.options import Options, require_uncut
from vitlet.jobs.outcome import finish_pretraining, finish_supervised, model_facts, write_encoder
from vitlet.jobs.probes import looks
from vitlet.jobs.steps import in_steps
from vitlet.methods.detection import Detection
from vitlet.methods.objective import Objective
from vitlet.methods.supervised import Supervised
from vitlet.nn.kernels import onednn_is_exact, routed_to_onednn
from vitlet.recipe import Recipe
from vitlet.run import Run
from vitlet.text import plural, printable
from vitlet.train import checkpoint
from vitlet.train.checkpoint import Checkpoint
from vitlet.train.clock import Clock
from vitlet.train.log import MetricsLog
from vitlet.train.loop import Writer, train
from vitlet.train.optim import build_optimizer, schedule_of
from vitlet.train.trackers import require_installed
from vitlet.weights.content import require_same_teacher
from vitlet.weights.source import facts_of
from vitlet.weights.teacher import require_same_classes


def execute(recipe: Recipe, launch: Launch, run: Run, options: Options, *, fresh: bool = False) -> Run:
    """Train to the end in the run's folder, from its latest checkpoint if there is one.

    Args:
        recipe: The recipe with its resolved values.
        launch: Everything else that decides the result.
        run: The folder; locked during training.
        options: Settings that do not change the numbers.
        fresh: Empty the folder first, unless its content is from an earlier attempt of this torchrun job.

    Raises:
        VitletError: of the kinds that `vitlet.errors` lists.
    """
    with World.joined(pick_device(options)) as world:
        require_uncut(recipe, options, num_ranks=world.size)
        require_begun_here(run, world)
        if fresh and world.is_first and run.recipe_file.is_file() and not is_restart():
            with run.lock():
                pass  # no other process is writing to it
            remove_folder(run.path)
        world.barrier(patient=True)  # otherwise another rank could still find the old run
        with run.lock() if world.is_first else contextlib.nullcontext():
            _train(recipe, launch, run, options, world)
        world.barrier(patient=True)  # the first rank writes the model last, which the others may read
    return run


def _train(recipe: Recipe, launch: Launch, run: Run, options: Options, world: World) -> None:
    require_installed(options.log)
    clock = Clock()
    teller = Teller(run if world.is_first else None, quiet=options.quiet)
    terminal = Teller(quiet=teller.console.quiet)  # a refused run must leave no log, and a finished one's stays
    index = opened(launch.data, options, terminal)
    if world.max(int(world.is_first and _is_finished(run, index, options))):
        terminal.say(f"{printable(run.path)} is finished and stays as it is")
        return
    encoder, recipe, note = start_encoder(recipe, launch)
    seed = recipe.budget.seed
    # Before any image is read, so that whatever the method refuses (a teacher, a layer, a ratio) is refused at once.
    classes = classes_of(index, recipe)
    require_same_teacher(recipe.objective, launch.teacher)
    objective = recipe.objective.build(encoder, num_classes=len(classes), seed=seed).to(pick_device(options))
    notes = [*index.notes, note, _same_classes(recipe, objective, classes)]
    left_out = known_left_out(run, index, options, world)
    material = gather_material(index, recipe, launch, options, teller, left_out=left_out)
    seen = described(index, material.verdicts)
    told = f"{seen}, recipe {recipe.fingerprint()}, start {launch.start} {launch.teacher}"
    world.require_same(told, of="images or weights")
    batches = TrainingBatches(
        index=material.index,
        ids=material.ids,
        views=recipe.data.views,
        batch_size=recipe.budget.batch_size,
        seed=seed,
        workers=material.workers,
        rank=world.rank,
        num_ranks=world.size,
        objects=material.objects(recipe),
        normalisation=recipe.data.normalisation,
    )
    budget, probe_every, warmup = in_steps(recipe, material, options)
    optimizer = build_optimizer(objective, recipe.optimizer, depth=recipe.encoder.depth)
    found = _resumable(run, recipe, material, options, teller, world)
    start = found.step if found else 0
    clock.before = found.manifest.get("cost", {}) if found and world.is_first else {}
    if found:
        checkpoint.restore(found, objective=objective, optimizer=optimizer)
        teller.say(f"resuming {printable(run.path)} after step {start}")
    if world.is_first:
        _describe(run, recipe, launch, material, options)
        write_json(run.path / "data_check.json", material.check())
        sweep(run.checkpoints)
    remember(run, world)
    facts = {"recipe": recipe.fingerprint(), "data": material.index.fingerprint, "images": _rows_of(material)}
    known = model_facts(run, recipe, material) if world.is_first else None
    probes = looks(run, recipe, material, every=probe_every, facts=known)
    if start < budget.total_steps:
        teller.say(
            f"{launch.verb} {recipe.name}: {plural(len(material.ids), 'image')}, "
            f"{plural(budget.total_steps - start, 'step')} of {recipe.budget.batch_size}, seed {seed}, "
            f"{sum(p.numel() for p in objective.parameters()):,} parameters"
        )
    if not found:
        for sentence in filter(None, notes):
            teller.say(f"note: {sentence}")
    if not budget.total_steps:
        teller.say(f"note: {launch.verb} of 0 steps: nothing is trained, and the encoder is as it began")
    schedule = schedule_of(
        recipe.optimizer, batch_size=recipe.budget.batch_size, warmup=warmup, total=budget.total_steps
    )
    on_cpu = next(objective.parameters()).device.type == "cpu"
    with _metrics(run, found, options, world) as metrics:  # trackers hear how all of it ended
        with routed_to_onednn(on_cpu and onednn_is_exact()):
            train(
                objective,
                batches=batches,
                optimizer=optimizer,
                schedule=schedule,
                budget=budget,
                writer=Writer(run=run, metrics=metrics, teller=teller, world=world, facts=facts, clock=clock),
                probes=probes,
                resumed=found,
            )
        clock.meet(world)
        if world.is_first:
            _finish(run, recipe, launch, material, objective, teller)
            # Last, so that a run marked as finished has its model and its results.
            write_finished(run.path, data=material.index.fingerprint, spent=clock.spent())


def _same_classes(recipe: Recipe, objective: Objective, classes: tuple[str, ...]) -> str:
    """Return a note if the classes of a teacher's predictions cannot be compared with the data's; refuse others."""
    tutor = objective.tutor if isinstance(objective, Supervised) else None
    if tutor is None:
        return ""
    return require_same_classes(tutor.classes, classes, source=recipe.objective.teacher_source or "")


def _is_finished(run: Run, index: Index, options: Options) -> bool:
    """Return whether the run is finished; its checkpoints and its start may be gone by then.

    Raises:
        DataError: if the data has changed since it was trained.
    """
    if not run.is_finished:
        return False
    _require_same_data(index, run.environment.data, options)
    return True


def _require_same_data(index: Index, fingerprint: str, options: Options) -> None:
    if fingerprint != index.fingerprint and not options.accept_data_change:
        raise DataError(
            f"{index.name} has changed since the run began",
            why="Names, sizes, labels or splits of its images are not the same",
            fix="restore the images, or go on with --accept-data-change",
        )


def _resumable(
    run: Run, recipe: Recipe, material: Material, options: Options, teller: Teller, world: World
) -> Checkpoint | None:
    """Return the checkpoint to resume from; None for a new run."""
    found, passed = checkpoint.latest(run, world=world)
    for sentence in passed:
        teller.say(f"warning: {sentence} Going on from an earlier checkpoint.")
    if found is None:
        return None
    if found.manifest["recipe"] != recipe.fingerprint():
        raise CheckpointError(
            f"checkpoint {printable(found.path)} belongs to another recipe",
            why=f"its fingerprint is {found.manifest['recipe']}, recipe.json gives {recipe.fingerprint()}",
            fix="restore recipe.json, or give the command that began the run again, with --fresh",
        )
    _require_same_data(material.index, found.manifest["data"], options)
    _require_same_rows(material, found.manifest["images"], options, teller)
    return found


def _rows_of(material: Material) -> dict[str, Any]:
    """Number and digest of the rows trained on, which decide order and steps, and of those held out."""
    return {
        name: {"count": len(rows), "sha256": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()}
        for name, rows in (("training", material.ids), ("held-out", material.held_out))
    }


def _require_same_rows(material: Material, before: Mapping[str, Any], options: Options, teller: Teller) -> None:
    """Refuse to go on with other images: of the same files, some that were used may be unreadable now.

    Raises:
        DataError: with the numbers before and now.
    """
    now = _rows_of(material)
    others = [
        f"{plural(before[name]['count'], f'{name} image')} before, {rows['count']:,} now"
        for name, rows in now.items()
        if rows != before[name]
    ]
    if others and not options.accept_data_change:
        raise DataError(
            f"{material.index.name} has other usable images than when the run began",
            why="; ".join(others),
            fix="vitlet check DATA names those that are not; restore them, or go on with --accept-data-change",
        )
    if others:
        teller.say(f"note: going on with other images: {'; '.join(others)}")


@contextlib.contextmanager
def _metrics(run: Run, resumed: Checkpoint | None, options: Options, world: World) -> Iterator[MetricsLog | None]:
    """Open the metrics log on the first rank; it is always closed, so that every tracker hears how the run ended."""
    if not world.is_first:
        yield None
        return
    offset = resumed.manifest["metrics_bytes"] if resumed else 0
    with MetricsLog(run, offset=offset, trackers=options.log) as log:
        yield log


def _describe(run: Run, recipe: Recipe, launch: Launch, material: Material, options: Options) -> None:
    """Write down what the run is, once, and with which options it was last started."""
    if run.recipe_file.is_file():
        write_started_again(run.path, options=options.kept())
        record_left_out(run, material.index, material.verdicts.good)
        return
    write_begun(
        run.path,
        command=launch.command(run.path),
        launch=dataclasses.asdict(launch),
        options=options.kept(),
        init=facts_of(launch.init) if launch.init else None,  # read now, as it may be gone at the end
    )
    record_left_out(run, material.index, material.verdicts.good)
    write_json(run.recipe_file, recipe.to_json())  # last: a folder with a recipe is a run


def _finish(
    run: Run,
    recipe: Recipe,
    launch: Launch,
    material: Material,
    objective: Objective,
    teller: Teller,
) -> None:
    objective.eval()
    if isinstance(objective, Supervised):
        finish_supervised(run, recipe, material, objective, teller=teller)
    elif isinstance(objective, Detection):
        facts = write_encoder(run, recipe, material, objective)
        finish_detection(run, recipe, material, objective, facts=facts, teller=teller)
    else:
        finish_pretraining(run, recipe, material, objective)
