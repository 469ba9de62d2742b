"""Probes during training: of frozen features in pre-training, of held-out accuracy in fine-tuning."""

from typing import Any

from vitlet.data.loader import evaluation_batches
from vitlet.evaluation.classify import evaluate_classifier
from vitlet.evaluation.features import extract
from vitlet.evaluation.health import Health, explain, feature_health, verdict
from vitlet.evaluation.knn import knn_predict, top1
from vitlet.jobs.material import Material
from vitlet.methods.objective import Objective
from vitlet.methods.supervised import Supervised
from vitlet.recipe import Recipe
from vitlet.recipes.supervised import SupervisedObjective
from vitlet.rng import derive, permutation
from vitlet.run import Run
from vitlet.train.loop import Probe
from vitlet.weights.folder import write_model

_BANK, _QUERIES = 1500, 500
_FEWEST = 50


def looks(
    run: Run, recipe: Recipe, material: Material, *, every: int | None, facts: dict[str, Any] | None
) -> tuple[Probe, ...]:
    """Return the probes of this kind of run; none if `every` is None.

    Args:
        run: The run whose metrics hold the results.
        recipe: Recipe of the run.
        material: Its images.
        every: Steps between probes.
        facts: For the card of the best model; None keeps no best model, as on all ranks but the first.
    """
    if every is None:
        return ()
    if not recipe.objective.learns_labels:
        return (pretraining_probe(run, recipe, material, every=every),)
    if not isinstance(recipe.objective, SupervisedObjective) or not len(material.held_out):
        return ()
    return (finetuning_probe(run, recipe, material, every=every, facts=facts),)


def accuracies(run: Run) -> list[tuple[int, float]]:
    """Return (step, top-1) of every evaluation on the held-out images so far."""
    rows = [row for row in run.metrics() if "held_out_top1" in (row.get("probe") or {})]
    return [(row["step"], row["probe"]["held_out_top1"]) for row in rows]


def finetuning_probe(
    run: Run, recipe: Recipe, material: Material, *, every: int, facts: dict[str, Any] | None
) -> Probe:
    """Probe the accuracy on the held-out images; the best model, the earliest among equals, goes to `best/`.

    The probe does not affect training or the last model. The best value so far is read from the metrics, which resuming
    cuts back to the checkpoint, so an interrupted run ends with the same best model.
    """

    def look(objective: Objective, step: int) -> dict[str, Any]:
        assert isinstance(objective, Supervised)
        batches = evaluation_batches(
            material.index,
            material.held_out,
            view=recipe.data.evaluation,
            workers=material.workers,
            normalisation=recipe.data.normalisation,
        )
        device = next(objective.parameters()).device
        found = evaluate_classifier(objective.logits, batches, device=device)["top1"]
        if facts is not None and all(found > before for _, before in accuracies(run)):
            write_model(
                run.best,
                encoder=objective.encoder,
                evaluation=recipe.data.evaluation,
                facts=facts
                | objective.provenance()
                | {"step": step, "chosen": f"on the {material.held_out_split} split"},
                classifier=objective.classifier,
                classes=material.index.classes,
            )
        return {"held_out_top1": found}

    def tell(found: dict[str, Any]) -> str:
        return f"top-1 {100 * found['held_out_top1']:.1f} % on the {material.held_out_split} images"

    return Probe(every=every, look=look, tell=tell)


def pretraining_probe(run: Run, recipe: Recipe, material: Material, *, every: int) -> Probe:
    """Probe a fixed sample of the *training* images: held-out images decide nothing during training.

    `knn_top1` classifies 500 of them by the nearest of 1,500 others (fewer in a small set). Images without
    a label are left out; where fewer than 50 have one, there is no `knn_top1`.
    """
    order = permutation(derive(recipe.budget.seed, "probe"), len(material.ids))[: _BANK + _QUERIES]
    sample = material.ids[order]

    def look(objective: Objective, step: int) -> dict[str, Any]:
        batches = evaluation_batches(
            material.index,
            sample,
            view=recipe.data.evaluation,
            workers=material.workers,
            normalisation=recipe.data.normalisation,
        )
        features, labels = extract(objective.encoder, batches, pool="mean")
        rows = run.metrics()
        # The first step is logged between the others, and its loss far above the rest would hide the trend.
        first = 0 if recipe.budget.log_every == 1 else 1
        losses = [row["loss"] for row in rows if row.get("loss") is not None and row["step"] > first]
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
        known = labels >= 0
        features, labels = features[known], labels[known]
        if material.num_classes > 1 and len(labels) >= _FEWEST:
            cut = len(labels) * _QUERIES // (_BANK + _QUERIES)
            guess = knn_predict(features[cut:], labels[cut:], features[:cut], num_classes=material.num_classes)
            found["knn_top1"] = top1(guess, labels[:cut])
        return found

    def tell(found: dict[str, Any]) -> str:
        neighbours = f"kNN {100 * found['knn_top1']:.1f} % on training images; " if "knn_top1" in found else ""
        return neighbours + found["advice"]

    return Probe(every=every, look=look, tell=tell)
