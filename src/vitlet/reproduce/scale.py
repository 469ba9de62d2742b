"""Scales: what stands in for the paper's recipes, data and budgets.

A scale gives each role that the tables name a recipe, each data set images, and says how many seeds and how long. It
changes nothing else: rows, chains, claims and their rules are the same at every scale. Whatever a scale has nothing
for stays in its place with the reason.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from vitlet.errors import UsageError
from vitlet.jobs.options import ProbeName
from vitlet.text import did_you_mean, printable

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Treatment:
    """What a role is at a scale: a recipe and changes of it."""

    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    once: bool = False
    """One run, of seed 0, that all seeds share: a teacher."""


@dataclass(frozen=True)
class ImageSet:
    """What a data set of the paper is at a scale."""

    title: str
    """What stands in its place, for the heads of the columns."""
    folder: str = ""
    """Below --data; or else a part of the images at --data is taken."""
    half: Literal["upstream", "downstream"] = "upstream"
    """Every second class in the order of their names, from the first on; or the others."""
    subset: str = ""
    """Of the training images, as `vitlet.data.choice` reads it; a list stands below --data."""
    label_share: float | None = None
    """Of the training labels of the smallest class, which as many of every class are fine-tuned on; None: all."""
    budget: Mapping[str, Any] = field(default_factory=dict)
    """Changes of a recipe that fine-tunes on this set: how long, in which batches."""
    images: int = 0
    """Training images of a set that is published, to reckon with before it is there."""


@dataclass(frozen=True)
class Scale:
    """One way to run everything."""

    name: str
    about: str
    sets: Mapping[str, ImageSet | str]
    """By the names in the tables; a string says why there is none."""
    methods: Mapping[str, Treatment | str]
    treatments: Mapping[str, Treatment | str]
    probes: Mapping[str, tuple[ProbeName, Literal["mean", "class"]]]
    kept: tuple[int, ...]
    """Numbers of blocks, of twelve, that are kept in Figures 2 and 4."""
    seeds: tuple[int, ...] = SEEDS
    order: tuple[tuple[int, ...], ...] = ()
    """Claims in groups: all seeds of one before the next, so that what is stopped early has decided the first ones."""
    look_images: int = 1024
    is_tried: bool = True
    """Whether a few steps are tried to tell what all will cost; not where that costs as much as the runs."""

    def with_seeds(self, num: int) -> "Scale":
        """The same with `num` seeds."""
        return dataclasses.replace(self, seeds=tuple(range(num)))

    def within(self, factor: float) -> "Scale":
        """The same with every duration that counts images times `factor`."""

        def scaled(changes: Mapping[str, Any]) -> Mapping[str, Any]:
            length = changes.get("budget.duration")
            if not isinstance(length, Mapping) or length.get("unit") != "images":
                return changes
            return {**changes, "budget.duration": images(max(1, round(length["n"] * factor)))}

        def each(roles: Mapping[str, Treatment | str]) -> dict[str, Treatment | str]:
            return {
                k: v if isinstance(v, str) else dataclasses.replace(v, changes=scaled(v.changes))
                for k, v in roles.items()
            }

        sets = {
            k: v if isinstance(v, str) else dataclasses.replace(v, budget=scaled(v.budget))
            for k, v in self.sets.items()
        }
        return dataclasses.replace(self, sets=sets, methods=each(self.methods), treatments=each(self.treatments))


def images(n: int) -> dict[str, Any]:
    """A duration as a recipe writes it."""
    return {"unit": "images", "n": n}


def _share(n: float) -> dict[str, Any]:
    return {"unit": "share", "n": n}


def _lasting(n: int, **more: Any) -> dict[str, Any]:
    """So many images, checkpoints at tenths, one look at the features at the end."""
    return {"budget.duration": images(n), "budget.checkpoint_every": _share(0.1), **more}


_PROBE_AT_END = {"budget.probe_every": _share(1)}
_NOT_HERE = "not part of this scale"
_TRANSFER = "needs: a join with vitlet transfer, which chooses among the settings of appendix A.4"


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
    class_token = {"encoder.final_norm": True, "objective.pool": "class"}
    teacher = "needs: MAE-Base of 1600 epochs, which is not trained here; import its published file"
    imagenet = ImageSet("ImageNet-1k", folder="imagenet", images=1_281_167)
    return Scale(
        name="paper",
        about="ImageNet and the paper's recipes; --data holds one folder a set: imagenet, flowers, pets, …, and lists/",
        sets={
            "imagenet": imagenet,
            "imagenet-1": dataclasses.replace(imagenet, title="1 %", subset="lists/1percent.txt"),
            "imagenet-10": dataclasses.replace(imagenet, title="10 %", subset="lists/10percent.txt"),
            "imagenet-lt": dataclasses.replace(imagenet, title="ImageNet-LT", subset="lists/imagenet-lt.txt"),
            "imagenet-21k": ImageSet("ImageNet-21k", folder="imagenet-21k", images=14_200_000),
            "flowers": ImageSet("Flowers-102", folder="flowers", images=2_040),
            "pets": ImageSet("Pets", folder="pets", images=3_680),
            "aircraft": ImageSet("Aircraft", folder="aircraft", images=6_667),
            "cars": ImageSet("Cars", folder="cars", images=8_144),
            "cifar100": ImageSet("CIFAR-100", folder="cifar100", images=50_000),
            "inat18": ImageSet("iNat18", folder="inat18", images=437_513),
        },
        methods={k: Treatment(v) for k, v in recipes.items()} | ratios | {"teacher": teacher},
        treatments={k: Treatment(v) for k, v in treatments.items()}
        | {
            "impr-moco-100": Treatment("finetune_tiny_impr_100e", {"optimizer.layer_decay": 0.75}),
            "impr-moco-class": Treatment("finetune_tiny_impr_300e_moco", class_token),
            "scratch-taught": "needs: weights of RegNetY-160; finetune_tiny_taught_300e takes them",
            "taught": "needs: weights of RegNetY-160; finetune_tiny_taught_300e takes them",
            "transfer": _TRANSFER,
        },
        probes={"linear": ("linear-mae", "class")},
        kept=(0, 2, 4, 6, 8, 10, 12),
        seeds=(0,),
    )


_DEPTH = 6


def _halves(name: str) -> dict[str, ImageSet | str]:
    """Stand-ins of the data sets: two halves of the classes of one set, the second at three sizes."""
    half, other = f"{name}, every second class", f"{name}, the other classes"
    return {
        "imagenet": ImageSet(half, budget=_lasting(80_000)),
        "imagenet-1": ImageSet(f"1 % of {half}", subset="1%"),
        "imagenet-10": ImageSet(f"10 % of {half}", subset="10%"),
        "imagenet-lt": ImageSet(f"{half}, long-tailed 100:1", subset="tail:100"),
        "imagenet-21k": _NOT_HERE,
        "flowers": ImageSet(f"{other}: 1 % of the labels", half="downstream", label_share=0.01,
                            budget=_lasting(12_000)),
        "pets": _NOT_HERE,
        "aircraft": _NOT_HERE,
        "cars": ImageSet(f"{other}: 4 % of the labels", half="downstream", label_share=0.04, budget=_lasting(24_000)),
        "cifar100": _NOT_HERE,
        "inat18": ImageSet(f"{other}: 20 % of the labels", half="downstream", label_share=0.2,
                           budget=_lasting(30_000)),
    }  # fmt: skip


def _micro() -> Scale:
    deep: dict[str, Any] = {"encoder.depth": _DEPTH}
    fine = Treatment("finetune_micro", deep)
    mae = {**deep, **_lasting(200_000), **_PROBE_AT_END}
    masked = {f"mae-{r}": _NOT_HERE for r in ("0.45", "0.55", "0.65", "0.85")}
    same = ("scratch-impr", "impr", "impr-moco", "impr-100", "impr-moco-100", "transfer")
    absent = (
        "scratch-ori", "scratch-3heads", "scratch-small", "scratch-taught", "ori", "ori-moco", "taught", "impr-1000",
        "impr-rpe-1000", "impr-small", "impr-moco-class", "convnet",
    )  # fmt: skip
    return Scale(
        name="micro",
        about="32 px, patches of 4, width 96, 6 blocks; CIFAR-10 or the like, hours on two CPU cores",
        sets=_halves("data"),
        methods={
            "mae": Treatment("mae_micro", mae),
            "mocov3": Treatment("mocov3_micro", {**deep, **_lasting(60_000), **_PROBE_AT_END}),
            "teacher": Treatment("mae_micro_wide", mae, once=True),
            "dmae": Treatment("dmae_micro", {**mae, "objective.layers": [[_DEPTH, _DEPTH]]}),
            "dino": _NOT_HERE,
            "simmim": _NOT_HERE,
            "seed": _NOT_HERE,
            "mae-small": _NOT_HERE,
            "dmae-small": _NOT_HERE,
            **masked,
        },
        treatments={role: fine for role in same} | dict.fromkeys(absent, _NOT_HERE),
        probes={"linear": ("logistic", "mean")},
        kept=(0, 4, 8, 12),
        order=((1, 7, 12, 13, 14), (9,), (8, 11, 15), (3, 6), (10,), (2,), (17,), (18,), (4, 5), (16,)),
    )


def _own() -> Scale:
    """`micro` for photographs of any size: random resized crops; label shares for fewer images."""
    micro = _micro()
    crop = {"data.views.0.crop": {"kind": "resample", "scale": [0.2, 1.0]}}

    def cropped(roles: Mapping[str, Treatment | str]) -> dict[str, Treatment | str]:
        return {
            k: v
            if isinstance(v, str) or v.recipe == "mocov3_micro"
            else dataclasses.replace(v, changes={**v.changes, **crop})
            for k, v in roles.items()
        }

    sets = dict(micro.sets)
    for name, share in (("flowers", 0.05), ("cars", 0.2), ("inat18", 1.0)):
        title = f"the other classes: {100 * share:g} % of the labels"
        sets[name] = dataclasses.replace(_image_set(sets[name]), label_share=share, title=title)
    return dataclasses.replace(
        micro,
        name="own",
        about="your images at 32 px in the time that --budget gives; otherwise as micro",
        sets=sets,
        methods=cropped(micro.methods),
        treatments=cropped(micro.treatments),
    )


def _image_set(found: ImageSet | str) -> ImageSet:
    assert isinstance(found, ImageSet)
    return found


def _smoke() -> Scale:
    """`micro` with networks and runs of a fraction of a second: whether everything works, never what is true."""
    micro = _micro()
    steps = {"unit": "steps", "n": 4}
    tiny: dict[str, Any] = {
        "encoder.width": 24,
        "encoder.depth": 3,
        "encoder.heads": 2,
        "budget.batch_size": 8,
        "budget.duration": steps,
        "budget.checkpoint_every": _share(0.5),
        "optimizer.warmup": _share(0.5),
    }
    decoder = {"decoder_width": 16, "decoder_heads": 2}
    mae = {**tiny, **_PROBE_AT_END, **{f"objective.{k}": v for k, v in decoder.items()}}
    moco = {**tiny, **_PROBE_AT_END, "objective.hidden_width": 16, "objective.output_width": 8}
    distil = {**tiny, **_PROBE_AT_END, "objective.layers": [[3, 3]]}
    distil |= {f"objective.mae.{k}": v for k, v in decoder.items()}
    methods: dict[str, Treatment | str] = {
        "mae": Treatment("mae_micro", mae),
        "mocov3": Treatment("mocov3_micro", moco),
        "teacher": Treatment("mae_micro_wide", mae, once=True),
        "dmae": Treatment("dmae_micro", distil),
    }
    fine = Treatment("finetune_micro", tiny)
    sets = {k: v if isinstance(v, str) else dataclasses.replace(v, budget={}) for k, v in micro.sets.items()}
    subsets = {"imagenet-1": "40%", "imagenet-10": "50%", "imagenet-lt": "tail:2"}
    for name, share in (("flowers", 0.5), ("cars", 0.75), ("inat18", 1.0)):
        sets[name] = dataclasses.replace(_image_set(sets[name]), label_share=share)
    for name, subset in subsets.items():
        sets[name] = dataclasses.replace(_image_set(sets[name]), subset=subset)
    return dataclasses.replace(
        micro,
        name="smoke",
        about="a few steps of very small networks: whether everything runs; its numbers mean nothing",
        sets=sets,
        methods=dict(micro.methods) | methods,
        treatments={k: fine if isinstance(v, Treatment) else v for k, v in micro.treatments.items()},
        seeds=(0,),
        look_images=16,
        is_tried=False,
    )


SCALES = MappingProxyType({"paper": _paper, "micro": _micro, "own": _own, "smoke": _smoke})


def scale_by_name(name: str) -> Scale:
    """The scale called `name`.

    Raises:
        UsageError: naming the nearest.
    """
    if name not in SCALES:
        raise UsageError(
            f"no scale {printable(name)}", why=did_you_mean(name, SCALES), fix=f"--scale {', '.join(SCALES)}"
        )
    return SCALES[name]()
