"""Outputs of a finished training run: the model folder, its results, a picture."""

from typing import Any, Literal

import numpy as np
import torch

from vitlet.arrays import write_arrays
from vitlet.console import Teller
from vitlet.data.loader import evaluation_batches
from vitlet.disk import read_json, write_json
from vitlet.evaluation.classify import evaluate_classifier
from vitlet.evaluation.result import Result, write_result
from vitlet.jobs.material import Material
from vitlet.jobs.probes import accuracies
from vitlet.methods.distill import AttentionDistillation
from vitlet.methods.mae import MAE
from vitlet.methods.objective import Objective
from vitlet.methods.supervised import Supervised
from vitlet.recipe import Recipe
from vitlet.rng import derive, uniform
from vitlet.run import Run
from vitlet.text import plural
from vitlet.train.clock import Clock
from vitlet.weights.folder import write_model

_PICTURES = 8


def finish_pretraining(run: Run, recipe: Recipe, material: Material, objective: Objective) -> None:
    """Write `encoder/` and, for MAE, reconstructions of images, held-out ones if there are any."""
    write_encoder(run, recipe, material, objective)
    mae = objective.mae if isinstance(objective, AttentionDistillation) else objective
    if isinstance(mae, MAE):
        _write_reconstructions(run, recipe, material, mae)


def write_encoder(run: Run, recipe: Recipe, material: Material, objective: Objective) -> dict[str, Any]:
    """Write `encoder/` without a head, and return the facts in it."""
    facts = model_facts(run, recipe, material) | objective.provenance()
    write_model(run.encoder, encoder=objective.encoder, evaluation=recipe.data.evaluation, facts=facts)
    return facts


def finish_supervised(run: Run, recipe: Recipe, material: Material, objective: Supervised, *, teller: Teller) -> None:
    """Write the classifier, and its accuracy on the images held out from training."""
    if len(material.held_out):
        names: tuple[Literal["top1", "top1_first_head"], ...] = ("top1", "top1_first_head")
        for name in names if objective.tutor else names[:1]:
            _write_accuracy(run, recipe, material, objective, name=name, teller=teller)
        _write_best(run, recipe, material, teller=teller)
    else:
        teller.say("note: no image was held out, so no accuracy was measured.")
    write_model(
        run.encoder,
        encoder=objective.encoder,
        evaluation=recipe.data.evaluation,
        facts=model_facts(run, recipe, material) | objective.provenance(),
        classifier=objective.classifier,
        classes=material.index.classes,
    )


def _write_accuracy(
    run: Run,
    recipe: Recipe,
    material: Material,
    objective: Supervised,
    *,
    name: Literal["top1", "top1_first_head"],
    teller: Teller,
) -> None:
    clock = Clock()
    split = material.held_out_split
    device = next(objective.parameters()).device
    batches = evaluation_batches(
        material.index,
        material.held_out,
        view=recipe.data.evaluation,
        workers=material.workers,
        normalisation=recipe.data.normalisation,
    )
    with torch.inference_mode():
        forward = objective.logits if name == "top1" else objective.first_head
        found = evaluate_classifier(forward, batches, device=device)
    used = plural(len(material.ids), "label")
    result = Result(
        metric="top1",
        value=found["top1"],
        n=found["n"],
        seed=recipe.budget.seed,
        split=split,
        protocol=f"fine-tuning, {used}" + ("" if name == "top1" else ", the exported head alone"),
        data=material.index.facts(),
        recipe=recipe.fingerprint(),
        **clock.spent(),
        details={"top5": found["top5"], "selection": "last step, nothing was chosen on this split"},
    )
    write_result(run, name, result)
    teller.say(f"top-1 {100 * result.value:.1f} % on {plural(result.n, f'{split} image')} ({result.protocol})")


def _write_best(run: Run, recipe: Recipe, material: Material, *, teller: Teller) -> None:
    """Write the best accuracy of all evaluations, declared as chosen on the images that it is measured on."""
    seen = accuracies(run)
    if not seen:
        return
    step, value = max(seen, key=lambda look: (look[1], -look[0]))
    used, split = plural(len(material.ids), "label"), material.held_out_split
    result = Result(
        metric="top1",
        value=value,
        n=len(material.held_out),
        seed=recipe.budget.seed,
        split=split,
        protocol=f"fine-tuning, {used}, best of {plural(len(seen), 'look')}, chosen on the {split} split",
        data=material.index.facts(),
        recipe=recipe.fingerprint(),
        wall_seconds=0.0,
        cpu_seconds=0.0,
        details={"step": step, "looks": [list(look) for look in seen], "model": "best/"},
    )
    write_result(run, "top1_best", result)
    teller.say(f"top-1 {100 * value:.1f} % after step {step}, the best of {plural(len(seen), 'look')} at these images")


def model_facts(run: Run, recipe: Recipe, material: Material) -> dict[str, Any]:
    """Return the provenance for a model card."""
    made = run.environment
    results = sorted(run.results.glob("*.json")) if run.results.is_dir() else []
    return {
        "recipe": recipe.name,
        "recipe_fingerprint": recipe.fingerprint(),
        "seed": recipe.budget.seed,
        "data": material.index.name,
        "data_fingerprint": material.index.fingerprint,
        "training_images": len(material.ids),
        "command": made.command,
        "packages": made.packages,
        "results": {p.stem: read_json(p)["value"] for p in results},
        **({} if made.init is None else {"init": made.init}),
    }


def _write_reconstructions(run: Run, recipe: Recipe, material: Material, objective: MAE) -> None:
    held_out = len(material.held_out) > 0
    source = material.held_out if held_out else material.ids
    chosen = source[np.linspace(0, len(source) - 1, min(_PICTURES, len(source))).astype(int)]
    data = recipe.data
    batch = next(evaluation_batches(material.index, chosen, view=data.evaluation, normalisation=data.normalisation))
    key = derive(recipe.budget.seed, "pictures")
    noise = torch.from_numpy(uniform(key, batch.slots.numpy(), objective.encoder.num_patches))
    device = next(objective.parameters()).device
    with torch.inference_mode():
        pictures = objective.picture(batch.images.to(device), noise.to(device))
    arrays = {name: images.cpu().numpy() for name, images in pictures.items()}
    kind = "test images, which were not trained on" if held_out else "training images"
    caption = f"{len(chosen)} {kind}. Visible patches are shown as they are. Hidden ones are the model's prediction" + (
        ", brought from standardised to real pixels with the mean and contrast of the visible patches nearby; "
        "the hidden pixels' own statistics are not used."
        if objective.norm_pixels
        else "."
    )
    write_json(run.analysis / "reconstructions.json", {"caption": caption, "statistics": "visible"})
    write_arrays(run.analysis / "reconstructions.npz", arrays)
