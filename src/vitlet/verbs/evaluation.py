"""Commands that measure."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vitlet.arguments import AtLeastOne, Device, Pool, Whole, existing_data, existing_source


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
    existing_data(data)
    from vitlet.jobs.evaluation import probe as job
    from vitlet.jobs.options import require_layers

    require_layers(protocol, layers)
    job(start, data=data, protocol=protocol, pool=pool, layers=layers)


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
    existing_data(data)
    for encoder in encoders:
        if encoder != "random":
            existing_source(encoder)
    from vitlet.jobs.analysing import Look
    from vitlet.jobs.analysing import analyse as job
    from vitlet.jobs.options import Options

    look = Look(images=images, seed=seed, published=published)
    job(encoders, data=data, out=out, look=look, options=Options(workers=workers, device=device))


def bench(what: Literal["step", "input", "attention", "analyse", "export"], *, json: Path | None = None) -> None:
    """Time a training step or the input pipeline against plain references: ratios, interleaved, one thread.

    Parameters
    ----------
    what: `step`: training steps of ViT-Tiny at 224 px; `input`: JPEG to tensor; `attention`: explicit beside fused;
        `analyse`: CKA and attention statistics; `export`: ViT-Tiny in ONNX Runtime and OpenVINO beside timm.
    json: Where to write the figures.
    """
    from vitlet.jobs.benching import bench as job

    job(what, out=json)
