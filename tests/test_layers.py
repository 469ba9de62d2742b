"""Imports point down: the contract in pyproject.toml holds, and would be seen to break."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """import-linter on the package and the configuration in `root`."""
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    return subprocess.run(
        [sys.executable, "-c", program, "--config", str(root / "pyproject.toml"), "--no-cache", "--no-logo"],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root / "src")}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def copied(target: Path) -> Path:
    shutil.copytree(ROOT / "src" / "vitlet", target / "src" / "vitlet", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def test_imports_point_down():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


def test_an_upward_import_would_be_found(tmp_path: Path):
    root = copied(tmp_path)
    with (root / "src" / "vitlet" / "text.py").open("a") as file:
        file.write("\n\ndef planted() -> None:\n    from vitlet.train import loop\n")
    done = lint_imports(root)
    assert done.returncode != 0
    assert "vitlet.text is not allowed to import vitlet.train" in done.stdout


def test_a_module_without_a_layer_would_be_found(tmp_path: Path):
    root = copied(tmp_path)
    (root / "src" / "vitlet" / "utils.py").write_text('"""A drawer."""\n')
    done = lint_imports(root)
    assert done.returncode != 0
    assert "utils" in done.stdout
