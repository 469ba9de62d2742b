"""The verbs of the command line: they read words, call the job of the same name, and turn errors into exit codes."""

import sys
import traceback
from pathlib import Path
from typing import Literal

from cyclopts import App, CycloptsError, UnknownOptionError
from rich.console import Console

from vitlet.arguments import AtLeastOne, Device, Pool, Share, Shared, chosen_recipe, existing, refuse_empty
from vitlet.errors import StoppedError, UsageError, VitletError
from vitlet.text import did_you_mean, printable

app = App(
    name="vitlet",
    help="Small vision transformers, pre-trained on your own images.",
    help_format="plaintext",
    help_epilogue="Every command takes --debug, which shows where an error comes from.",
)


@app.command
def demo(*, data: Path | None = None, out: Path = Path("demo-run"), seeds: AtLeastOne = 3) -> None:
    """Show the whole job: pre-train on images, fine-tune with few labels from there and from scratch, write a page.

    Parameters
    ----------
    data: Your images; by default 5,000 scanned digits that a Python package carries.
    out: Where runs and page go.
    seeds: Repetitions of the comparison.
    """
    from vitlet.jobs.demo import demo as job

    job(data=None if data is None else existing(data), out=out, seeds=seeds)


@app.command
def check(data: Path, *, out: Path | None = None, max_bad: Share = 0.01) -> None:
    """Decode every image once and report what is unreadable, odd, doubled, leaking or unbalanced.

    Parameters
    ----------
    data: Folder, CSV or Parquet manifest, or Hugging Face Parquet.
    out: Folder for data_check.json and bad_files.csv.
    max_bad: Share of unreadable images that passes.
    """
    existing(data)
    from vitlet.jobs.options import Options
    from vitlet.jobs.output import check_data

    check_data(data, out=out, options=Options(max_bad=max_bad))


@app.command
def recipes(name: str | None = None) -> None:
    """List the recipes, or show every effective value of one.

    Parameters
    ----------
    name: A recipe, or the recipe.json of a run.
    """
    from vitlet.recipes import all_recipes
    from vitlet.run import to_json_bytes

    out = Console(highlight=False, soft_wrap=True)
    if name is not None:
        recipe = chosen_recipe(name, Shared())
        out.print(all_recipes()[recipe.name].__doc__ or "", markup=False)
        out.print(to_json_bytes(recipe.to_json()).decode(), markup=False)
        return
    for known, function in all_recipes().items():
        out.print(f"{known:28}{(function.__doc__ or '').splitlines()[0]}", markup=False)


@app.command
def pretrain(recipe: str, *, data: Path, out: Path, init: Path | None = None, shared: Shared | None = None) -> None:
    """Pre-train an encoder on images, labels unseen; an interrupted run in --out is resumed.

    Parameters
    ----------
    recipe: A name of `vitlet recipes`, or a recipe.json.
    data: Folder, CSV or Parquet manifest, or Hugging Face Parquet.
    out: The run directory.
    init: A run or model folder to start from.
    """
    shared = shared or Shared()
    chosen = chosen_recipe(recipe, shared, verb="pretrain")
    existing(data)
    from vitlet.jobs.training import pretrain as job

    run = job(chosen, data=data, out=out, init=init, options=shared.options())
    _done(run.path, f"vitlet report {run.path} --out {run.path}/report.html")


@app.command
def finetune(
    recipe: str, *, init: str, data: Path, out: Path, num_labels: AtLeastOne | None = None, shared: Shared | None = None
) -> None:
    """Train a classifier on labelled images, from an encoder or from scratch.

    Parameters
    ----------
    recipe: A supervised recipe, or a recipe.json.
    init: A run or model folder, or `none` for random weights.
    data: Labelled images.
    out: The run directory.
    num_labels: Use only so many training labels, balanced over classes.
    """
    shared = shared or Shared()
    chosen = chosen_recipe(recipe, shared, verb="finetune")
    existing(data)
    start = None if init == "none" else existing(Path(init))
    from vitlet.jobs.training import finetune as job

    run = job(chosen, init=start, data=data, out=out, num_labels=num_labels, options=shared.options())
    _done(run.path, f"vitlet report {run.path} --out {run.path}/report.html")


@app.command
def resume(run: Path, *, workers: int | None = None, device: Device = "auto",
           accept_data_change: bool = False) -> None:  # fmt: skip
    """Go on with an interrupted run from its latest valid checkpoint.

    Parameters
    ----------
    run: The run directory.
    workers: Loader processes.
    device: Where to compute.
    accept_data_change: Go on although images were added, removed or changed.
    """
    from vitlet.run import Run

    Run.open(run)
    from vitlet.jobs.options import Options
    from vitlet.jobs.training import resume as job

    finished = job(run, options=Options(workers=workers, device=device, accept_data_change=accept_data_change))
    _done(finished.path, f"vitlet report {run} --out {run}/report.html")


@app.command
def probe(
    run: Path,
    *,
    data: Path,
    protocol: Literal["knn", "logistic"] = "knn",
    pool: Pool = "mean",
) -> None:
    """Accuracy of a simple classifier on frozen features; the number also goes to RUN/results/.

    Parameters
    ----------
    run: A finished run or a model folder.
    data: Labelled images.
    protocol: 20 nearest neighbours, or logistic regression.
    pool: Mean of the patch tokens, or the class token.
    """
    existing(run)
    existing(data)
    from vitlet.jobs.evaluation import probe as job

    job(run, data=data, protocol=protocol, pool=pool)


@app.command
def embed(run: Path, *, data: Path, out: Path, pool: Pool = "mean") -> None:
    """Write one feature vector an image to a Parquet file.

    Parameters
    ----------
    run: A finished run or a model folder.
    data: Images.
    out: The Parquet file.
    pool: Mean of the patch tokens, or the class token.
    """
    existing(run)
    existing(data)
    from vitlet.jobs.evaluation import embed as job

    job(run, data=data, out=out, pool=pool)


@app.command
def predict(run: Path, *, data: Path, out: Path) -> None:
    """Write the predicted class of every image to a CSV file.

    Parameters
    ----------
    run: A fine-tuned run or a model folder with a classifier.
    data: Images.
    out: The CSV file.
    """
    existing(run)
    existing(data)
    from vitlet.jobs.evaluation import predict as job

    job(run, data=data, out=out)


@app.command
def export(run: Path, *, out: Path) -> None:
    """Write the finished model as a folder that timm opens, and prove that it does.

    Parameters
    ----------
    run: A finished run.
    out: The folder.
    """
    existing(run)
    from vitlet.jobs.output import export as job

    job(run, out=out)


@app.command
def report(*runs: Path, out: Path) -> None:
    """Write one self-contained page about one or several runs.

    Parameters
    ----------
    runs: Run directories.
    out: The HTML file.
    """
    from vitlet.run import Run

    if not runs:
        raise UsageError("no run given", fix="vitlet report RUN --out FILE.html")
    for run in runs:
        Run.open(run)
    from vitlet.jobs.output import report as job

    job(runs, out=out)


@app.command
def bench(what: Literal["step", "input"], *, json: Path | None = None) -> None:
    """Time a training step or the input pipeline against plain references: ratios, interleaved, one thread.

    Parameters
    ----------
    what: `step`: MAE on ViT-Tiny at 224 px; `input`: JPEG to tensor.
    json: Where to write the figures.
    """
    from vitlet.jobs.benching import bench as job

    job(what, out=json)


def _done(path: Path, then: str) -> None:
    Console(highlight=False, soft_wrap=True).print(
        f"finished: {printable(path)}   next: {printable(then)}", markup=False
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code that `vitlet.errors` gives to each kind of error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    try:
        refuse_empty(words)
        app(words, exit_on_error=False, print_error=False)
    except BrokenPipeError:
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        message, code = _answer(error)
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {message}", markup=False)
        return code
    return 0


def _answer(error: BaseException) -> tuple[str, int]:
    """What to say about an error, and the exit code."""
    match error:
        case StoppedError():
            return str(error), error.exit_status
        case VitletError():
            return str(error), error.exit_code
        case CycloptsError():
            return _plain(error), 2
        case KeyboardInterrupt():
            return "interrupted; files on the disk are whole. Fix: vitlet resume RUN goes on", 130
        case _:
            text = printable(f"{type(error).__name__}: {error}".rstrip(": "))
            return f"{text}. This is a fault of vitlet. Fix: report it, with what --debug shows", 1


def _plain(error: CycloptsError) -> str:
    """A usage error on one line, with the way to help."""
    command = next((word for word in error.root_input_tokens or () if word in app), "")
    message = " ".join(printable(line.strip()) for line in str(error).splitlines())
    if isinstance(error, UnknownOptionError):
        wrong = error.token.keyword or error.token.value
        if not wrong.startswith("--"):  # cyclopts reads -seed as -s -e -e -d
            known = [name for argument in error.argument_collection for name in argument.names]
            message = f"Unknown option: {printable(wrong)}. {did_you_mean(f'-{wrong}', known)}"
    return f"{message} Fix: {' '.join(filter(None, ('vitlet', command, '--help')))}"


if __name__ == "__main__":
    sys.exit(main())
