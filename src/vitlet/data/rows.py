"""Images inside Parquet files, as Hugging Face stores them: `image: struct<bytes, path>`, `label`.

Class names come from the `huggingface` entry of the schema's metadata. The image bytes are copied once, unchanged,
into the cache, because Parquet cannot be read at random; from there they are mapped.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vitlet.data.columns import SPLITS, Writer
from vitlet.errors import DataError
from vitlet.text import printable

_SPLIT_NAME = re.compile(r"(?i)(train|val|test)")
_BATCH_ROWS = 256


def find_row_files(source: Path) -> list[Path]:
    """The Parquet files with image bytes, sorted: `source` itself, or those in it and in its `data/`."""
    if source.is_dir():
        try:
            found = [*source.glob("*.parquet"), *source.glob("data/*.parquet")]
        except OSError:
            found = []
    else:
        found = [source] if source.suffix.lower() == ".parquet" else []
    files = [file for file in found if file.is_file()]
    return sorted((file for file in files if _image_column(_schema(file))), key=lambda file: os.fsencode(file))


def rows_key(files: list[Path], *, root: Path) -> str:
    """Changes when one of the files does."""
    status = [(str(file.relative_to(root)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return repr((str(root), status))


def add_rows(files: list[Path], *, root: Path, writer: Writer) -> None:
    """Add every row of `files`, training files first, and copy its image.

    Raises:
        DataError: if splits or label columns are not clear, a label has no class name, or a file is damaged.
    """
    splits = split_codes(files, where=printable(root))
    for file in sorted(files, key=lambda file: splits[file]):
        try:
            _add_file(file, name=os.fsencode(file.relative_to(root)), split=splits[file], writer=writer)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"cannot read {printable(file)}", why=printable(str(error)[:200]), fix="fetch the file again"
            ) from error
    if not len(writer):
        raise DataError("no images", where=printable(root), why="The Parquet files have no rows")


def _add_file(file: Path, *, name: bytes, split: int, writer: Writer) -> None:
    mtime = file.stat().st_mtime_ns
    with pq.ParquetFile(file) as table:
        schema = table.schema_arrow
        image_column = _image_column(schema)
        assert image_column is not None  # find_row_files looked
        label_column = _label_column(schema, file)
        names = _class_names(schema, label_column)
        columns = [image_column, *([label_column] if label_column else [])]
        if names:
            writer.declare([name.encode() for name in names])
        row = 0
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            images = batch.column(image_column).to_pylist()
            labels = batch.column(label_column).to_pylist() if label_column else [None] * len(batch)
            for image, label in zip(images, labels, strict=True):
                content, path = (image or {}).get("bytes") or b"", (image or {}).get("path")
                place = b"%s/%08d" % (name, row) + (b"/" + os.path.basename(path).encode() if path else b"")
                writer.add(
                    place,
                    label=_label(label, names, file, row),
                    split=split,
                    size=len(content),
                    mtime=mtime,
                )
                writer.add_content(content)
                row += 1


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"cannot read {printable(file)} as Parquet", why=printable(str(error)[:200]), fix="fetch the file again"
        ) from error


def _image_column(schema: pa.Schema) -> str | None:
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            kind = field.type.field("bytes").type
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return field.name
    return None


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Hugging Face's description of the columns; empty where there is none or it is damaged."""
    try:
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


def _label_column(schema: pa.Schema, file: Path) -> str | None:
    features = _features(schema)
    labelled = [n for n in schema.names if isinstance(features.get(n), dict) and "names" in features[n]]
    for name in ("label", "labels"):
        if name in schema.names:
            return name
    if len(labelled) > 1:
        raise DataError(
            f"more than one label column: {printable(', '.join(labelled))}",
            where=printable(file),
            why="It is not clear which one is meant",
            fix="write a copy in which the right one is named label",
        )
    return labelled[0] if labelled else None


def _class_names(schema: pa.Schema, column: str | None) -> list[str]:
    feature = _features(schema).get(column) if column else None
    names = feature.get("names") if isinstance(feature, dict) else None
    words = [str(name) for name in names] if isinstance(names, list) else []
    # ImageNet has two classes called crane: equal names stay different classes
    return [f"{word} ({i})" if words.count(word) > 1 else word for i, word in enumerate(words)]


def _label(value: Any, names: list[str], file: Path, row: int) -> bytes | None:
    """The class name of a row's label; -1 is Hugging Face's "hidden"."""
    if value is None or value == -1:
        return None
    if not names:
        return str(value).encode()
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value].encode()
    raise DataError(
        f"label {printable(str(value))} is out of range",
        where=f"{printable(file)}, row {row}",
        why=f"The file names {len(names)} classes",
        fix="correct the label or the class names",
    )


def split_codes(files: list[Path], *, where: str) -> dict[Path, int]:
    """Split codes from the files' names; files that name none are training shards, if all are."""
    matches = {file: _SPLIT_NAME.match(file.name) for file in files}
    if not any(matches.values()):
        return dict.fromkeys(files, 0)
    unclear = [file.name for file, match in matches.items() if not match]
    if unclear:
        raise DataError(
            f"the split of {printable(', '.join(unclear[:5]))} is not clear",
            where=where,
            why="Other files are named train*, validation* or test*",
            fix="rename or move these files",
        )
    return {file: SPLITS.index(match[1].lower()) for file, match in matches.items() if match}
