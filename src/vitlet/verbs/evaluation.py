"""Commands that measure."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vitlet.arguments import AtLeastOne, Looking, Whole, existing_data, existing_source
from vitlet.choices import Device, EvaluationName, InferencePrecision, Layers, Pool, ProbeName
from vitlet.disk import existing
from vitlet.errors import UsageError
from vitlet.verbs.files import require_free
from vitlet.verbs.images import require_images


def probe(
    run: str,
    *,
    data: Path,
    protocol: ProbeName = "knn",
    pool: Pool = "mean",
    layers: Layers = "last",
    looking: Looking | None = None,
) -> None:
    """Measure the accuracy of a simple classifier on frozen features; also written to RUN/results/.

    Args:
        run: A finished run, a model folder or timm:NAME@FILE.
        data: Labelled images.
        protocol: 20 nearest neighbours; logistic regression; a linear layer trained at 13 learning rates at once, or
            with the published settings of MAE or MoCo-v3.
        pool: Mean of the patch tokens, or the class token.
        layers: With `linear`: train on the output of the last block only, or of every block in the same pass.
    """
    start = existing_source(run)
    existing_data(data)
    from vitlet.jobs.options import require_layers

    require_layers(protocol, layers)
    options = (looking or Looking()).options()
    require_images(data, follow_outside=options.follow_outside, labelled=True)
    from vitlet.jobs.evaluation import probe as job

    job(start, data=data, protocol=protocol, pool=pool, layers=layers, options=options)


def evaluate(
    run: str,
    *,
    data: Path,
    protocol: EvaluationName = "val",
    json: Path | None = None,
    looking: Looking | None = None,
) -> None:
    """Measure top-1 and top-5 of a finished classifier, each image once; also written to RUN/results/.

    Args:
        run: A fine-tuned run, a model folder with a classifier, or timm:NAME@FILE.
        data: Labelled images; if the data set has splits, test or val is used.
        protocol: `val`: the labels of the data; `real`: the ReaL labels of ImageNet's validation images; `v2`:
            ImageNet-V2, folders 0 to 999.
        json: Also write the result to this file.
    """
    start = existing_source(run)
    existing_data(data)
    require_free("figures", json, option="--json")
    from vitlet.weights.files import require_classifier

    require_classifier(start, then="evaluate NEW; or vitlet probe")
    options = (looking or Looking()).options()
    require_images(data, follow_outside=options.follow_outside)
    from vitlet.jobs.evaluating import evaluate as job

    job(start, data=data, protocol=protocol, json=json, options=options)


def analyse(
    *encoders: str,
    data: Path,
    out: Path,
    images: AtLeastOne = 1024,
    seed: Whole = 0,
    published: Annotated[bool, Parameter(negative="")] = False,
    looking: Looking | None = None,
) -> None:
    """Analyse encoders layer by layer: CKA, attention, spectra, probes, weights, and what to try next.

    Args:
        encoders: Runs, model folders, timm:NAME@FILE, or `random`: the first one's network with untrained weights;
            random:ENCODER for another's.
        data: Images; if labelled, the layers are also probed.
        out: Folder for analysis/, figures/ and report.html.
        images: Number of images to analyse, equally many per class.
        seed: Seed of their selection and of untrained weights.
        published: Reproduce quirks of the paper's code: images in folder order, a batch more of them, distances in
            units of 14 pixels, MAE's encoders without their final norm.
    """
    existing_data(data)
    for encoder in encoders:
        if encoder != "random":
            existing_source(encoder.removeprefix("random:"))
    options = (looking or Looking()).options()
    require_images(data, follow_outside=options.follow_outside)
    from vitlet.jobs.analysing import analyse as job

    job(encoders, data=data, out=out, images=images, seed=seed, published=published, options=options)


def study(
    *encoders: str,
    data: Path,
    out: Path,
    labels: tuple[AtLeastOne, ...] = (),
    seeds: AtLeastOne = 3,
    json: Path | None = None,
    looking: Looking | None = None,
) -> None:
    """Are the suggestions of `analyse` right? Test each by fine-tuning on a given number of labels.

    Args:
        encoders: Two or more runs or model folders for images of about 32 pixels.
        data: Labelled images with a test split.
        out: Folder for the analyses and the fine-tuning runs; finished ones are reused.
        labels: Numbers of labels, each studied separately; by default 300 and 3,000.
        seeds: Repetitions of fine-tuning.
        json: Also write the document to this file.
    """
    if len(encoders) < 2:
        raise UsageError("a study needs two encoders", fix="vitlet study RUN RUN --data DATA --out DIR")
    sources = [existing_source(encoder) for encoder in encoders]
    existing_data(data)
    require_free("figures", json, option="--json")
    options = (looking or Looking()).options()
    require_images(data, follow_outside=options.follow_outside, labelled=True)
    from vitlet.jobs.studying import LABELS
    from vitlet.jobs.studying import study as job

    job(sources, data=data, out=out, labels=labels or LABELS, seeds=seeds, json=json, options=options)


def bench(
    what: Literal[
        "step", "input", "features", "probe", "attention", "analyse", "detection", "export", "models", "budget"
    ],
    *models: str,
    preset: Literal["paper"] | None = None,
    results: Path | None = None,
    batch_size: AtLeastOne | None = None,
    precision: InferencePrecision = "fp32",
    device: Device = "cpu",
    json: Path | None = None,
) -> None:
    """Time a training step or the input pipeline against plain references, or compare models; interleaved, one thread.

    Args:
        what: `step`: training steps of ViT-Tiny at 224 px; `input`: JPEG to tensor; `features`: extraction versus
            timm; `probe`: a linear probe of 13 learning rates versus one; `attention`: explicit versus fused;
            `analyse`: CKA and attention statistics; `detection`: a step of the paper's detector versus torchvision's;
            `export`: ViT-Tiny in ONNX Runtime and OpenVINO versus timm; `models`: parameters, FLOPs, throughput
            and accuracy of classifiers; `budget`: the cost of 400 epochs of mae_tiny on ImageNet, computed from a
            step on this device.
        models: With `models`: timm names, recipes, runs or model folders.
        preset: With `models`: `paper`, the models of the paper's Table 2.
        results: With `models`: a folder of files from `evaluate --json`, for the accuracy of models that are not runs.
        batch_size: With `models`: images per forward pass.
        precision: With `models`: precision of the matrix products.
        device: With `models`: where to compute.
        json: Also write the figures to this file.
    """
    require_free("figures", json, option="--json")
    if what == "models":
        if results is not None:
            existing(results)
        if not models and preset is None:
            raise UsageError("no models to compare", fix="vitlet bench models NAME … or --preset paper")
        from vitlet.jobs.lineup import bench_lineup
        from vitlet.jobs.options import Options

        bench_lineup(
            models,
            preset=preset,
            results=results,
            batch_size=batch_size,
            precision=precision,
            out=json,
            options=Options(device=device),
        )
        return
    given = {"models": models, "--preset": preset, "--results": results, "--batch-size": batch_size,
             "--precision": precision != "fp32", "--device": device != "cpu"}  # fmt: skip
    if wrong := [name for name, value in given.items() if value]:
        raise UsageError(f"{', '.join(wrong)} with bench {what}", fix=f"vitlet bench {what}, or vitlet bench models")
    from vitlet.jobs.benching import bench as job

    job(what, out=json)
