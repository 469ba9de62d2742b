"""Commands that use, show or import a finished model."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vitlet.arguments import AtLeastOne, Looking, Reading, existing_data, existing_source
from vitlet.choices import ExportTarget, KnownPixels, Pool
from vitlet.disk import existing
from vitlet.errors import UsageError
from vitlet.text import printable
from vitlet.verbs.files import require_free
from vitlet.verbs.images import require_images


def embed(run: str, *, data: Path, out: Path, pool: Pool = "mean", looking: Looking | None = None) -> None:
    """Write one feature vector per image to a Parquet file.

    Args:
        run: A finished run, a model folder or timm:NAME@FILE.
        data: Images.
        out: The Parquet file.
        pool: Mean of the patch tokens, or the class token.
    """
    start = existing_source(run)
    existing_data(data)
    require_free("features", out)
    options = (looking or Looking()).options()
    require_images(data, follow_outside=options.follow_outside)
    from vitlet.jobs.evaluation import embed as job

    job(start, data=data, out=out, pool=pool, options=options)


def predict(run: Path, *, data: Path, out: Path, looking: Looking | None = None) -> None:
    """Write the predicted class of every image to a CSV file.

    Args:
        run: A fine-tuned run or a model folder with a classifier.
        data: Images.
        out: The CSV file.
    """
    existing_source(str(run))
    existing_data(data)
    require_free("predictions", out)
    from vitlet.weights.files import require_classifier

    require_classifier(run, then="predict with NEW")
    options = (looking or Looking()).options()
    require_images(data, follow_outside=options.follow_outside)
    from vitlet.jobs.evaluation import predict as job

    job(run, data=data, out=out, options=options)


def export(
    run: str,
    *,
    out: Path,
    to: ExportTarget = "timm",
    images: Path | None = None,
    int8: Annotated[bool, Parameter(negative="")] = False,
    embed_preprocessing: Annotated[bool, Parameter(negative="")] = False,
    reading: Reading | None = None,
) -> None:
    """Write a finished model for another library, and verify on images that it computes the same there.

    Args:
        run: A finished run, a model folder or timm:NAME@FILE.
        out: The folder. Nothing is written to it if the verification fails.
        to: The library to export for.
        images: 256 or more images to compare on (for a detector 64 or more), held-out ones first; by default the
            embedded digits.
        int8: Quantise products to 8 bits, calibrated on other images of the set; for onnx and openvino.
        embed_preprocessing: Make the model take bytes and standardise them itself; not for timm.
    """
    start = existing_source(run)
    if images is not None:
        existing_data(images)
    from vitlet.weights.files import EXPORTED, require_replaceable
    from vitlet.weights.form import Form

    form = Form(to, int8, embed_preprocessing)
    form.require_possible()
    form.require_fit(start)
    require_replaceable(out, files=EXPORTED)
    options = (reading or Reading()).options()
    if images is not None:
        require_images(images, follow_outside=options.follow_outside)
    from vitlet.jobs.exporting import export as job

    job(start, out=out, to=to, images=images, int8=int8, embed_preprocessing=embed_preprocessing, options=options)


def push(
    run: str,
    to: str,
    *,
    images: Path | None = None,
    private: Annotated[bool, Parameter(negative="")] = False,
    reading: Reading | None = None,
) -> None:
    """Upload a finished model to a hub, in timm's format. No other command uploads a model.

    Args:
        run: A finished run, a model folder or timm:NAME@FILE.
        to: hf://USER/NAME.
        images: 256 or more images to verify it on before the upload; by default the embedded digits.
        private: Make a new repository private, and upload to no public one.
    """
    start = existing_source(run)
    if images is not None:
        existing_data(images)
    from vitlet.weights.form import Form
    from vitlet.weights.hub import HubName

    HubName.parse(to)
    Form().require_fit(start)
    options = (reading or Reading()).options()
    if images is not None:
        require_images(images, follow_outside=options.follow_outside)
    from vitlet.jobs.pushing import push as job

    job(start, to=to, images=images, private=private, options=options)


def import_(
    file: Path,
    *,
    out: Path,
    heads: AtLeastOne | None = None,
    image_size: AtLeastOne | None = None,
    allow_partial: Annotated[bool, Parameter(negative="")] = False,
    prefix: str | None = None,
    pixels: KnownPixels | None = None,
    entry: str | None = None,
) -> None:
    """Import a vision transformer from another library as a model folder, and report what became of every tensor.

    Args:
        file: .safetensors, .pth, .pth.tar, .pt or .bin of timm, MAE, MAE-Lite, MoCo-v3, DINO or Hugging Face.
        out: The folder.
        heads: Number of heads, if the file does not determine it.
        image_size: Resize the position embedding to images of this side in pixels.
        allow_partial: Accept an incomplete encoder.
        prefix: Which network to import, if the file has several.
        pixels: Pixel normalisation, if the file does not determine it: ImageNet's, or 0.5 and 0.5.
        entry: Which weights to import, if the file has several for one network, such as model_ema.
    """
    existing(file)
    from vitlet.weights.files import importable, require_replaceable

    importable(file)
    require_replaceable(out)
    from vitlet.jobs.importing import import_weights as job

    job(
        file,
        out=out,
        heads=heads,
        image_size=image_size,
        allow_partial=allow_partial,
        prefix=prefix,
        pixels=pixels,
        entry=entry,
    )


def report(*runs: Path, out: Path) -> None:
    """Write one self-contained page about one or several runs, or about a replication.

    Args:
        runs: Run directories, or one replication.json, from an --out of reproduce or from the ledger.
        out: The HTML file.
    """
    from vitlet.run import Run

    if not runs:
        raise UsageError("no run given", fix="vitlet report RUN --out FILE.html")
    require_free("page", out)
    if len(runs) == 1 and runs[0].suffix == ".json":
        existing(runs[0])
    else:
        for run in runs:
            Run.open(run)
    from vitlet.jobs.reporting import report as job

    job(runs, out=out)


def detect(run: Path, *, data: Path, out: Path, pictures: Path | None = None, looking: Looking | None = None) -> None:
    """Detect objects in images and write them as a COCO results file.

    Args:
        run: A finished run of a detection recipe.
        data: Images, annotated or not.
        out: The JSON file.
        pictures: A folder for copies of the images with boxes and masks drawn on them.
    """
    from vitlet.jobs.options import require_detector
    from vitlet.recipes import from_json
    from vitlet.run import Run

    opened = Run.open(run)
    existing_data(data)
    require_free("objects", out)
    require_detector(from_json(opened.recipe_json(), where=printable(opened.recipe_file)), opened)
    options = (looking or Looking()).options()
    require_images(data, follow_outside=options.follow_outside)
    from vitlet.jobs.detecting import detect as job

    job(run, data=data, out=out, pictures=pictures, options=options)
