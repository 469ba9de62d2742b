"""The four scales: what stands in for the paper's recipes, data and budgets at each."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from vitlet.errors import UsageError
from vitlet.recipes import by_name
from vitlet.recipes.mae import TEACHING
from vitlet.replication.scale import IMAGES, Chosen, Given, ImageSet, Scale, Treatment, images
from vitlet.text import did_you_mean, printable


def _share(n: float) -> dict[str, Any]:
    return {"unit": "share", "n": n}


def _lasting(n: int, **more: Any) -> dict[str, Any]:
    """A duration of `n` images with checkpoints at tenths."""
    return {"budget.duration": images(n), "budget.checkpoint_every": _share(0.1), **more}


_PROBE_AT_END = {"budget.probe_every": _share(1)}
_PUBLIC = {
    "flowers": ("Flowers-102", "flowers102"),
    "pets": ("Pets", "pets"),
    "aircraft": ("Aircraft", "aircraft"),
    "cars": ("Cars", "cars"),
    "cifar100": ("CIFAR-100", "cifar100"),
    "inat18": ("iNat18", "inat18"),
}
"""Title and torchvision's name of the sets in Table 4."""


def _paper() -> Scale:
    recipes = {
        "mae": "mae_tiny_400e",
        "mocov3": "mocov3_tiny_400e",
        "dino": "dino_tiny_100e",
        "simmim": "simmim_tiny",
        "dmae": "dmae_tiny_400e",
        "mae-small": "mae_small_400e",
        "dmae-small": "dmae_small_400e",
        "seed": "seed_effb0",
    }
    treatments = {
        "scratch-ori": "supervised_tiny_ori_300e",
        "scratch-impr": "supervised_tiny_impr_300e",
        "scratch-3heads": "supervised_tiny_3heads_ori_300e",
        "scratch-small": "supervised_small_impr_300e",
        "ori": "finetune_tiny_ori_300e",
        "ori-moco": "finetune_tiny_ori_300e_moco",
        "impr": "finetune_tiny_impr_300e",
        "impr-moco": "finetune_tiny_impr_300e_moco",
        "impr-100": "finetune_tiny_impr_100e",
        "impr-1000": "finetune_tiny_impr_1000e",
        "impr-rpe-1000": "finetune_tiny_impr_rpe_1000e",
        "impr-small": "finetune_small_impr_300e",
        "convnet": "finetune_effb0_impr_300e",
    }
    ratios = {
        f"mae-{r}": Treatment("mae_tiny_400e", {"objective.mask_ratio": float(r)})
        for r in ("0.45", "0.55", "0.65", "0.85")
    }
    hundred = {"budget.duration": {"unit": "epochs", "n": 100}}
    thousand = {"budget.duration": {"unit": "epochs", "n": 1000}}
    class_token = {"encoder.final_norm": True, "objective.pool": "class"}
    given = {
        "teacher": Given("weights/mae-base"),
        "regnet": Given("weights/regnety_160.safetensors", "regnety_160"),
        "supervised-21k": Given("weights/vit-tiny-21k"),
    }
    imagenet = ImageSet("ImageNet-1k", folder="imagenet")
    return Scale(
        name="paper",
        about="ImageNet and the paper's recipes; --data holds a folder a set: imagenet, coco, …, and lists/, weights/",
        sets={
            "imagenet": imagenet,
            "imagenet-1": dataclasses.replace(imagenet, title="1 %", subset="lists/1percent.txt"),
            "imagenet-10": dataclasses.replace(imagenet, title="10 %", subset="lists/10percent.txt"),
            "imagenet-lt": dataclasses.replace(imagenet, title="ImageNet-LT", subset="lists/imagenet-lt.txt"),
            "imagenet-21k": ImageSet("ImageNet-21k", folder="imagenet-21k"),
            "imagenet-val": imagenet,
            "imagenet-v2": ImageSet("ImageNet-V2, matched frequency", folder="imagenet-v2"),
            "coco": ImageSet("COCO", folder="coco"),
        }
        | {name: ImageSet(title, folder=name, public=public) for name, (title, public) in _PUBLIC.items()},
        methods={k: Treatment(v) for k, v in recipes.items()} | ratios | given,
        treatments={k: Treatment(v) for k, v in treatments.items()}
        | {
            "scratch-impr-100": Treatment("supervised_tiny_impr_300e", hundred),
            "impr-moco-100": Treatment("finetune_tiny_impr_100e", {"optimizer.layer_decay": 0.75}),
            "impr-moco-class": Treatment("finetune_tiny_impr_300e_moco", class_token),
            "scratch-taught": Treatment("finetune_tiny_taught_300e", {"optimizer.layer_decay": 1.0}),
            "scratch-taught-1000": Treatment("finetune_tiny_taught_300e", {"optimizer.layer_decay": 1.0, **thousand}),
            "taught": Treatment("finetune_tiny_taught_300e"),
            "taught-1000": Treatment("finetune_tiny_taught_300e", thousand),
            "detection": Treatment("detection_coco_100ep"),
            "transfer": Chosen({name: f"transfer_{name}" for name in _PUBLIC}),
        },
        probes={"linear": ("linear-mae", "class")},
        kept=(0, 2, 4, 6, 8, 10, 12),
        seeds=(0,),
    )


_DEPTH = 6
_THREE = "here the downstream classes at three sizes stand in for the six sets"
_ONE = "here there is one recipe of fine-tuning"
_SHORT = "here there is one length of fine-tuning"
_SMALL = "here the wider network is the teacher"


def _halves() -> dict[str, ImageSet | str]:
    """Stand-ins for the data sets: two halves of the classes of one set, the second at three sizes."""
    half, other = f"{IMAGES}, every second class", f"{IMAGES}, the other classes"
    return {
        "imagenet": ImageSet(half, budget=_lasting(80_000)),
        "imagenet-1": ImageSet(f"1 % of {half}", subset="1%"),
        "imagenet-10": ImageSet(f"10 % of {half}", subset="10%"),
        "imagenet-lt": ImageSet(f"{half}, long-tailed 100:1", subset="tail:100"),
        "imagenet-21k": "needs more images than --data has",
        "imagenet-val": "needs the validation images of ImageNet, which ReaL's labels are for",
        "imagenet-v2": "needs ImageNet-V2",
        "coco": "needs COCO",
        "flowers": ImageSet(f"{other}: 1 % of the labels", half="downstream", label_share=0.01,
                            budget=_lasting(12_000)),
        "pets": _THREE,
        "aircraft": _THREE,
        "cars": ImageSet(f"{other}: 4 % of the labels", half="downstream", label_share=0.04, budget=_lasting(24_000)),
        "cifar100": _THREE,
        "inat18": ImageSet(f"{other}: 20 % of the labels", half="downstream", label_share=0.2,
                           budget=_lasting(30_000)),
    }  # fmt: skip


def _micro() -> Scale:
    deep: dict[str, Any] = {"encoder.depth": _DEPTH}
    fine = Treatment("finetune_micro", deep)
    length = 200_000
    mae = {**deep, **_lasting(length), **_PROBE_AT_END}
    pretraining = {**deep, **_PROBE_AT_END}
    masked = {
        f"mae-{r}": Treatment("mae_micro", {**mae, "objective.mask_ratio": float(r)})
        for r in ("0.45", "0.55", "0.65", "0.85")
    }
    same = ("scratch-impr", "scratch-impr-100", "impr", "impr-moco", "impr-100", "impr-moco-100", "transfer")
    absent = {
        **dict.fromkeys(("scratch-ori", "ori", "ori-moco"), _ONE),
        **dict.fromkeys(("impr-1000", "impr-rpe-1000"), _SHORT),
        **dict.fromkeys(("scratch-small", "impr-small"), _SMALL),
        **dict.fromkeys(
            ("scratch-taught", "scratch-taught-1000", "taught", "taught-1000"),
            "needs a supervised teacher, which this scale has none of",
        ),
        "scratch-3heads": "here the number of heads is not varied",
        "detection": "needs COCO",
    }
    return Scale(
        name="micro",
        about="32 px, patches of 4, width 96, 6 blocks; CIFAR-10 or the like, hours on two CPU cores",
        sets=_halves(),
        methods={
            "mae": Treatment("mae_micro", mae),
            "mocov3": Treatment("mocov3_micro", {**deep, **_lasting(60_000), **_PROBE_AT_END}),
            "teacher": Treatment("mae_micro_wide", {**mae, **_lasting(TEACHING * length)}, once=True),
            "dmae": Treatment("dmae_micro", {**mae, "objective.layers": [[_DEPTH, _DEPTH]]}),
            "dino": Treatment("dino_micro", {**pretraining, **_lasting(60_000)}),
            "simmim": Treatment("simmim_micro", {**pretraining, **_lasting(120_000)}),
            "seed": Treatment("seed_micro", {**_lasting(60_000), **_PROBE_AT_END}),
            "supervised-21k": "needs weights from more images than --data has",
            "regnet": "needs a supervised teacher, which this scale has none of",
            "mae-small": _SMALL,
            "dmae-small": _SMALL,
            **masked,
        },
        treatments={role: fine for role in same}
        | {
            "impr-moco-class": Treatment(
                "finetune_micro", {**deep, "encoder.final_norm": True, "objective.pool": "class"}
            ),
            "convnet": Treatment("finetune_micro_convnet"),
        }
        | absent,
        probes={"linear": ("logistic", "mean")},
        kept=(0, 4, 8, 12),
        order=((1, 7, 12, 13, 14), (9,), (8, 11, 15), (3, 6), (10,), (2,), (17,), (18,), (4, 5), (16,)),
    )


def _own() -> Scale:
    """`micro` for photographs of any size: random resized crops, and larger label shares for fewer images."""
    micro = _micro()
    crop = {"data.views.0.crop": {"kind": "resample", "scale": [0.2, 1.0]}}

    def cropped(roles: Mapping[str, Any]) -> dict[str, Any]:
        """Add crops to recipes that only shift; the others crop already."""
        return {
            k: dataclasses.replace(v, changes={**v.changes, **crop})
            if isinstance(v, Treatment) and by_name(v.recipe).data.views[0].crop.kind == "shift"
            else v
            for k, v in roles.items()
        }

    sets = dict(micro.sets)
    for name, share in (("flowers", 0.05), ("cars", 0.2), ("inat18", 1.0)):
        sets[name] = _of_labels(sets[name], share)
    return dataclasses.replace(
        micro,
        name="own",
        about="your images at 32 px in the time that --budget gives; otherwise as micro",
        sets=sets,
        methods=cropped(micro.methods),
        treatments=cropped(micro.treatments),
    )


def _of_labels(found: ImageSet | str, share: float) -> ImageSet:
    """Use another share of the labels, and state it in the title."""
    title = f"{IMAGES}, the other classes: {100 * share:g} % of the labels"
    return dataclasses.replace(_image_set(found), label_share=share, title=title)


def _image_set(found: ImageSet | str) -> ImageSet:
    assert isinstance(found, ImageSet)
    return found


def _smoke() -> Scale:
    """`micro` with networks and runs of a fraction of a second: tests that everything works, not what is true."""
    micro = _micro()
    steps = {"unit": "steps", "n": 4}
    brief: dict[str, Any] = {
        "budget.batch_size": 8,
        "budget.duration": steps,
        "budget.checkpoint_every": _share(0.5),
        "optimizer.warmup": _share(0.5),
    }
    tiny = {**brief, "encoder.width": 24, "encoder.depth": 3, "encoder.heads": 2}
    decoder = {"decoder_width": 16, "decoder_heads": 2}
    mae = {**tiny, **_PROBE_AT_END, **{f"objective.{k}": v for k, v in decoder.items()}}
    moco = {**tiny, **_PROBE_AT_END, "objective.hidden_width": 16, "objective.output_width": 8}
    distil = {**tiny, **_PROBE_AT_END, "objective.layers": [[3, 3]]}
    distil |= {f"objective.mae.{k}": v for k, v in decoder.items()}
    dino = {"hidden_width": 16, "bottleneck_width": 8, "prototypes": 16, "freeze_prototypes_steps": 0}
    masked = {k: v for k, v in micro.methods.items() if k.startswith("mae-0") and isinstance(v, Treatment)}
    methods = {
        "mae": Treatment("mae_micro", mae),
        "mocov3": Treatment("mocov3_micro", moco),
        "dino": Treatment("dino_micro", {**tiny, **_PROBE_AT_END, **{f"objective.{k}": v for k, v in dino.items()}}),
        "simmim": Treatment("simmim_micro", {**tiny, **_PROBE_AT_END}),
        "seed": Treatment("seed_micro", {**brief, **_PROBE_AT_END, "objective.queue": 64}),
        "teacher": Treatment("mae_micro_wide", mae, once=True),
        "dmae": Treatment("dmae_micro", distil),
    } | {k: dataclasses.replace(v, changes={**v.changes, **mae}) for k, v in masked.items()}
    sets = {k: v if isinstance(v, str) else dataclasses.replace(v, budget={}) for k, v in micro.sets.items()}
    subsets = {"imagenet-1": "40%", "imagenet-10": "50%", "imagenet-lt": "tail:2"}
    for name, share in (("flowers", 0.5), ("cars", 0.75), ("inat18", 1.0)):
        sets[name] = _of_labels(sets[name], share)
    for name, subset in subsets.items():
        found = _image_set(sets[name])
        sets[name] = dataclasses.replace(found, subset=subset, title=f"{IMAGES}, every second class, {subset}")
    return dataclasses.replace(
        micro,
        name="smoke",
        about="a few steps of very small networks: whether everything runs; its numbers mean nothing",
        sets=sets,
        methods=dict(micro.methods) | methods,
        treatments={
            k: dataclasses.replace(v, changes={**v.changes, **(brief if k == "convnet" else tiny)})
            if isinstance(v, Treatment)
            else v
            for k, v in micro.treatments.items()
        },
        seeds=(0,),
        look_images=16,
        is_tried=False,
    )


SCALES = MappingProxyType({"paper": _paper, "micro": _micro, "own": _own, "smoke": _smoke})


def scale_by_name(name: str) -> Scale:
    """Return the scale called `name`.

    Raises:
        UsageError: for an unknown name; suggests the nearest.
    """
    if name not in SCALES:
        raise UsageError(
            f"no scale {printable(name)}", why=did_you_mean(name, SCALES), fix=f"--scale {', '.join(SCALES)}"
        )
    return SCALES[name]()
