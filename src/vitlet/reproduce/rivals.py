"""Table 2: other authors' lightweight networks next to the paper's own, quoted but for two controls.

*Paper*: Wang et al. 2023. The figures of the others are mostly from timm's published lists; see
`vitlet.bench.published`.
"""

from vitlet.reproduce.chains import MAE, MAE_TUNED, MOCOV3
from vitlet.reproduce.steps import Cell, Evaluate, Finetune, Pretrain, Published, Row, Table, Tag


def _p(printed: str, tag: Tag, note: str = "") -> Published:
    return Published(printed, tag, note)


_SIZE, _SPEED, _TOP1, _REAL, _V2 = "parameters, M", "images/s, RTX 3090", "top-1, %", "ReaL, %", "V2, %"
_UNKNOWN = "timm's; the cell of the paper is not known"
_APART = "measured by vitlet bench models"
_BORROWED: tuple[tuple[str, str, str, str, str, Published], ...] = (
    ("ResNet-18", "11.69", "8950.63", "77.274", "57.170", _p("69.7", "M?", "timm: 69.744 [L]")),
    ("ResNet-50", "25.56", "2695.53", "85.719", "68.720", _p("80.4", "M+", "timm: 80.376 [L]")),
    ("EfficientNet-B0", "5.29", "5369.25", "84.025", "66.300", _p("77.7", "T", "timm: 77.690 [L]")),
    ("EfficientNet-B1", "7.79", "2953.49", "84.611", "67.460", _p("78.8", "M+", "timm: 78.796 [L]")),
    ("MobileNet-v2 1.0", "3.50", "7909.09", "80.255", "60.190", _p("72.0", "M?", "timm: 72.970 [L]")),
    ("MobileNet-v3-L 1.0", "5.48", "9113.48", "82.179", "63.350", _p("75.2", "M?", "timm: 75.766 [L]")),
    ("LeViT-128, distilled", "9.21", "13275.72", "84.843", "66.570", _p("78.492", "L", _UNKNOWN)),
    ("LeViT-192, distilled", "10.95", "11388.57", "85.569", "67.900", _p("79.832", "L", _UNKNOWN)),
    ("XCiT-T12/16, distilled", "6.72", "3156.96", "85.206", "67.010", _p("78.6", "M?", "timm: 78.576 [L]")),
    ("PiT-Ti, distilled", "5.10", "4547.26", "81.972", "63.140", _p("74.532", "L", _UNKNOWN)),
    ("CaiT-XXS-24", "11.96", "1351.39", "85.228", "67.340", _p("78.384", "L", _UNKNOWN)),
    ("MobileViT-S", "5.58", "1899.79", "84.271", "66.860", _p("78.4", "M?", "timm: 78.312 [L]")),
    ("DeiT-Tiny, 3 heads", "5.72", "4843.68", "80.016", "59.860", _p("72.2", "T", "timm: 72.172 [L]")),
    (
        "DeiT-Tiny, 3 heads, distilled",
        "5.91",
        "4763.87",
        "81.997",
        "62.800",
        _p("76.6", "M?", "1000 epochs; timm: 74.512 [L]"),
    ),
)
"""Name, size, speed, ReaL, V2 and top-1. All but the last are from timm's published lists, not the paper's cells."""


_CONTROLS = {"DeiT-Tiny, 3 heads": Finetune(None, "scratch-3heads"), "EfficientNet-B0": Finetune(None, "convnet")}
"""Trained here from scratch, since a row of the paper's own is read against them: 12 heads, and SEED."""


def _borrowed(row: tuple[str, str, str, str, str, Published]) -> Row:
    name, size, speed, real, v2, top1 = row
    three = _three(top1, _p(real, "L"), _p(v2, "L"), _CONTROLS.get(name))
    return Row(name, (*_timed(_p(size, "L"), _p(speed, "L")), *three))


def _timed(size: Published, speed: Published | None) -> tuple[Cell, ...]:
    """Size and speed of a model, which need no training and are measured separately."""
    return Cell(_SIZE, size, unmeasured=_APART), Cell(_SPEED, speed, unmeasured=_APART)


def _three(top1: Published, real: Published | None, v2: Published | None, step: Finetune | None
           ) -> tuple[Cell, ...]:  # fmt: skip
    """The same model on ImageNet, with ReaL labels, and on ImageNet-V2; without a step, quoted and not measured."""
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
    "The models of others are quoted; two of them are also trained here from scratch, as controls. Their size, speed, "
    "ReaL and V2 are timm's lists [L], from which the paper took its speeds [T]; its other cells may differ.",
    (_SIZE, _SPEED, _TOP1, _REAL, _V2),
    (
        *(_borrowed(row) for row in _BORROWED),
        Row(
            "EfficientNet-B0 after SEED",
            (
                *_timed(_p("5.29", "L"), _p("5369.25", "L")),
                Cell(
                    _TOP1,
                    _p("77.2", "T"),
                    Finetune(Pretrain("seed", teacher=MOCOV3), "convnet"),
                    note="the paper does not name the teacher; MoCov3-Tiny is our choice",
                ),
            ),
        ),
        *(Row(name, (_RECALLED,)) for name in ("Mobile-Former", "EdgeViT-XS", "Swin-1G")),
        _ours("MAE-Tiny-FT, 300 epochs", _p("5.7", "T"), _p("78.0", "R"), MAE_TUNED, _p("4020", "M?")),
        _ours(
            "MAE-Tiny-FT, 1000 epochs", _p("5.7", "T"), _p("78.5", "T"), Finetune(MAE, "impr-1000"), _p("4020", "M?")
        ),
        _ours(
            "MAE-Tiny-FT, relative positions, 1000 epochs",
            _p("5.83", "X"),
            _p("79.0", "R"),
            Finetune(MAE, "impr-rpe-1000"),
        ),
    ),
    unit="",
)
