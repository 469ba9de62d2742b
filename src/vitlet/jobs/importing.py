"""Import of weights from other libraries as a model folder that every command accepts."""

import os
from collections import Counter
from pathlib import Path

from rich.table import Table

from vitlet.choices import KnownPixels
from vitlet.console import Teller
from vitlet.jobs.spread import by_first_rank
from vitlet.normalisation import HALF, IMAGENET
from vitlet.text import plural, printable
from vitlet.weights.files import importable, require_replaceable
from vitlet.weights.folder import write_model
from vitlet.weights.foreign import Imported, import_file
from vitlet.weights.source import evaluation_view, numbered_classes


@by_first_rank
def import_weights(
    file: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    heads: int | None = None,
    image_size: int | None = None,
    allow_partial: bool = False,
    prefix: str | None = None,
    pixels: KnownPixels | None = None,
    entry: str | None = None,
) -> Path:
    """Read an encoder from another library, report what became of every tensor, and write a model folder.

    Args:
        file: `.safetensors`, `.pth`, `.pth.tar`, `.pt` or `.bin`.
        out: The model folder.
        heads: Number of heads, if the file does not determine it.
        image_size: Resize the position embedding to images of this side, in pixels.
        allow_partial: Accept an incomplete encoder.
        prefix: Which network to import, if the file has several.
        pixels: Normalisation: ImageNet's mean and deviation, or 0.5 and 0.5.
        entry: Which weights to import, if the file has several for one network, such as `model_ema`.

    Returns:
        The folder.

    Raises:
        CheckpointError: if the file is unsafe, damaged, not a plain ViT, or not whole.
        UsageError: for a folder, if an argument is needed to decide, or `out` contains other files.
    """
    source, folder, teller = importable(file), Path(out), Teller()
    require_replaceable(folder)
    found = import_file(
        source,
        heads=heads,
        image_size=image_size,
        allow_partial=allow_partial,
        prefix=prefix,
        normalisation={"imagenet": IMAGENET, "half": HALF, None: None}[pixels],
        entry=entry,
    )
    _show(found, source, teller)
    write_model(
        folder,
        encoder=found.encoder,
        evaluation=evaluation_view(found.encoder.config.image_size),
        facts=found.facts,
        classifier=found.classifier,
        classes=numbered_classes(found.classifier.head.out_features) if found.classifier else (),
    )
    teller.say(f"written: {printable(folder)}")
    return folder


def _show(found: Imported, source: Path, teller: Teller) -> None:
    shape, layout = found.encoder.config, found.layout
    table = Table(title=f"{printable(source)}: {found.kind.name}", show_header=False)
    table.add_row(
        "encoder",
        f"width {shape.width}, depth {shape.depth}, {shape.heads} heads, {shape.image_size} px in patches of "
        f"{shape.patch_size} px, MLP ratio {shape.mlp_ratio:g}",
    )
    entry = f"entry {printable(found.facts['source']['entry'])}, " if found.facts["source"]["entry"] else ""
    table.add_row("found under", f"{entry}prefix {printable(layout.prefix) or 'none'}")
    whole = len(found.encoder.vit.state_dict())
    table.add_row("matched", f"{whole - len(found.missing)} of {whole} tensors")
    if found.classifier:
        table.add_row("classifier", plural(found.classifier.head.out_features, "class", "classes"))
    for sentence in layout.rewritten:
        table.add_row("rewritten", sentence)
    for reason, count in Counter(layout.dropped.values()).items():
        table.add_row("dropped", f"{plural(count, 'tensor')}: {reason}")
    for reason, count in Counter(layout.lost.values()).items():
        table.add_row("LOST", f"{plural(count, 'tensor')}: {reason}; the encoder computes something else without")
    for name in found.missing:
        stands = "ones stand" if name in layout.unscaled else "untrained values stand"
        table.add_row("MISSING", f"{name}: {stands} there")
    table.add_row("licence", found.kind.licence)
    teller.console.print(table)
    for note in found.notes:
        teller.say(f"note: {note}.")
