"""The paper's eighteen claims as statements decided by numbers, by the rules of `vitlet.replication.claim`.

The first part is the claim's effect; the others are conditions without which it would say less than the paper does.
Margins other than 0 are ours, since the paper gives no numbers for them, and were fixed before the runs: half of a
gain or of a gap is "most", a CKA that falls by 0.1 falls. "Small" and "large" are the smallest and the largest of the
data sets in Table 4, by training images. Two controls keep a statement about one method from being true of any:
the method's network with untrained weights, and fine-tuned MAE, which has learned the same labels as the supervised
model. The latter two also share classifier, order and augmentations within a chain (`docs/decisions/0006`), which
claims 7 and 13 cannot tell from what labels do.

Parts `beside` a claim were added after its rule and decide nothing; `docs/decisions/0006` says when and why.
"""

import functools
from typing import Literal

from vitlet.replication.chains import (
    DISTILLED,
    DMAE,
    LARGEST,
    LOOK,
    LOOK_DISTILLED,
    LOOK_MASKED,
    MAE,
    MAE_PROBED,
    MAE_TUNED,
    MAE_UNTRAINED,
    MOCOV3,
    MOCOV3_TUNED,
    SMALLEST,
    SUPERVISED,
    distilled,
    pretrained_on,
    transferred,
    tuned,
)
from vitlet.replication.claim import Claim, Measure, Part, Quantity
from vitlet.replication.steps import Finetune, Look, Probe, Start


def _above(title: str, first: Finetune | Probe, second: Finetune | Probe) -> Part:
    return Part(title, ((1.0, Measure(first)), (-1.0, Measure(second))))


def _keeps_half(title: str, part_of: Finetune, whole: Finetune, base: Finetune) -> Part:
    """(part − base) > ½ (whole − base)."""
    return Part(title, ((1.0, Measure(part_of)), (-0.5, Measure(whole)), (-0.5, Measure(base))))


def _looks(title: str, unit: Literal["CKA", "patches", "nats", "log amplitude"],
           first: tuple[str, Quantity], second: tuple[str, Quantity], *, margin: float = 0.0,
           look: Look = LOOK) -> Part:  # fmt: skip
    terms = ((1.0, Measure(look, first[1], first[0])), (-1.0, Measure(look, second[1], second[0])))
    return Part(title, terms, margin, unit)


_masked = functools.partial(_looks, look=LOOK_MASKED)
"""Like `_looks`, in the pass without MoCo-v3."""


def _falls_more(title: str, look: Look, first: str, second: str) -> Part:
    """CKA with the supervised model falls more from the lower to the higher third in `first` than in `second`."""

    def fall(name: str, sign: float) -> tuple[tuple[float, Measure], ...]:
        return (sign, Measure(look, "cka-lower", name)), (-sign, Measure(look, "cka-higher", name))

    return Part(title, (*fall(first, 1.0), *fall(second, -1.0)), 0.0, "CKA")


def _closes_half(title: str, unit: Literal["patches", "nats"], gap: Quantity) -> Part:
    """(gap of MAE − gap of fine-tuned MAE) > ½ (gap of MAE − gap of the supervised model, which is 0)."""
    terms = ((0.5, _MAE), (0.5, _DEIT), (-1.0, _FINE))
    return Part(title, tuple((w, Measure(LOOK_MASKED, gap, name)) for w, name in terms), 0.0, unit)


_DEIT, _MAE, _MOCO, _FINE, _DMAE = "DeiT-Tiny", "MAE-Tiny", "MoCov3-Tiny", "MAE-Tiny-FT", "D-MAE-Tiny"
_NO_MAE, _NO_MOCO = "untrained MAE-Tiny", "untrained MoCov3-Tiny"
_PATCHES: Quantity = "patch-frequencies"
_THIRDS: tuple[tuple[str, Quantity], ...] = (("lower", "cka-lower"), ("higher", "cka-higher"))
_SCRATCH_100 = Finetune(None, "scratch-impr-100")
_THIRD, _WHOLE = tuned(MAE, keep=4), tuned(MAE, keep=12)


def _gap(start: tuple[Finetune, Finetune], sign: float) -> tuple[tuple[float, Measure], ...]:
    return ((sign, Measure(start[0])), (-sign, Measure(start[1])))


def _small_and_large(title: str, better: tuple[Finetune, Finetune], other: tuple[Finetune, Finetune]) -> Part:
    """(better − other) on the smallest downstream set exceeds that on the largest."""
    return Part(title, (*_gap((better[0], other[0]), 1.0), *_gap((better[1], other[1]), -1.0)))


def _both(start: Start, keep: int | None = None) -> tuple[Finetune, Finetune]:
    """Fine-tuned on the smallest and on the largest downstream set."""
    return transferred(start, SMALLEST, keep=keep), transferred(start, LARGEST, keep=keep)


def _on(data: str) -> tuple[Finetune, Finetune]:
    return tuned(pretrained_on("mae", data)), tuned(pretrained_on("mocov3", data))


def _distilled(blocks: tuple[int, ...]) -> Finetune:
    return Finetune(distilled(*blocks), "impr-100")


def _blocks(blocks: tuple[int, ...]) -> str:
    return f"block {blocks[0]} of 12" if len(blocks) == 1 else "all blocks"


_LAST = (12,)
_TUNED_LT, _MOCO_LT = _on("imagenet-lt")

CLAIMS = (
    Claim(
        1,
        "MAE pre-training with fine-tuning beats training from scratch",
        "Table 1",
        (_above("MAE − from scratch, all labels", MAE_TUNED, SUPERVISED),),
        beside=(_above("MAE − the same network before its pre-training, all labels", MAE_TUNED, MAE_UNTRAINED),),
    ),
    Claim(
        2,
        "MAE beats MoCo-v3 when labels abound",
        "Table 1",
        (_above("MAE − MoCo-v3, all labels", MAE_TUNED, MOCOV3_TUNED),),
    ),
    Claim(
        3,
        "MoCo-v3 beats MAE on small downstream sets",
        "Table 4, smallest set",
        (_above("MoCo-v3 − MAE, smallest set", _both(MOCOV3)[0], _both(MAE)[0]),),
    ),
    Claim(
        4,
        "MAE keeps its gain when pre-trained on 1 % or 10 % of the images",
        "Table 3",
        (
            _keeps_half("gain with 1 % − half the gain with all", _on("imagenet-1")[0], MAE_TUNED, SUPERVISED),
            _keeps_half("gain with 10 % − half the gain with all", _on("imagenet-10")[0], MAE_TUNED, SUPERVISED),
            _above("MAE − from scratch, all labels", MAE_TUNED, SUPERVISED),
        ),
    ),
    Claim(
        5,
        "MAE keeps its gain on a long-tailed subset, MoCo-v3 less so",
        "Table 3",
        (
            Part(
                "loss of MoCo-v3 − loss of MAE by the long tail",
                (*_gap((MOCOV3_TUNED, _MOCO_LT), 1.0), *_gap((MAE_TUNED, _TUNED_LT), -1.0)),
            ),
            _keeps_half("gain of MAE on the long tail − half its gain", _TUNED_LT, MAE_TUNED, SUPERVISED),
            _above("MAE − from scratch, all labels", MAE_TUNED, SUPERVISED),
        ),
    ),
    Claim(
        6,
        "Supervised pre-training wins on small downstream sets, and its lead over MAE shrinks as they grow",
        "Table 4, smallest and largest set",
        (
            _above("supervised − MAE, smallest set", _both(SUPERVISED)[0], _both(MAE)[0]),
            _above("supervised − MoCo-v3, smallest set", _both(SUPERVISED)[0], _both(MOCOV3)[0]),
            _small_and_large("lead over MAE, smallest − largest set", _both(SUPERVISED), _both(MAE)),
        ),
    ),
    Claim(
        7,
        "MAE resembles the supervised model in the lower layers and not in the higher ones",
        "Figure 1",
        (
            _masked("CKA of MAE, lower − higher third", "CKA", (_MAE, "cka-lower"), (_MAE, "cka-higher"), margin=0.1),
            _masked(
                "lower third, MAE − the same network untrained", "CKA", (_MAE, "cka-lower"), (_NO_MAE, "cka-lower")
            ),
            _falls_more("fall from lower to higher third, MAE − fine-tuned MAE", LOOK_MASKED, _MAE, _FINE),
        ),
    ),
    Claim(
        8,
        "MoCo-v3 resembles the supervised model in all layers",
        "Figure 1",
        (
            _looks("higher third, MoCo-v3 − MAE", "CKA", (_MOCO, "cka-higher"), (_MAE, "cka-higher")),
            _falls_more("fall from lower to higher third, MAE − MoCo-v3", LOOK, _MAE, _MOCO),
            *(
                _looks(f"{third} third, MoCo-v3 − the same network untrained", "CKA", (_MOCO, cka), (_NO_MOCO, cka))
                for third, cka in _THIRDS
            ),
        ),
    ),
    Claim(
        9,
        "A few lower blocks carry most of MAE's gain when labels abound",
        "Figure 2",
        (
            _keeps_half("gain with a third of the blocks − half the gain with all", _THIRD, _WHOLE, _SCRATCH_100),
            _above("all blocks − none", _WHOLE, _SCRATCH_100),
        ),
        beside=(
            _keeps_half("the same over MAE before its pre-training", _THIRD, _WHOLE, tuned(MAE, keep=0)),
            _above("all blocks − MAE before its pre-training", _WHOLE, tuned(MAE, keep=0)),
        ),
    ),
    Claim(
        10,
        "The higher blocks matter more the fewer the labels",
        "Figure 4, smallest and largest set",
        (
            _small_and_large("MAE: all − a third of the blocks, smallest − largest set", _both(MAE, 12), _both(MAE, 4)),
            _small_and_large(
                "MoCo-v3: all − a third of the blocks, smallest − largest set", _both(MOCOV3, 12), _both(MOCOV3, 4)
            ),
        ),
    ),
    Claim(
        11,
        "MoCo-v3's first layer loses high frequencies",
        "Figure 3",
        (
            _looks(
                "embedding, MAE − MoCo-v3",
                "log amplitude",
                (_MAE, "embedding-frequencies"),
                (_MOCO, "embedding-frequencies"),
            ),
            _looks(
                "embedding, supervised − MoCo-v3",
                "log amplitude",
                (_DEIT, "embedding-frequencies"),
                (_MOCO, "embedding-frequencies"),
            ),
        ),
        beside=(
            _looks("patches without positions, MAE − MoCo-v3", "log amplitude", (_MAE, _PATCHES), (_MOCO, _PATCHES)),
            _looks(
                "patches without positions, supervised − MoCo-v3", "log amplitude", (_DEIT, _PATCHES), (_MOCO, _PATCHES)
            ),
        ),
    ),
    Claim(
        12,
        "MAE's linear probe is poor while its fine-tuning is good",
        "text, Table 1",
        (
            _above("from scratch − linear probe of MAE", SUPERVISED, MAE_PROBED),
            _above("fine-tuned MAE − from scratch", MAE_TUNED, SUPERVISED),
        ),
    ),
    Claim(
        13,
        "Fine-tuned MAE attends as the supervised model does",
        "Figure 5",
        (
            _closes_half(
                "half the gap of MAE in distance to the supervised model − that of fine-tuned MAE",
                "patches",
                "distance-gap",
            ),
            _closes_half(
                "half the gap of MAE in entropy to the supervised model − that of fine-tuned MAE", "nats", "entropy-gap"
            ),
        ),
    ),
    Claim(
        14,
        "MAE's higher layers attend near by and at few places",
        "Figure 5",
        (
            _masked(
                "distance in the higher third, supervised − MAE",
                "patches",
                (_DEIT, "distance-higher"),
                (_MAE, "distance-higher"),
            ),
            _masked(
                "entropy in the higher third, supervised − MAE",
                "nats",
                (_DEIT, "entropy-higher"),
                (_MAE, "entropy-higher"),
            ),
            _masked(
                "distance of MAE, lower − higher third", "patches", (_MAE, "distance-lower"), (_MAE, "distance-higher")
            ),
        ),
    ),
    Claim(
        15,
        "MoCo-v3's lower layers attend broadly and alike",
        "Figure 5",
        (
            _looks(
                "distance in the lower third, MoCo-v3 − supervised",
                "patches",
                (_MOCO, "distance-lower"),
                (_DEIT, "distance-lower"),
            ),
            _looks(
                "spread of distance over heads in the lower third, supervised − MoCo-v3",
                "patches",
                (_DEIT, "head-spread-lower"),
                (_MOCO, "head-spread-lower"),
            ),
        ),
        beside=(
            _looks(
                "the same of MoCo-v3's network untrained: distance",
                "patches",
                (_NO_MOCO, "distance-lower"),
                (_DEIT, "distance-lower"),
            ),
            _looks(
                "the same of MoCo-v3's network untrained: spread of distance",
                "patches",
                (_DEIT, "head-spread-lower"),
                (_NO_MOCO, "head-spread-lower"),
            ),
        ),
    ),
    Claim(
        16,
        "Distilling the last layer's attention helps more than any other single layer or all",
        "Figure 7",
        (
            *(
                _above(f"last block − {_blocks(other)}", _distilled(_LAST), _distilled(other))
                for other in DISTILLED
                if other != _LAST
            ),
            _above("last block − no distillation", _distilled(_LAST), _WHOLE),
        ),
    ),
    Claim(
        17,
        "Distillation makes the higher layers more like the supervised model",
        "Figure 6",
        (_looks("higher third, D-MAE − MAE", "CKA", (_DMAE, "cka-higher"), (_MAE, "cka-higher"), look=LOOK_DISTILLED),),
    ),
    Claim(
        18,
        "Distillation helps transfer most on small sets",
        "Table 5, smallest and largest set",
        (
            _small_and_large("gain of D-MAE over MAE, smallest − largest set", _both(DMAE), _both(MAE)),
            _above("D-MAE − MAE, smallest set", _both(DMAE)[0], _both(MAE)[0]),
        ),
    ),
)
