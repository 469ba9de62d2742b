"""Figures 1 to 7: what each shows, what the paper says about it, and the steps behind it.

*Paper*: Wang et al. 2023. Its figures print no numbers except the few given here; see `vitlet.replication.tables` for
the tags.
"""

from vitlet.replication.chains import (
    DISTILLED,
    LOOK,
    LOOK_DISTILLED,
    MAE,
    MOCOV3,
    distilled,
    transferred,
    tuned,
)
from vitlet.replication.steps import Cell, Drawing, Finetune, Pretrain, Published, Row, Table
from vitlet.replication.tables import DOWNSTREAM

KEPT = (0, 2, 4, 6, 8, 10, 12)
"""Numbers of blocks kept in Figures 2 and 4; the paper's values are not known."""

FIGURE_1 = Drawing(
    "figure-1",
    "Similarity of layers to the supervised model",
    "CKA of each layer with each layer of DeiT-Tiny; layer 0 is the embedding.",
    "MAE: high in the lower layers, low in the higher ones. MoCo-v3: high almost everywhere.",
    "T",
    LOOK,
    "similarity",
    ("MAE-Tiny", "MoCov3-Tiny"),
)


def _kept(title: str, start: Pretrain, at_the_end: Published | None) -> Row:
    cells = (Cell(str(k), at_the_end if k == 12 else None, tuned(start, keep=k)) for k in KEPT)
    return Row(title, tuple(cells))


FIGURE_2 = Table(
    "figure-2",
    "Lower blocks kept, fine-tuned on ImageNet",
    "Only the lowest blocks of the pre-trained encoder are kept, the rest is as before pre-training (the authors' code "
    "draws it as for training from scratch); 100 epochs. Published: the curve of MAE saturates, that of MoCo-v3 peaks "
    "before the end [T]; no other points are known.",
    tuple(str(k) for k in KEPT),
    (_kept("MAE-Tiny", MAE, Published("76.2", "I")), _kept("MoCov3-Tiny", MOCOV3, None)),
    axis="blocks kept, of 12",
)

FIGURE_3 = Drawing(
    "figure-3",
    "High frequencies kept by each layer",
    "Log amplitude of the highest minus that of the lowest frequency of the patch map.",
    "MoCo-v3's first layer, the patch embedding, loses much of the high frequencies.",
    "T",
    LOOK,
    "spectrum",
    ("MAE-Tiny", "MoCov3-Tiny"),
)


def _kept_downstream(title: str, start: Pretrain, data: str, columns: tuple[str, ...]) -> Row:
    return Row(title, tuple(Cell(k, None, transferred(start, data, keep=int(k))) for k in columns))


FIGURE_4 = Table(
    "figure-4",
    "Lower blocks kept, fine-tuned on small data",
    "As Figure 2 on downstream sets. Published: accuracy rises with every block kept, the higher ones matter more the "
    "smaller the set, and MoCo-v3 overtakes MAE only when they are kept [T]; no points are known, nor which sets.",
    tuple(str(k) for k in KEPT),
    tuple(
        _kept_downstream(f"{title}, {name}", start, data, tuple(str(k) for k in KEPT))
        for data, name in (DOWNSTREAM[0], DOWNSTREAM[3], DOWNSTREAM[5])
        for title, start in (("MAE-Tiny", MAE), ("MoCov3-Tiny", MOCOV3))
    ),
    axis="blocks kept, of 12",
)

FIGURE_5 = Drawing(
    "figure-5",
    "Where the heads of each layer look",
    "Mean distance and entropy of the attention of each head.",
    "MAE's higher layers look near by and at few places; fine-tuned MAE looks as DeiT-Tiny does; MoCo-v3's lower "
    "layers look far and its heads alike.",
    "T",
    LOOK,
    "attention",
    ("MAE-Tiny-FT", "MAE-Tiny", "MoCov3-Tiny"),
)

FIGURE_6 = Drawing(
    "figure-6",
    "Similarity of layers after distillation",
    "CKA with DeiT-Tiny of the teacher, of MAE and of distilled MAE.",
    "Distilled MAE is more alike in the higher layers than MAE is.",
    "T",
    LOOK_DISTILLED,
    "similarity",
)

_POINTS = (*(str(first) for first, *_ in DISTILLED[:-1]), "all")
FIGURE_7 = Table(
    "figure-7",
    "Which layer to distil",
    "Attention of one block or of all is distilled; fine-tuned for 100 epochs. Published: the last layer is best, "
    "better than all; low layers bring almost nothing [T]; no points are known.",
    _POINTS,
    (
        Row(
            "D-MAE-Tiny",
            tuple(
                Cell(point, None, Finetune(distilled(*blocks), "impr-100"))
                for point, blocks in zip(_POINTS, DISTILLED, strict=True)
            ),
        ),
    ),
    axis="block distilled, of 12",
)

FIGURES = (FIGURE_1, FIGURE_2, FIGURE_3, FIGURE_4, FIGURE_5, FIGURE_6, FIGURE_7)
