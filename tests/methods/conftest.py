"""The option that writes golden losses anew; and small runs and ranks, where the tests here can import them."""

import sys
from pathlib import Path

import pytest

for folder in ("jobs", "faults", "distributed"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write tests/methods/golden anew")
