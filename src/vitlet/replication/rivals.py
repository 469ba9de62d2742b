"""Table 2: other authors' lightweight networks next to the paper's own, quoted but for two controls.

*Paper*: Wang et al. 2023. The figures of the others are mostly from timm's published lists, their speed and
accuracy from `vitlet.benchmarks.published`.
"""

from vitlet.benchmarks.published import PAPER
from vitlet.replication.chains import MAE, MAE_TUNED, MOCOV3
from vitlet.replication.steps import Cell, Evaluate, Finetune, Pretrain, Published, Row, Table, Tag


def _p(printed: str, tag: Tag, note: str = "") -> Published:
    return Published(printed, tag, note)


_SIZE, _SPEED, _TOP1, _REAL, _V2 = "parameters, M", "images/s, RTX 3090", "top-1, %", "ReaL, %", "V2, %"
_APART = "measured by vitlet bench models"
_BORROWED: dict[str, tuple[str, str, str, tuple[str, Tag] | None]] = {
    "resnet18": ("11.69", "77.274", "57.170", ("69.7", "M?")),
    "resnet50": ("25.56", "85.719", "68.720", ("80.4", "M+")),
    "efficientnet_b0": ("5.29", "84.025", "66.300", ("77.7", "T")),
    "efficientnet_b1": ("7.79", "84.611", "67.460", ("78.8", "M+")),
    "mobilenetv2_100": ("3.50", "80.255", "60.190", ("72.0", "M?")),
    "mobilenetv3_large_100": ("5.48", "82.179", "63.350", ("75.2", "M?")),
    "levit_128": ("9.21", "84.843", "66.570", None),
    "levit_192": ("10.95", "85.569", "67.900", None),
    "xcit_tiny_12_p16_224": ("6.72", "85.206", "67.010", ("78.6", "M?")),
    "pit_ti_distilled_224": ("5.10", "81.972", "63.140", None),
    "cait_xxs24_224": ("11.96", "85.228", "67.340", None),
    "mobilevit_s": ("5.58", "84.271", "66.860", ("78.4", "M?")),
    "deit_tiny_patch16_224": ("5.72", "80.016", "59.860", ("72.2", "T")),
    "deit_tiny_distilled_patch16_224": ("5.91", "81.997", "62.800", ("76.6", "M?")),
}
"""By timm's name: size, ReaL and V2 in timm's published lists, and the paper's top-1, if its cell is known."""


_CONTROLS = {"deit_tiny_patch16_224": Finetune(None, "scratch-3heads"), "efficientnet_b0": Finetune(None, "convnet")}
"""Trained here from scratch, since a row of the paper's own is read against them: 12 heads, and SEED."""


def _speed(name: str) -> Published:
    return _p(f"{PAPER[name].images_per_second:.2f}", "L")


def _borrowed(name: str) -> Row:
    size, real, v2, cell = _BORROWED[name]
    theirs = f"{PAPER[name].top1:.3f}"
    top1 = _p(theirs, "L", "timm's; the cell of the paper is not known")
    if cell is not None:
        longer = "1000 epochs; " if name == "deit_tiny_distilled_patch16_224" else ""
        top1 = _p(*cell, f"{longer}timm: {theirs} [L]")
    three = _three(top1, _p(real, "L"), _p(v2, "L"), _CONTROLS.get(name))
    return Row(PAPER[name].title, (*_timed(_p(size, "L"), _speed(name)), *three))


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
        *map(_borrowed, _BORROWED),
        Row(
            "EfficientNet-B0 after SEED",
            (
                *_timed(_p("5.29", "L"), _speed("efficientnet_b0")),
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
