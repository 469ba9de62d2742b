"""Names of models on a hub."""

import pytest

from vitlet.errors import UsageError
from vitlet.weights.hub import HubName


@pytest.mark.parametrize("text", ["hf://someone/digits", "hf://a/b", "hf://Some-One/vit_tiny.v2"])
def test_a_name_has_an_owner(text: str) -> None:
    name = HubName.parse(text)
    assert str(name) == text
    assert text.endswith(name.repository)


@pytest.mark.parametrize(
    "text",
    ["someone/digits", "hf://digits", "hf://a/b/c", "hf:///b", "hf://a/", "hf://a/../b", "hf://a/b..c", "hf://-a/b",
     "https://huggingface.co/a/b", "hf://a/b\n", "hf://a/ b", ""],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="hf://USER/NAME"):
        HubName.parse(text)
