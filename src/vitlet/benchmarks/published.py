"""The models that the paper compares ViT-Tiny with, and their figures in timm's own tables.

Wang et al. 2023, Table 2, as far as timm has the models. Throughput and accuracy are from timm's result files [L]:
`benchmark-infer-amp-nchw-pt110-cu113-rtx3090.csv` (images per second on an RTX 3090, mixed precision, large batches)
and the ImageNet results of timm 0.6.5. The paper took its throughput from there; its own accuracies may differ. None of
these figures was measured here.
"""

from dataclasses import dataclass

SPEED_TAG = "L: timm's table, RTX 3090, AMP, batch up to 1,024"
ACCURACY_TAG = "L: timm 0.6.5's table, ImageNet-1k validation, percent"


@dataclass(frozen=True)
class Published:
    """One model of Table 2."""

    title: str
    images_per_second: float
    top1: float
    """In per cent, as in the table."""


PAPER = {
    "resnet18": Published("ResNet-18", 8950.63, 69.744),
    "resnet50": Published("ResNet-50", 2695.53, 80.376),
    "efficientnet_b0": Published("EfficientNet-B0", 5369.25, 77.690),
    "efficientnet_b1": Published("EfficientNet-B1", 2953.49, 78.796),
    "mobilenetv2_100": Published("MobileNet-v2 1.0", 7909.09, 72.970),
    "mobilenetv3_large_100": Published("MobileNet-v3-L 1.0", 9113.48, 75.766),
    "levit_128": Published("LeViT-128, distilled", 13275.72, 78.492),
    "levit_192": Published("LeViT-192, distilled", 11388.57, 79.832),
    "xcit_tiny_12_p16_224": Published("XCiT-T12/16, distilled", 3156.96, 78.576),
    "pit_ti_distilled_224": Published("PiT-Ti, distilled", 4547.26, 74.532),
    "cait_xxs24_224": Published("CaiT-XXS-24", 1351.39, 78.384),
    "mobilevit_s": Published("MobileViT-S", 1899.79, 78.312),
    "deit_tiny_patch16_224": Published("DeiT-Tiny, 3 heads", 4843.68, 72.172),
    "deit_tiny_distilled_patch16_224": Published("DeiT-Tiny, 3 heads, distilled", 4763.87, 74.512),
}
"""By timm's name. Mobile-Former, EdgeViT and Swin-1G are in the paper's table but not in timm."""
OURS = ("finetune_tiny_impr_300e", "finetune_tiny_impr_rpe_1000e")
"""Recipes whose networks are the paper's own rows: ViT-Tiny with 12 heads, without and with relative positions."""
