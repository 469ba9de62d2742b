"""Tables 1 to 5: every row, with what was published of it and the chain that measures it.

*Paper*: Wang et al. 2023. Where a figure was read is its tag, see `steps.MEANINGS`. Figures with an M are recalled and
unconfirmed; they are shown as such and are no targets. Every row keeps its place until it works.
"""

from vitlet.reproduce.chains import (
    DINO,
    DMAE,
    DMAE_TUNED,
    MAE,
    MAE_PROBED,
    MAE_TUNED,
    MOCOV3,
    MOCOV3_TUNED,
    SIMMIM,
    SUPERVISED,
    pretrained_on,
    transferred,
    tuned,
)
from vitlet.reproduce.steps import Cell, Evaluate, Finetune, Pretrain, Published, Row, Start, Table, Tag

_ORI, _IMPR = "ori.", "impr."
_REGNET = Pretrain("regnet")


def _p(printed: str, tag: Tag, note: str = "") -> Published:
    return Published(printed, tag, note)


TABLE_1 = Table(
    "table-1",
    "Pre-training methods compared by fine-tuning",
    "Fine-tuned with all labels of ImageNet-1k by the DeiT-like recipe (ori.) and by the improved one (impr.).",
    (_ORI, _IMPR),
    (
        Row(
            "from scratch, 12 heads (DeiT-Tiny)",
            (
                Cell(_ORI, _p("74.5", "T"), Finetune(None, "scratch-ori")),
                Cell(_IMPR, _p("75.8", "R"), SUPERVISED),
            ),
        ),
        Row("from scratch, 3 heads", (Cell(_ORI, _p("72.2", "T"), Finetune(None, "scratch-3heads")),)),
        Row(
            "MoCo-v3, 400 epochs",
            (
                Cell(_ORI, _p("73.7", "M?", "may be the figure of the class-token head"), Finetune(MOCOV3, "ori-moco")),
                Cell(_IMPR, _p("76.8", "R"), MOCOV3_TUNED),
            ),
        ),
        Row(
            "MAE, 400 epochs",
            (
                Cell(_ORI, _p("76.1", "H", "the cell of the final version is not known"), Finetune(MAE, "ori")),
                Cell(_IMPR, _p("78.0", "R"), MAE_TUNED),
            ),
        ),
        Row("MAE, 400 epochs, fine-tuned for 100", (Cell(_IMPR, _p("76.2", "I"), tuned(MAE, keep=12)),)),
        Row(
            "supervised on ImageNet-21k (Steiner et al. 2021)",
            (Cell(_IMPR, _p("76.9", "M?"), tuned(Pretrain("supervised-21k"))),),
        ),
        Row(
            "D-MAE, 400 epochs",
            (Cell(_ORI, _p("76.5", "H"), Finetune(DMAE, "ori")), Cell(_IMPR, _p("78.4", "R"), DMAE_TUNED)),
        ),
        Row("DINO", (Cell(_IMPR, None, tuned(DINO)),)),
        Row("SimMIM", (Cell(_IMPR, None, tuned(SIMMIM)),)),
        Row(
            "from scratch, RegNetY-160 as teacher",
            (
                Cell(
                    _IMPR,
                    _p("75.9", "H", "first version of the paper"),
                    Finetune(None, "scratch-taught", teacher=_REGNET),
                ),
            ),
        ),
        Row(
            "MAE, 400 epochs, RegNetY-160 as teacher",
            (Cell(_IMPR, _p("76.9", "H", "first version of the paper"), Finetune(MAE, "taught", teacher=_REGNET)),),
        ),
        Row(
            "MAE, 400 epochs, linear probe",
            (Cell(_IMPR, _p("23.4", "T", "from the text; no fine-tuning"), MAE_PROBED),),
        ),
    ),
)

_SIZE, _SPEED, _TOP1, _REAL, _V2 = "parameters, M", "images/s, RTX 3090", "top-1, %", "ReaL, %", "V2, %"
_APART = "measured by vitlet bench models"
_BORROWED: tuple[tuple[str, str, str, str, str, Published | None], ...] = (
    ("ResNet-18", "11.69", "8950.63", "77.274", "57.170", _p("69.7", "M?", "timm: 69.744 [L]")),
    ("ResNet-50", "25.56", "2695.53", "85.719", "68.720", _p("80.4", "M+", "timm: 80.376 [L]")),
    ("EfficientNet-B0", "5.29", "5369.25", "84.025", "66.300", _p("77.7", "T", "timm: 77.690 [L]")),
    ("EfficientNet-B1", "7.79", "2953.49", "84.611", "67.460", _p("78.8", "M+", "timm: 78.796 [L]")),
    ("MobileNet-v2 1.0", "3.50", "7909.09", "80.255", "60.190", _p("72.0", "M?", "timm: 72.970 [L]")),
    ("MobileNet-v3-L 1.0", "5.48", "9113.48", "82.179", "63.350", _p("75.2", "M?", "timm: 75.766 [L]")),
    ("LeViT-128, distilled", "9.21", "13275.72", "84.843", "66.570", None),
    ("LeViT-192, distilled", "10.95", "11388.57", "85.569", "67.900", None),
    ("XCiT-T12/16, distilled", "6.72", "3156.96", "85.206", "67.010", _p("78.6", "M?", "timm: 78.576 [L]")),
    ("PiT-Ti, distilled", "5.10", "4547.26", "81.972", "63.140", None),
    ("CaiT-XXS-24", "11.96", "1351.39", "85.228", "67.340", None),
    ("MobileViT-S", "5.58", "1899.79", "84.271", "66.860", _p("78.4", "M?", "timm: 78.312 [L]")),
    ("DeiT-Tiny, 3 heads", "5.72", "4843.68", "80.016", "59.860", _p("72.2", "T", "timm: 72.172 [L]")),
    ("DeiT-Tiny, 3 heads, distilled", "5.91", "4763.87", "81.997", "62.800", _p("76.6", "M?", "1000 epochs")),
)
"""Models of others: their speed, ReaL and V2 columns are timm's published lists, not the paper's cells."""


def _borrowed(row: tuple[str, str, str, str, str, Published | None]) -> Row:
    name, size, speed, real, v2, top1 = row
    step = Finetune(None, "scratch-3heads") if name == "DeiT-Tiny, 3 heads" else None
    return Row(name, (*_timed(_p(size, "L"), _p(speed, "L")), *_three(top1, _p(real, "L"), _p(v2, "L"), step)))


def _timed(size: Published, speed: Published | None) -> tuple[Cell, ...]:
    """What a model costs, which needs no training and is measured apart."""
    return Cell(_SIZE, size, unmeasured=_APART), Cell(_SPEED, speed, unmeasured=_APART)


def _three(top1: Published | None, real: Published | None, v2: Published | None, step: Finetune | None
           ) -> tuple[Cell, ...]:  # fmt: skip
    """The same model on ImageNet's images, by ReaL's labels, and on ImageNet-V2; None: quoted, not measured."""
    if step is None:
        return Cell(_TOP1, top1), Cell(_REAL, real), Cell(_V2, v2)
    return (
        Cell(_TOP1, top1, step),
        Cell(_REAL, real, Evaluate(step, "real", "imagenet-val")),
        Cell(_V2, v2, Evaluate(step, "v2", "imagenet-v2")),
    )


def _ours(title: str, size: Published, top1: Published, step: Finetune, speed: Published | None = None) -> Row:
    return Row(title, (*_timed(size, speed), *_three(top1, None, None, step)))


_RECALLED = Cell(
    _TOP1, unmeasured="a model of others, not measured here", note="that there is such a row is recalled [M?]"
)
TABLE_2 = Table(
    "table-2",
    "Beside lightweight ConvNets and other vision transformers",
    "The models of others are quoted, not measured: their speed, ReaL and V2 are timm's lists [L].",
    (_SIZE, _SPEED, _TOP1, _REAL, _V2),
    (
        *(_borrowed(row) for row in _BORROWED),
        Row(
            "EfficientNet-B0 after SEED",
            (
                *_timed(_p("5.29", "L"), _p("5369.25", "L")),
                Cell(_TOP1, _p("77.2", "T"), Finetune(Pretrain("seed", teacher=MOCOV3), "convnet")),
            ),
        ),
        *(Row(name, (_RECALLED,)) for name in ("Mobile-Former", "EdgeViT-XS", "Swin-1G")),
        _ours("MAE-Tiny-FT, 300 epochs", _p("5.7", "R"), _p("78.0", "R"), MAE_TUNED, _p("4020", "M?")),
        _ours("MAE-Tiny-FT, 1000 epochs", _p("5.7", "R"), _p("78.5", "T"), Finetune(MAE, "impr-1000")),
        _ours("MAE-Tiny-FT, relative positions", _p("5.83", "X"), _p("79.0", "R"), Finetune(MAE, "impr-rpe-1000")),
    ),
    unit="",
)

_SETS = (
    ("imagenet", "ImageNet-1k"),
    ("imagenet-1", "1 %"),
    ("imagenet-10", "10 %"),
    ("imagenet-lt", "long-tailed"),
    ("imagenet-21k", "ImageNet-21k"),
)


def _by_data(title: str, method: str, published: tuple[Published, ...]) -> Row:
    cells = (
        Cell(column, value, tuned(pretrained_on(method, name)))
        for (name, column), value in zip(_SETS, published, strict=True)
    )
    return Row(title, tuple(cells))


TABLE_3 = Table(
    "table-3",
    "Effect of the images pre-trained on",
    "Pre-trained on each set, then fine-tuned with all labels of ImageNet-1k (impr.). The paper does not say how long "
    "it pre-trains on the smaller sets; here as many steps as on the whole.",
    tuple(column for _, column in _SETS),
    (
        _by_data(
            "MoCo-v3",
            "mocov3",
            (_p("76.8", "R"), _p("76.2", "M?"), _p("76.5", "M?"), _p("76.1", "M?"), _p("76.9", "M?")),
        ),
        _by_data(
            "MAE", "mae", (_p("78.0", "R"), _p("77.9", "M?"), _p("78.0", "M?"), _p("77.9", "M?"), _p("78.0", "M?"))
        ),
    ),
)

DOWNSTREAM = (
    ("flowers", "Flowers"),
    ("pets", "Pets"),
    ("aircraft", "Aircraft"),
    ("cars", "Cars"),
    ("cifar100", "CIFAR-100"),
    ("inat18", "iNat18"),
)
"""(set, column) of Tables 4 and 5, in the paper's order."""
_BOX, _MASK = "COCO box AP", "COCO mask AP"


def detected(start: Start) -> Finetune:
    """The two columns of COCO: one training, boxes and masks."""
    return Finetune(start, "detection", "coco")


def _downstream(title: str, start: Start, accuracies: str, box: str, mask: str) -> Row:
    cells = [
        Cell(column, _p(value, "M+"), transferred(start, name))
        for (name, column), value in zip(DOWNSTREAM, accuracies.split(), strict=True)
    ]
    step = detected(start)
    return Row(title, (*cells, Cell(_BOX, _p(box, "R"), step, "bbox"), Cell(_MASK, _p(mask, "R"), step, "segm")))


TABLE_4 = Table(
    "table-4",
    "Transfer to other data",
    "Full fine-tuning on six data sets, detection and segmentation on COCO. The six accuracies are recalled [M+].",
    (*(column for _, column in DOWNSTREAM), _BOX, _MASK),
    (
        Row("from scratch", tuple(Cell(column, None, transferred(None, name)) for name, column in DOWNSTREAM)),
        _downstream("supervised (DeiT-Tiny)", SUPERVISED, "96.4 93.1 73.5 85.6 85.8 63.6", "40.4", "35.5"),
        _downstream("MoCov3-Tiny", MOCOV3, "94.8 87.8 73.7 83.9 83.9 54.5", "39.7", "35.1"),
        _downstream("MAE-Tiny", MAE, "85.8 76.5 64.6 78.8 78.9 60.6", "39.9", "35.4"),
    ),
    unit="top-1, %; AP for COCO",
)

_D = _downstream("D-MAE-Tiny", DMAE, "95.2 89.1 79.2 87.5 85.0 63.6", "42.3", "37.4")
TABLE_5 = Table(
    "table-5",
    "Distilled MAE",
    "The last layer's attention of MAE-Base distilled while pre-training. The six accuracies are recalled [M+].",
    (*TABLE_4.columns, "ImageNet-1k"),
    (
        Row("D-MAE-Tiny", (*_D.cells, Cell("ImageNet-1k", _p("78.4", "R"), DMAE_TUNED))),
        Row("MAE-Tiny, to compare with", (*TABLE_4.rows[3].cells, Cell("ImageNet-1k", _p("78.0", "R"), MAE_TUNED))),
    ),
    unit=TABLE_4.unit,
)

TABLES = (TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5)
