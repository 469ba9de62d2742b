"""Each section's figures, from its stored arrays: the drawing, and its finding in words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup

from vitlet.reports import charts, figures
from vitlet.reports.elements import Picture, Plot, plot_key
from vitlet.reports.figures import Curve

Arrays = Mapping[str, np.ndarray]

_SIZE = (350, 240)


def similarity_plots(facts: Mapping[str, Any], arrays: Arrays) -> list[Plot]:
    """Heat maps of each encoder with itself and of the first with each other one, then the diagonals."""
    models, cka, error = facts["models"], arrays["cka"], arrays["error"]
    first = models[0]
    pairs = [(m, m) for m in models] + [(first, m) for m in models[1:]]
    plots = []
    for number, (a, b) in enumerate(pairs):
        values = cka[_span(a), _span(b)]
        itself = a["name"] == b["name"]
        drawing = charts.heat_map(
            values,
            name=f"cka-{number}",
            x_label="layer" if itself else f"layer of encoder {models.index(b) + 1}",
            y_label="layer" if itself else "layer of encoder 1",
        )
        title = a["name"] if itself else f"{a['name']} (1) and {b['name']} ({models.index(b) + 1})"
        words = f"CKA from {np.nanmin(values):.2f} to {np.nanmax(values):.2f}."
        plots.append(Plot(title, words, (Markup(drawing),), note=words))
    diagonals = [
        (m["name"], cka[_span(first), _span(m)].diagonal(), error[_span(first), _span(m)].diagonal())
        for m in models[1:]
        if len(m["points"]) == len(first["points"])
    ]
    if diagonals:
        worst = max((float(np.nanmax(e)) for _, _, e in diagonals if np.isfinite(e).any()), default=None)
        note = f"Standard errors over {facts['batches']} batches are at most {worst:.2g}." if worst is not None else ""
        title = f"The same layer of {first['name']} and of …"
        plots.append(_curves(title, [(n, d) for n, d, _ in diagonals], "cka-diagonals", "CKA", note=note))
    return plots


def attention_plots(facts: Mapping[str, Any], arrays: Arrays) -> list[Plot]:
    """Distance and entropy of each encoder, on common scales."""
    models = facts["models"]
    plots = []
    for key, title, unit, digits in (
        ("distance_pixels", "distance", "mean distance, pixels", 0),
        ("entropy_nats", "entropy", "mean entropy, nats", 1),
    ):
        tables = [arrays[f"{key}.{k}"] for k in range(len(models))]
        high = 1.05 * max(float(table.max()) for table in tables)
        for number, (model, table) in enumerate(zip(models, tables, strict=True)):
            name = f"{title}-{number}"
            drawing = charts.boxes(list(table), name=name, high=high, x_label="block", y_label=unit)
            low, top = np.median(table, axis=1)[[0, -1]]
            words = f"Median over heads: {low:.{digits}f} in the first block, {top:.{digits}f} in the last."
            plots.append(Plot(f"Attention {title}, {model['name']}", words, (Markup(drawing),), note=words))
    return plots


def spectrum_plots(facts: Mapping[str, Any], arrays: Arrays) -> list[Plot]:
    """Δ log amplitude after each block, and after each attention and MLP as well."""
    models = facts["models"]
    all_points = [(m["name"], arrays[f"delta.{k}"]) for k, m in enumerate(models)]
    outputs = [(name, delta[::2]) for name, delta in all_points]
    unit = "Δ log amplitude"
    alone = "; ".join(f"{m['name']} {arrays[f'patch_delta.{k}'][0]:.2f}" for k, m in enumerate(models))
    note = f"{len(outputs[0][1])} points: the embedding and each block's output. Patches before positions: {alone}."
    finer = f"{len(all_points[0][1])} points: after each attention (half steps) and each MLP."
    return [
        _curves("After each block", outputs, "spectrum-outputs", unit, note=note),
        _curves("After each residual branch", all_points, "spectrum-branches", unit, note=finer, step=0.5),
    ]


def layer_plots(facts: Mapping[str, Any], arrays: Arrays) -> list[Plot]:
    """Probes, rank, spread, weight and gradient norms by layer."""
    models = facts["models"]

    def lines(key: str) -> list[tuple[str, np.ndarray]]:
        return [(m["name"], arrays[f"{key}.{k}"]) for k, m in enumerate(models) if f"{key}.{k}" in arrays]

    plots = []
    for key, title in (("logistic", "Logistic probe"), ("knn", "20 nearest neighbours")):
        rows = [(name, correct.mean(axis=1)) for name, correct in lines(key)]
        if rows:
            num = len(lines(key)[0][1][0])
            note = f"{facts['num_labels']:,} labelled images learned from, {num:,} counted on."
            plots.append(_curves(title, rows, f"layers-{key}", "top-1 accuracy, %", note=note, percent=True))
    counted = f"Of {facts['images']:,} images."
    plots.append(_curves("Effective rank", lines("effective_rank"), "layers-rank", "dimensions", note=counted))
    plots.append(_curves("Feature spread", lines("feature_std"), "layers-std", "standard deviation", note=counted))
    of_gradients = "; ".join(f"{m['name']}: {m['gradient']}" for m in models)
    for key, title, note in (("weight_norm", "Weights", ""), ("gradient_norm", "Gradients", f"{of_gradients}.")):
        for part, where in (("attention", "attention"), ("mlp", "MLP")):
            rows = lines(f"{key}.{part}")
            if rows:
                name, unit = f"layers-{title.lower()}-{part}", "root mean square"
                plots.append(_curves(f"{title} of {where}", rows, name, unit, note=note, x="block"))
    if not lines("gradient_norm.mlp"):
        plots[-1] = replace(plots[-1], note=f"No gradients. {of_gradients}.")
    return plots


def weight_plots(facts: Mapping[str, Any]) -> list[Plot]:
    """Distance of each block's weights from the first encoder's."""
    plots = []
    for number, pair in enumerate(facts["pairs"]):
        rows = [("attention", np.array(pair["attention"])), ("MLP", np.array(pair["mlp"]))]
        title = f"From {pair['before']} to {pair['after']}"
        name = f"weights-{number}"
        plots.append(_curves(title, rows, name, "distance, % of the weights", x="block", percent=True))
    return plots


def pictures(facts: Mapping[str, Any], arrays: Arrays) -> list[Picture]:
    """The images, and below them each encoder's principal components and attention."""
    images = arrays["images"]
    rows = [Picture("Images", f"{len(images)} images", figures.image_row(images))]
    for k, model in enumerate(facts["models"]):
        colours = _enlarged(arrays[f"pca.{k}"], images.shape[1])
        label = f"{model['name']}: three principal components of the last patch tokens"
        rows.append(Picture(label, "patches of like features have like colours", figures.image_row(colours)))
        maps = arrays[f"attention.{k}"].mean(axis=1)
        grey = np.repeat((255 * maps / maps.max(axis=(1, 2), keepdims=True)).astype(np.uint8)[..., None], 3, axis=-1)
        label = f"{model['name']}: attention of the class token in the last block, mean over heads"
        rows.append(Picture(label, "brighter: more attention", figures.image_row(_enlarged(grey, images.shape[1]))))
    return rows


def _enlarged(maps: UInt8[np.ndarray, "n r c 3"], side: int) -> UInt8[np.ndarray, "n h w 3"]:
    factor = max(1, side // maps.shape[1])
    return maps.repeat(factor, axis=1).repeat(factor, axis=2)


def _span(model: Mapping[str, Any]) -> slice:
    return slice(model["start"], model["stop"])


def _curves(
    title: str,
    rows: Sequence[tuple[str, Float[np.ndarray, "_"]]],
    name: str,
    unit: str,
    *,
    note: str = "",
    step: float = 1.0,
    x: Literal["layer", "block"] = "layer",
    percent: bool = False,
) -> Plot:
    first = 1.0 if x == "block" else 0.0  # layer 0 is the embedding
    lines = [
        Curve([first + step * i for i in range(len(values))], [float(v) for v in values], style=style)
        for style, (_, values) in enumerate(rows)
    ]
    drawing = figures.curves(lines, name=name, size=_SIZE, x_label=x, y_label=unit, percent=percent)
    scale, digits = (100, 1) if percent else (1, 2)
    finding = "; ".join(
        f"{who}: from {scale * values[0]:.{digits}f} to {scale * values[-1]:.{digits}f}" for who, values in rows
    )
    key = plot_key(enumerate(name for name, _ in rows))
    return Plot(title, f"{unit}: {finding}.", (Markup(drawing),), key=key, note=note)
