"""Images inside Parquet files, as Hugging Face stores them: `image: struct<bytes, path>`, `label`.

Class names come from the `huggingface` entry of the schema's metadata. The image bytes are copied once, unchanged,
into the cache and mapped from there, because Parquet has no random access; a cache without room for them is refused
before. From an object store, too, files are read once from start to end, and not again for training.
"""

import json
import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vitlet.data.columns import Writer
from vitlet.data.splits import codes_of_files
from vitlet.data.stores import Entry, Store, store_of
from vitlet.errors import DataError
from vitlet.text import printable

_ENDING = ".parquet"
_BATCH_ROWS = 256


def find_row_files(source: str | os.PathLike[str]) -> tuple[Store, list[Entry]]:
    """Return a store and its Parquet files with image bytes: `source` itself, or those in it and in its `data/`.

    Raises:
        DataError: if `source` cannot be listed, or a `.parquet` file is not Parquet.
    """
    store, name = store_of(source)
    if not name:
        tables = [*store.entries(ending=_ENDING), *store.entries("data", ending=_ENDING)]
    else:
        tables = [store.entry(name)] if name.lower().endswith(_ENDING) else []
    files = [entry for entry in tables if _image_column(_schema(store, entry))]
    return store, sorted(files, key=lambda entry: os.fsencode(entry.name))


def add_rows(store: Store, entries: list[Entry], *, writer: Writer) -> None:
    """Add every row of the files, training files first, and copy its image.

    Raises:
        DataError: if splits or label columns are not clear, a label has no class name, or a file is damaged.
        ResourceError: if the cache has no room for the images; nothing is copied then.
    """
    splits = codes_of_files([entry.name for entry in entries], where=printable(store.root))
    writer.expect(sum(_image_bytes(store, entry) for entry in entries))
    for entry in sorted(entries, key=lambda entry: splits[entry.name]):
        try:
            _add_file(store, entry, split=splits[entry.name], writer=writer)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(store, entry, "", error) from error
    if not len(writer):
        raise DataError(
            "no images",
            where=printable(store.root),
            why="The Parquet files have no rows",
            fix="give files with rows in them",
        )


def _add_file(store: Store, entry: Entry, *, split: int, writer: Writer) -> None:
    name, where = os.fsencode(entry.name), printable(store.place(entry.name))
    with store.open(entry.name) as stream, pq.ParquetFile(stream) as table:
        schema = table.schema_arrow
        image_column = _image_column(schema)
        assert image_column is not None  # `find_row_files` has checked it
        label_column = _label_column(schema, where)
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
                    label=_label(label, names, f"{where}, row {row}"),
                    split=split,
                    size=len(content),
                    mtime=entry.stamp,
                )
                writer.add_content(content)
                row += 1


def _schema(store: Store, entry: Entry) -> pa.Schema:
    try:
        with store.open(entry.name) as stream:
            return pq.read_schema(stream)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(store, entry, " as Parquet", error) from error


def _image_bytes(store: Store, entry: Entry) -> int:
    """Return the size in bytes of all images in a file, uncompressed, as its footer says."""
    try:
        with store.open(entry.name) as stream, pq.ParquetFile(stream) as table:
            facts, column = table.metadata, f"{_image_column(table.schema_arrow)}.bytes"
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(store, entry, " as Parquet", error) from error
    chunks = (facts.row_group(g).column(c) for g in range(facts.num_row_groups) for c in range(facts.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)


def _unreadable(store: Store, entry: Entry, as_what: str, error: Exception) -> DataError:
    return DataError(
        f"cannot read {printable(store.place(entry.name))}{as_what}",
        why=printable(str(error)[:200]),
        fix="fetch the file again",
    )


def _image_column(schema: pa.Schema) -> str | None:
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            kind = field.type.field("bytes").type
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return field.name
    return None


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return Hugging Face's description of the columns; empty if it is missing or damaged."""
    try:
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


def _label_column(schema: pa.Schema, where: str) -> str | None:
    features = _features(schema)
    labelled = [n for n in schema.names if isinstance(features.get(n), dict) and "names" in features[n]]
    for name in ("label", "labels"):
        if name in schema.names:
            return name
    if len(labelled) > 1:
        raise DataError(
            f"more than one label column: {printable(', '.join(labelled))}",
            where=where,
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


def _label(value: Any, names: list[str], where: str) -> bytes | None:
    """Return the class name of a row's label; None for a missing one, which Hugging Face also writes as -1."""
    if value is None or value == -1:
        return None
    if not names:
        return str(value).encode()
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value].encode()
    raise DataError(
        f"label {printable(str(value))} is out of range",
        where=where,
        why=f"The file names {len(names)} classes",
        fix="correct the label or the class names",
    )
