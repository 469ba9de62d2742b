"""Words that recipes, commands and functions choose among, each list once. Free of torch."""

from typing import Literal

Pool = Literal["mean", "class"]
"""What of a ViT stands for an image: the mean of the patch tokens, or the class token."""
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16", "fp16"]
"""Of the matrix products in training."""
InferencePrecision = Literal["fp32", "bf16"]
"""Of the matrix products without gradients."""
TeacherPrecision = Literal["auto", "fp32"]
"""Of a teacher's forward pass; `auto`: bf16 where the hardware supports it."""
TrackerName = Literal["wandb", "mlflow"]
ProbeName = Literal["knn", "logistic", "linear", "linear-mae", "linear-moco"]
LayerProbe = Literal["knn", "logistic"]
"""Probes that are fast enough to measure every layer."""
Layers = Literal["last", "all"]
EvaluationName = Literal["val", "real", "v2"]
ExportTarget = Literal["timm", "onnx", "openvino", "torch-export"]
KnownPixels = Literal["imagenet", "half"]
"""Usual normalisations of pixels: ImageNet's mean and deviation, or 0.5 and 0.5."""
