"""Chains of steps that several tables share, each defined once, since the same step in two tables is one run."""

from vitlet.replication.steps import BLOCKS, Finetune, Look, Pretrain, Probe, Start, Untrained

MAE, MOCOV3 = Pretrain("mae"), Pretrain("mocov3")
DINO, SIMMIM = Pretrain("dino"), Pretrain("simmim")
TEACHER = Pretrain("teacher")
DMAE = Pretrain("dmae", teacher=TEACHER)
SUPERVISED = Finetune(None, "scratch-impr")
"""The paper's DeiT-Tiny: the baseline of Table 1, the start of Table 4, the reference of every CKA."""

MAE_TUNED = Finetune(MAE, "impr")
MOCOV3_TUNED = Finetune(MOCOV3, "impr-moco")
MAE_UNTRAINED = Finetune(MAE, "impr", keep=0)
"""The control of `MAE_TUNED`: same initialisation, positions included, without pre-training (decision 0007)."""
DMAE_TUNED = Finetune(DMAE, "impr")
MAE_PROBED = Probe(MAE)

PARTS = ("imagenet-1", "imagenet-10", "imagenet-lt", "imagenet-21k")
"""The other pre-training sets of Table 3."""
SMALLEST, LARGEST = "flowers", "inat18"
"""The sets in Table 4 with the fewest and most training images; "small" and "large" in the claims."""

LOOK = Look(
    (
        ("DeiT-Tiny", SUPERVISED),
        ("MAE-Tiny", MAE),
        ("MoCov3-Tiny", MOCOV3),
        ("MAE-Tiny-FT", MAE_TUNED),
        ("untrained MoCov3-Tiny", Untrained(MOCOV3)),
    )
)
"""For Figures 1, 3 and 5, which share one pass."""
LOOK_MASKED = Look(
    (
        ("DeiT-Tiny", SUPERVISED),
        ("MAE-Tiny", MAE),
        ("MAE-Tiny-FT", MAE_TUNED),
        ("untrained MAE-Tiny", Untrained(MAE)),
    )
)
"""For statements about MAE alone, so as not to wait for MoCo-v3, the most expensive to train."""
LOOK_DISTILLED = Look(
    (("DeiT-Tiny", SUPERVISED), ("MAE-Tiny", MAE), ("D-MAE-Tiny", DMAE), ("teacher", TEACHER)),
)
"""For Figure 6."""


DISTILLED: tuple[tuple[int, ...], ...] = ((2,), (4,), (6,), (8,), (10,), (12,), tuple(range(1, BLOCKS + 1)))
"""Points of Figure 7: six single blocks, then all. The paper's list of single blocks is not known."""


def pretrained_on(method: str, data: str) -> Pretrain:
    """A cell of Table 3 before its fine-tuning."""
    return Pretrain(method, data)


def tuned(start: Pretrain, *, keep: int | None = None) -> Finetune:
    """Fine-tuning with all labels, as in Table 3 or (with `keep`) Figure 2; at the paper's scale lengths differ."""
    role = "impr-moco" if start.method == "mocov3" else "impr"
    return Finetune(start, role if keep is None else f"{role}-100", keep=keep)


def transferred(start: Start, data: str, *, keep: int | None = None) -> Finetune:
    """A cell of Table 4 or 5 or, with `keep`, a point of Figure 4."""
    return Finetune(start, "transfer", data, keep)


def distilled(*blocks: int) -> Pretrain:
    """A point of Figure 7: these blocks (of twelve) are distilled; the last alone is D-MAE itself."""
    return DMAE if blocks == (12,) else Pretrain("dmae", teacher=TEACHER, distil=blocks)
