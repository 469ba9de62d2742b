"""Small trees of images for the tests of the data sources."""

import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitlet.data.index import open_index
from vitlet.errors import DataError


@pytest.fixture
def png():
    """A function from a grey level to a PNG file of 8 × 8 pixels."""

    def make(shade: int = 0) -> bytes:
        stream = io.BytesIO()
        Image.new("L", (8, 8), shade % 256).save(stream, format="PNG")
        return stream.getvalue()

    return make


@pytest.fixture
def tree(png):
    """A function that writes an image (of grey 0, 1, 2 …) under each name below a root, and returns the root."""

    def write(root: Path, *names: str | bytes) -> Path:
        for number, name in enumerate(names):
            file = os.path.join(os.fsencode(root), os.fsencode(name))
            os.makedirs(os.path.dirname(file), exist_ok=True)
            with open(file, "wb") as stream:
                stream.write(png(number))
        return root

    return write


@pytest.fixture
def parquet():
    """A function that writes a Parquet file of images as Hugging Face's `datasets` does."""

    def write(file, contents, *, labels=None, names=None, paths=None, image="image", label="label", **options):
        rows = [
            None if content is None else {"bytes": content, "path": path}
            for content, path in zip(contents, paths or [None] * len(contents), strict=True)
        ]
        columns = {image: pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
        features = {image: {"_type": "Image"}}
        if labels is not None:
            columns[label] = pa.array(labels)
            if names is not None:
                features[label] = {"names": names, "_type": "ClassLabel"}
        table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file, row_group_size=2, **options)

    return write


@pytest.fixture
def paths():
    """A function from an index to its paths."""
    return lambda index: [index.path(i) for i in range(len(index))]


@pytest.fixture
def problem():
    """A function that opens data, expects a refusal and returns its message."""

    def refused(data: Path, **options) -> str:
        with pytest.raises(DataError) as caught:
            open_index(data, **options)
        return str(caught.value)

    return refused
