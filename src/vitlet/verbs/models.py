"""Commands that use a finished model, show it, or bring one in."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vitlet.arguments import AtLeastOne, Looking, Pool, Reading, existing_data, existing_source
from vitlet.disk import existing
from vitlet.errors import UsageError
from vitlet.verbs.files import require_free


def embed(run: str, *, data: Path, out: Path, pool: Pool = "mean", looking: Looking | None = None) -> None:
    """Write one feature vector an image to a Parquet file.

    Args:
        run: A finished run, a model folder or timm:NAME@FILE.
        data: Images.
        out: The Parquet file.
        pool: Mean of the patch tokens, or the class token.
    """
    start = existing_source(run)
    existing_data(data)
    require_free("features", out)
    from vitlet.jobs.evaluation import embed as job

    job(start, data=data, out=out, pool=pool, options=(looking or Looking()).options())


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
    from vitlet.jobs.evaluation import predict as job

    job(run, data=data, out=out, options=(looking or Looking()).options())


def export(
    run: str,
    *,
    out: Path,
    to: Literal["timm", "onnx", "openvino", "torch-export"] = "timm",
    images: Path | None = None,
    int8: Annotated[bool, Parameter(negative="")] = False,
    embed_preprocessing: Annotated[bool, Parameter(negative="")] = False,
    reading: Reading | None = None,
) -> None:
    """Write the finished model for another library, and prove on images that it computes the same there.

    Args:
        run: A finished run, a model folder or timm:NAME@FILE.
        out: The folder. Nothing is there if the proof fails.
        to: Which library opens it.
        images: 256 or more to compare on, held-out ones first; without it the embedded digits.
        int8: Products in 8 bits, calibrated on others of the images; for onnx and openvino.
        embed_preprocessing: The model takes bytes and standardises them itself; not for timm.
    """
    start = existing_source(run)
    if images is not None:
        existing_data(images)
    from vitlet.weights.form import Form, require_no_detector

    Form(to, int8, embed_preprocessing).require_possible()
    require_no_detector(start)
    from vitlet.jobs.exporting import export as job

    options = (reading or Reading()).options()
    job(start, out=out, to=to, images=images, int8=int8, embed_preprocessing=embed_preprocessing, options=options)


def push(
    run: str,
    to: str,
    *,
    images: Path | None = None,
    private: Annotated[bool, Parameter(negative="")] = False,
    reading: Reading | None = None,
) -> None:
    """Upload the finished model, as timm opens it, to a hub. Nothing is uploaded by any other command.

    Args:
        run: A finished run, a model folder or timm:NAME@FILE.
        to: hf://USER/NAME.
        images: 256 or more to prove it on before it is uploaded; without it the embedded digits.
        private: Hide a new repository from others.
    """
    start = existing_source(run)
    if images is not None:
        existing_data(images)
    from vitlet.weights.form import require_no_detector
    from vitlet.weights.hub import HubName

    HubName.parse(to)
    require_no_detector(start)
    from vitlet.jobs.pushing import push as job

    job(start, to=to, images=images, private=private, options=(reading or Reading()).options())


def import_(
    file: Path,
    *,
    out: Path,
    heads: AtLeastOne | None = None,
    image_size: AtLeastOne | None = None,
    allow_partial: Annotated[bool, Parameter(negative="")] = False,
    prefix: str | None = None,
    pixels: Literal["imagenet", "half"] | None = None,
    entry: str | None = None,
) -> None:
    """Make a model folder of a vision transformer from elsewhere, and say what became of every tensor.

    Args:
        file: .safetensors, .pth, .pth.tar, .pt or .bin of timm, MAE, MAE-Lite, MoCo-v3, DINO or Hugging Face.
        out: The folder.
        heads: Number of heads, where the file does not tell.
        image_size: Resize positions to images of this side in pixels.
        allow_partial: Accept less than the whole encoder.
        prefix: Which network, where the file has several.
        pixels: Normalisation of pixels, where the file does not tell: ImageNet's, or 0.5 and 0.5.
        entry: Which weights, where the file has several of one network, such as model_ema.
    """
    existing(file)
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
        runs: Run directories, or one replication.json, of an --out of reproduce or of the ledger.
        out: The HTML file.
    """
    from vitlet.run import Run

    if not runs:
        raise UsageError("no run given", fix="vitlet report RUN --out FILE.html")
    require_free("page", out)
    if len(runs) == 1 and runs[0].suffix == ".json":
        existing(runs[0])
        from vitlet.jobs.output import report_replication

        report_replication(runs[0], out=out)
        return
    for run in runs:
        Run.open(run)
    from vitlet.jobs.output import report as job

    job(runs, out=out)


def detect(run: Path, *, data: Path, out: Path, pictures: Path | None = None, looking: Looking | None = None) -> None:
    """Find objects on images and write them as a COCO results file.

    Args:
        run: A finished run of a detection recipe.
        data: Images, annotated or not.
        out: The JSON file.
        pictures: A folder for the images with boxes and masks drawn into them.
    """
    from vitlet.run import Run

    Run.open(run)
    existing_data(data)
    require_free("objects", out)
    from vitlet.jobs.detecting import detect as job

    job(run, data=data, out=out, pictures=pictures, options=(looking or Looking()).options())
