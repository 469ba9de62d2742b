"""The look at frozen features during pre-training: nearest neighbours where there are labels, health always."""

from typing import Any

import numpy as np

from vitlet.data.loader import evaluation_batches
from vitlet.evaluate.features import extract
from vitlet.evaluate.health import Health, explain, feature_health, verdict
from vitlet.evaluate.knn import knn_predict, top1
from vitlet.jobs.material import Material
from vitlet.methods.objective import Objective
from vitlet.recipe import Recipe
from vitlet.rng import derive, permutation
from vitlet.run import Run
from vitlet.train.loop import Probe

_BANK, _QUERIES = 1500, 500
_FEWEST = 50


def pretraining_probe(run: Run, recipe: Recipe, material: Material, *, every: int) -> Probe:
    """A probe on a fixed sample of the *training* images: held-out images decide nothing during training.

    `knn_top1` classifies 500 of them by the nearest of 1,500 others (fewer in a small set).
    """
    order = permutation(derive(recipe.budget.seed, "probe"), len(material.ids))[: _BANK + _QUERIES]
    sample = material.ids[order]

    def look(objective: Objective, step: int) -> dict[str, Any]:
        batches = evaluation_batches(material.index, sample, view=recipe.data.evaluation)
        features, labels = extract(objective.encoder, batches, pool="mean")
        rows = run.metrics()
        losses = [row["loss"] for row in rows if row.get("loss") is not None]
        if len(features) < 2:  # one image has no spread; the loss alone is judged
            return {"verdict": verdict(losses, []), "advice": explain(losses, [])}
        known = [Health(p["feature_std"], p["effective_rank"]) for p in (r.get("probe") for r in rows) if p]
        healths = [*known, feature_health(features)]
        found: dict[str, Any] = {
            "feature_std": healths[-1].feature_std,
            "effective_rank": healths[-1].effective_rank,
            "verdict": verdict(losses, healths),
            "advice": explain(losses, healths),
        }
        if np.all(labels.numpy() >= 0) and material.num_classes > 1 and len(sample) >= _FEWEST:
            cut = len(sample) * _QUERIES // (_BANK + _QUERIES)
            guess = knn_predict(features[cut:], labels[cut:], features[:cut], num_classes=material.num_classes)
            found["knn_top1"] = top1(guess, labels[:cut])
        return found

    return Probe(every=every, look=look)
