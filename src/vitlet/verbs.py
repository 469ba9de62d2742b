"""The verbs of the command line: each reads its words, refuses what it can, and calls the job of the same name."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console

from vitlet.arguments import (
    AtLeastOne,
    Device,
    Pool,
    Share,
    Shared,
    Whole,
    chosen_recipe,
    existing,
    existing_source,
)
from vitlet.errors import UsageError
from vitlet.text import printable

app = App(
    name="vitlet",
    help="Small vision transformers, pre-trained on your own images.",
    help_format="plaintext",
    result_action="return_value",
    help_epilogue="Every command takes --debug, which shows where an error comes from.",
)


@app.command
def demo(
    *,
    data: Path | None = None,
    out: Path = Path("demo-run"),
    seeds: AtLeastOne = 3,
    num_labels: AtLeastOne | None = None,
) -> None:
    """Show the whole job: pre-train on images, fine-tune with few labels from there and from scratch, write a page.

    Parameters
    ----------
    data: Your images; by default 5,000 scanned digits that a Python package carries.
    out: Where runs and page go.
    seeds: Repetitions of the comparison.
    num_labels: Training labels of the comparison; by default twenty a class.
    """
    source = None if data is None else existing(data)
    from vitlet.jobs.demo import demo as job

    job(data=source, out=out, seeds=seeds, num_labels=num_labels)


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
def pretrain(recipe: str, *, data: Path, out: Path, init: str | None = None, shared: Shared | None = None) -> None:
    """Pre-train an encoder on images, labels unseen; an interrupted run in --out is resumed.

    Parameters
    ----------
    recipe: A name of `vitlet recipes`, or a recipe.json.
    data: Folder, CSV or Parquet manifest, or Hugging Face Parquet.
    out: The run directory.
    init: A run or model folder to start from, or timm:NAME@FILE.
    """
    shared = shared or Shared()
    chosen = chosen_recipe(recipe, shared, verb="pretrain")
    existing(data)
    start = None if init is None else existing_source(init)
    from vitlet.jobs.training import pretrain as job

    run = job(chosen, data=data, out=out, init=start, options=shared.options())
    _done(run.path, f"vitlet report {run.path} --out {run.path}/report.html")


@app.command
def finetune(
    recipe: str, *, init: str, data: Path, out: Path, num_labels: AtLeastOne | None = None, shared: Shared | None = None
) -> None:
    """Train a classifier on labelled images, from an encoder or from scratch.

    Parameters
    ----------
    recipe: A supervised recipe, or a recipe.json.
    init: A run or model folder, timm:NAME@FILE, or `none` for random weights.
    data: Labelled images.
    out: The run directory.
    num_labels: Use only so many training labels, balanced over classes.
    """
    shared = shared or Shared()
    chosen = chosen_recipe(recipe, shared, verb="finetune")
    existing(data)
    start = None if init == "none" else existing_source(init)
    from vitlet.jobs.training import finetune as job

    run = job(chosen, init=start, data=data, out=out, num_labels=num_labels, options=shared.options())
    _done(run.path, f"vitlet report {run.path} --out {run.path}/report.html")


@app.command
def resume(run: Path, *, workers: Whole | None = None, device: Device = "auto",
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
    run: str,
    *,
    data: Path,
    protocol: Literal["knn", "logistic", "linear", "linear-mae", "linear-moco"] = "knn",
    pool: Pool = "mean",
    layers: Literal["last", "all"] = "last",
) -> None:
    """Accuracy of a simple classifier on frozen features; the number also goes to RUN/results/.

    Parameters
    ----------
    run: A finished run, a model folder or timm:NAME@FILE.
    data: Labelled images.
    protocol: 20 nearest neighbours; logistic regression; a linear layer by 13 learning rates at once, or one
        by the published settings of MAE or MoCo-v3.
    pool: Mean of the patch tokens, or the class token.
    layers: With `linear`: one layer on every block's output, in the same pass, or on the last one's.
    """
    start = existing_source(run)
    existing(data)
    from vitlet.jobs.evaluation import probe as job
    from vitlet.jobs.options import require_layers

    require_layers(protocol, layers)
    job(start, data=data, protocol=protocol, pool=pool, layers=layers)


@app.command
def embed(run: str, *, data: Path, out: Path, pool: Pool = "mean") -> None:
    """Write one feature vector an image to a Parquet file.

    Parameters
    ----------
    run: A finished run, a model folder or timm:NAME@FILE.
    data: Images.
    out: The Parquet file.
    pool: Mean of the patch tokens, or the class token.
    """
    start = existing_source(run)
    existing(data)
    from vitlet.jobs.evaluation import embed as job

    job(start, data=data, out=out, pool=pool)


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


@app.command(name="import")
def import_(
    file: Path,
    *,
    out: Path,
    heads: AtLeastOne | None = None,
    image_size: AtLeastOne | None = None,
    allow_partial: Annotated[bool, Parameter(negative="")] = False,
    prefix: str | None = None,
    pixels: Literal["imagenet", "half"] | None = None,
) -> None:
    """Make a model folder of a vision transformer from elsewhere, and say what became of every tensor.

    Parameters
    ----------
    file: .safetensors, .pth, .pth.tar, .pt or .bin of timm, MAE, MAE-Lite, MoCo-v3, DINO or Hugging Face.
    out: The folder.
    heads: Number of heads, where the file does not tell.
    image_size: Resize positions to images of this side in pixels.
    allow_partial: Accept less than the whole encoder.
    prefix: Which network, where the file has several.
    pixels: Normalisation of pixels, where the file does not tell: ImageNet's, or 0.5 and 0.5.
    """
    existing(file)
    from vitlet.jobs.importing import import_weights as job

    job(file, out=out, heads=heads, image_size=image_size, allow_partial=allow_partial, prefix=prefix, pixels=pixels)


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
def analyse(
    *encoders: str,
    data: Path,
    out: Path,
    images: AtLeastOne = 1024,
    seed: Whole = 0,
    published: Annotated[bool, Parameter(negative="")] = False,
    workers: Whole | None = None,
    device: Device = "auto",
) -> None:
    """Look into encoders, layer by layer: CKA, attention, spectra, probes, weights, and what to try next.

    Parameters
    ----------
    encoders: Runs, model folders, timm:NAME@FILE, or `random` for untrained weights like the first.
    data: Images; with labels the layers are probed too.
    out: Folder for analysis/, figures/ and report.html.
    images: How many to look at, equally many of each class.
    seed: Decides which.
    published: The quirks of the paper's code: images in folder order, distances in units of 14 pixels.
    workers: Loader processes; by default as many as help.
    device: Where to compute.
    """
    existing(data)
    for encoder in encoders:
        if encoder != "random":
            existing_source(encoder)
    from vitlet.jobs.analysing import Look
    from vitlet.jobs.analysing import analyse as job
    from vitlet.jobs.options import Options

    look = Look(images=images, seed=seed, published=published)
    job(encoders, data=data, out=out, look=look, options=Options(workers=workers, device=device))


@app.command
def bench(what: Literal["step", "input", "analyse"], *, json: Path | None = None) -> None:
    """Time a training step or the input pipeline against plain references: ratios, interleaved, one thread.

    Parameters
    ----------
    what: `step`: MAE on ViT-Tiny at 224 px; `input`: JPEG to tensor; `analyse`: CKA and attention statistics.
    json: Where to write the figures.
    """
    from vitlet.jobs.benching import bench as job

    job(what, out=json)


def _done(path: Path, then: str) -> None:
    Console(highlight=False, soft_wrap=True).print(
        f"finished: {printable(path)}   next: {printable(then)}", markup=False
    )
