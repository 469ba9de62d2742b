"""Measurements as files: `analysis/<name>.npz` holds the arrays, `analysis/<name>.json` their meaning.

Encoders are numbered in the order in which they were named; an array about encoder k is called `<quantity>.<k>`.
Figures and pages are made from these files alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from vitlet.analysis.attention import PUBLISHED_PITCH
from vitlet.analysis.diagnosis import Suggestion
from vitlet.analysis.layers import PARTS, ProbeCurve, healths, weight_norms
from vitlet.analysis.spectrum import frequencies
from vitlet.analysis.survey import Survey, cka_points, depth_points
from vitlet.arrays import write_arrays
from vitlet.disk import finite_or_null, write_json


def write_survey(folder: Path, survey: Survey, *, published: bool) -> None:
    """Write `similarity`, `attention` and `spectrum`.

    Args:
        folder: The `analysis` folder of the output.
        survey: Survey after its pass.
        published: Whether to store distances with the patch pitch of the paper's code as well.
    """
    _write_similarity(folder, survey)
    _write_attention(folder, survey, published=published)
    _write_spectrum(folder, survey)


@dataclass(frozen=True)
class Gradients:
    """Norms of the loss gradient by part and block, or the reason why there are none."""

    norms: Mapping[str, Sequence[float]] | None
    words: str
    """What they were computed from, or what is missing."""


def write_layers(
    folder: Path,
    survey: Survey,
    curves: Sequence[Sequence[ProbeCurve]],
    gradients: Sequence[Gradients],
    *,
    num_labels: int,
) -> None:
    """Write `layers`: effective rank, feature spread, probes, weight and gradient norms per layer.

    Args:
        folder: The `analysis` folder.
        survey: Survey after its pass.
        curves: Probe curves of each subject; empty without labels.
        gradients: Gradients of each subject.
        num_labels: Number of images the probes learned from.
    """
    arrays: dict[str, np.ndarray] = {}
    models = []
    for k, (subject, gradient) in enumerate(zip(survey.subjects, gradients, strict=True)):
        per_layer = healths(survey.features(k))
        arrays[f"effective_rank.{k}"] = np.array([h.effective_rank for h in per_layer])
        arrays[f"feature_std.{k}"] = np.array([h.feature_std for h in per_layer])
        for part, values in weight_norms(subject.encoder).items():
            arrays[f"weight_norm.{part}.{k}"] = np.array(values)
        for part, values in (gradient.norms or {}).items():
            arrays[f"gradient_norm.{part}.{k}"] = np.array(values)
        for curve in curves[k] if curves else ():
            arrays[f"{curve.protocol}.{k}"] = curve.correct
        points = depth_points(subject.encoder)
        models.append({"name": subject.name, "points": points, "gradient": gradient.words})
    meaning = {
        "effective_rank": "directions in use by the pooled features (RankMe, centred), at most the width",
        "feature_std": "spread of the L2-normalised pooled features, 1: evenly in all directions",
        "weight_norm": "root mean square of a block's weights",
        "gradient_norm": "root mean square of the gradient of the classifier's loss by a block's weights",
        "knn, logistic": "whether the probe on a layer was right, test image by test image",
    }
    images = len(survey.labels)
    facts = {"models": models, "parts": list(PARTS), "meaning": meaning, "images": images, "num_labels": num_labels}
    _write(folder, "layers", arrays, facts)


def write_weights(folder: Path, pairs: Sequence[tuple[str, str, Mapping[str, Sequence[float]]]]) -> None:
    """Write `weights`: (before, after, distance of each block by part)."""
    rows = [{"before": before, "after": after, **{p: list(d[p]) for p in PARTS}} for before, after, d in pairs]
    meaning = "‖after − before‖ / ‖before‖ of the weights of each block"
    write_json(folder / "weights.json", {"pairs": rows, "meaning": meaning})


def write_pictures(
    folder: Path,
    images: UInt8[np.ndarray, "n h w 3"],
    *,
    names: Sequence[str],
    colours: Sequence[UInt8[np.ndarray, "n r c 3"]],
    attention: Sequence[Float[Tensor, "n A r c"]],
) -> None:
    """Write `pictures`: chosen images, principal components of the last tokens, the class token's attention."""
    arrays = {"images": images}
    for k, (colour, maps) in enumerate(zip(colours, attention, strict=True)):
        arrays[f"pca.{k}"] = colour
        arrays[f"attention.{k}"] = maps.numpy().astype(np.float32)
    _write(folder, "pictures", arrays, {"models": [{"name": name} for name in names]})


def write_diagnosis(folder: Path, suggestions: Sequence[Suggestion]) -> None:
    """Write `diagnosis`: the suggestions."""
    write_json(folder / "diagnosis.json", {"suggestions": [asdict(s) for s in suggestions]})


def _write_similarity(folder: Path, survey: Survey) -> None:
    alignment = survey.similarity.result()
    models, start = [], 0
    for subject in survey.subjects:
        points = cka_points(subject.encoder)
        models.append({"name": subject.name, "points": points, "start": start, "stop": start + len(points)})
        start += len(points)
    facts = {
        "models": models,
        "batches": alignment.batches,
        "images": survey.images,
        "meaning": "linear CKA, unbiased mini-batch HSIC, patch tokens flattened, class token removed; "
        "error: standard error over batches",
    }
    _write(folder, "similarity", {"cka": alignment.cka.numpy(), "error": alignment.error.numpy()}, facts)


def _write_attention(folder: Path, survey: Survey, *, published: bool) -> None:
    arrays: dict[str, np.ndarray] = {}
    models = []
    for k, (subject, looked) in enumerate(zip(survey.subjects, survey.looked, strict=True)):
        distance, entropy = (np.stack(x) for x in zip(*(a.result() for a in looked.attention), strict=True))
        patch = subject.encoder.config.patch_size
        arrays |= {f"distance_patches.{k}": distance, f"distance_pixels.{k}": patch * distance}
        arrays[f"entropy_nats.{k}"] = entropy
        if published:
            arrays[f"distance_published.{k}"] = PUBLISHED_PITCH * distance
        models.append({"name": subject.name, "patch_pixels": patch, "grid": list(looked.attention[0].grid)})
    facts = {
        "models": models,
        "images": survey.images,
        "epsilon": survey.looked[0].attention[0].epsilon,
        "meaning": "[block, head]; class token removed before the softmax; mean over queries and images",
    }
    _write(folder, "attention", arrays, facts)


def _write_spectrum(folder: Path, survey: Survey) -> None:
    arrays: dict[str, np.ndarray] = {}
    models = []
    for k, (subject, looked) in enumerate(zip(survey.subjects, survey.looked, strict=True)):
        arrays[f"log_amplitude.{k}"] = looked.spectrum.result().numpy()
        arrays[f"delta.{k}"] = looked.spectrum.delta().numpy()
        arrays[f"patch_log_amplitude.{k}"] = looked.patches.result().numpy()
        arrays[f"patch_delta.{k}"] = looked.patches.delta().numpy()
        depth = subject.encoder.config.depth
        points = ["embedded", *(f"block.{i}.{after}" for i in range(depth) for after in ("attention", "mlp"))]
        grid = looked.attention[0].grid
        models.append({"name": subject.name, "points": points, "frequencies": frequencies(grid)})
    facts = {
        "models": models,
        "images": survey.images,
        "meaning": "mean log amplitude on the diagonal of the spectrum, [point, frequency in units of π]; "
        "delta: highest minus lowest frequency; points after the residual is added; every second one from the "
        "first on is the set of embedding and block outputs; patch: of the embedded patches before positions",
    }
    _write(folder, "spectrum", arrays, facts)


def _write(folder: Path, name: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    write_arrays(folder / f"{name}.npz", arrays)
    write_json(folder / f"{name}.json", {key: finite_or_null(value) for key, value in facts.items()})
