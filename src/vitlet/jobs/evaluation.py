"""Evaluation of a finished model: frozen-feature probes, embeddings, predictions."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from vitlet.augmentation import View
from vitlet.choices import Layers, Pool, ProbeName
from vitlet.console import Teller
from vitlet.data.columns import cache_folder
from vitlet.data.index import Index
from vitlet.data.loader import evaluation_batches
from vitlet.data.splits import SPLITS
from vitlet.disk import write_csv, write_file
from vitlet.distributed.world import World
from vitlet.evaluation.features import Reading, cached_features, encoder_digest
from vitlet.evaluation.images import each_once
from vitlet.evaluation.linear import linear_probe, published_probe
from vitlet.evaluation.probe import ProbeResult, knn_probe
from vitlet.evaluation.result import Result, write_result
from vitlet.jobs.images import Labelled, judged, opened
from vitlet.jobs.material import pick_device
from vitlet.jobs.options import Options, require_layers
from vitlet.nn.convnet import AnyEncoder
from vitlet.nn.heads import head_input
from vitlet.run import Run
from vitlet.text import plural, printable
from vitlet.train.clock import Clock
from vitlet.weights.files import no_classifier
from vitlet.weights.folder import Saved
from vitlet.weights.names import Source
from vitlet.weights.source import load_encoder

PROBE_SEED = 0


def probe(
    run: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    protocol: ProbeName = "knn",
    pool: Pool = "mean",
    layers: Layers = "last",
    options: Options = Options(),
) -> Result:
    """Measure the accuracy of a simple classifier on the frozen features of a finished encoder.

    Args:
        run: A finished run or a model folder.
        data: Labelled images. Without a `test` or `val` split, a fifth of the training images is held out.
        protocol: `knn`: 20 nearest neighbours, temperature 0.07; `logistic`: regression, strength chosen on parts of
            the training images; `linear`: SGD, learning rate chosen on such a split; `linear-mae`, `linear-moco`: the
            published settings, on cached centre crops.
        pool: Mean of the patch tokens, or the class token.
        layers: `all` lets `linear` also choose among the outputs of all blocks.
        options: Workers, device, tolerance.

    Returns:
        The result, which is also written to `results/` of the run.
    """
    require_layers(protocol, layers)
    with World.joined(pick_device(options)):
        return _probe(run, data, Probing(protocol, pool, layers), options)


def _probe(run: str | os.PathLike[str], data: str | os.PathLike[str], how: "Probing", options: Options) -> Result:
    protocol, pool, layers = how.protocol, how.pool, how.layers
    teller = Teller(quiet=options.quiet)
    clock = Clock()
    saved = load_encoder(run)
    images = Labelled.open(data, options, teller)
    encoder = saved.encoder.to(pick_device(options))
    found = probe_encoder(encoder, images, images.train, view=saved.evaluation, how=how, options=options)
    seen = f"{pool}, every block" if layers == "all" else pool
    result = Result(
        metric="top1",
        value=found.top1,
        n=found.n,
        seed=PROBE_SEED,
        split=images.split,
        protocol=f"{protocol} on frozen features ({seen}), {plural(len(images.train), 'label')}",
        data=images.index.facts(),
        recipe=saved.facts.get("recipe_fingerprint", ""),
        **clock.spent(),
        details={**found.settings, "encoder": encoder_digest(encoder, view=saved.evaluation)},
    )
    if World.here().is_first and Source.parse(run).architecture is None:  # a bare file has no place for results
        write_result(Run(Path(run)), f"{protocol}-{pool}{'-blocks' * (layers == 'all')}", result)
    teller.say(f"{protocol} top-1 {100 * result.value:.1f} % on {plural(result.n, f'{images.split} image')}")
    return result


@dataclass(frozen=True)
class Probing:
    """How frozen features are evaluated; see `probe`."""

    protocol: ProbeName
    pool: Pool = "mean"
    layers: Layers = "last"


def probe_encoder(
    encoder: AnyEncoder,
    images: Labelled,
    learned: np.ndarray,
    *,
    view: View,
    how: Probing,
    options: Options,
) -> ProbeResult:
    """Run one probe on cached features, which the ranks compute together.

    Args:
        encoder: On its device.
        images: The images; their test images are evaluated on.
        learned: Rows to learn from.
        view: How the encoder sees an image.
        how: The protocol.
        options: Workers.
    """
    reading = Reading(view, how.pool, every_block=how.layers == "all")
    (x, y), (x_test, y_test) = (
        cached_features(
            encoder,
            images.index,
            ids,
            reading=reading,
            cache=cache_folder(),
            workers=options.num_workers(image_size=view.size),
        )
        for ids in (learned, images.test)
    )
    classes = images.index.classes
    if how.protocol == "knn":
        return knn_probe(x, y, x_test, y_test, classes=classes)
    if how.protocol == "logistic":
        from vitlet.evaluation.logistic import logistic_probe

        return logistic_probe(x, y, x_test, y_test, seed=PROBE_SEED, classes=classes)
    if how.protocol == "linear":
        if not reading.every_block:
            x, x_test = x[:, None], x_test[:, None]
        return linear_probe(x, y, x_test, y_test, seed=PROBE_SEED, classes=classes)
    return published_probe(x, y, x_test, y_test, protocol=how.protocol, seed=PROBE_SEED, classes=classes)


def embed(
    run: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    pool: Pool = "mean",
    options: Options = Options(),
) -> Path:
    """Write a Parquet file with `path, split, label, feature` of every readable image.

    Returns:
        The file. `feature` is a list of D float32 values; `label` is a class name or null.
    """
    saved = load_encoder(run)
    with World.joined(pick_device(options)) as world:
        teller = Teller(quiet=options.quiet)
        index = opened(data, options, teller)
        verdicts = judged(index, options, teller, training=False)
        ids = np.flatnonzero(verdicts.good)
        encoder = saved.encoder.to(pick_device(options))
        features, numbers = cached_features(
            encoder,
            index,
            ids,
            reading=Reading(saved.evaluation, pool),
            cache=cache_folder(),
            workers=options.num_workers(image_size=saved.evaluation.size),
        )
    if not world.is_first:
        return Path(out)
    table = pa.table(
        {
            "path": [printable(index.path(int(i))) for i in ids],
            "split": [SPLITS[s] for s in index.splits[ids]],
            "label": [index.classes[n] if n >= 0 else None for n in numbers.tolist()],
            "feature": pa.FixedSizeListArray.from_arrays(pa.array(features.numpy().reshape(-1)), features.shape[1]),
        }
    )
    stream = io.BytesIO()
    pq.write_table(table, stream)
    write_file(Path(out), stream.getvalue())
    teller.say(f"{plural(len(ids), 'image')} embedded in {features.shape[1]} dimensions: {printable(out)}")
    return Path(out)


def predict(
    run: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options = Options(),
) -> Path:
    """Write a CSV file with `path, predicted, probability, label` of every readable image.

    Raises:
        UsageError: if the model has no classifier.
    """
    saved = load_encoder(run)
    if saved.classifier is None:
        raise no_classifier(run, then="predict with NEW")
    with World.joined(pick_device(options)) as world:
        teller = Teller(quiet=options.quiet)
        index = opened(data, options, teller)
        verdicts = judged(index, options, teller, training=False)
        ids = np.flatnonzero(verdicts.good)
        likely, chosen = _predicted(saved, index, ids, options, world)
    if not world.is_first:
        return Path(out)
    known = ["" if label < 0 else index.classes[label] for label in index.labels[ids]]
    rows = (
        (printable(index.path(row)), printable(saved.classes[c]), f"{p:.6f}", printable(label))
        for row, c, p, label in zip(ids, chosen, likely, known, strict=True)
    )
    write_csv(Path(out), ("path", "predicted", "probability", "label"), rows)
    teller.say(f"{plural(len(ids), 'image')} classified: {printable(out)}")
    return Path(out)


def _predicted(
    saved: Saved, index: Index, ids: np.ndarray, options: Options, world: World
) -> tuple[list[float], list[int]]:
    """Return probability and number of the most likely class of every image, each computed by one rank."""
    assert saved.classifier is not None
    device = pick_device(options)
    encoder, classifier = saved.encoder.to(device).eval(), saved.classifier.to(device).eval()
    workers = options.num_workers(image_size=saved.evaluation.size)
    shared = world.among(len(ids))
    batches = evaluation_batches(
        index,
        ids,
        view=saved.evaluation,
        workers=workers,
        rank=shared.rank,
        num_ranks=shared.size,
        normalisation=encoder.normalisation,
    )
    found: list[Tensor] = []
    with torch.inference_mode():
        for batch in each_once(batches):
            logits = classifier(head_input(encoder, batch.images.to(device)))
            likely, chosen = logits.float().softmax(dim=1).max(dim=1)
            found.append(torch.stack([likely.double(), chosen.double()], dim=1).cpu())
    rows = shared.gather_rows(torch.cat(found), total=len(ids))
    return rows[:, 0].tolist(), rows[:, 1].long().tolist()
