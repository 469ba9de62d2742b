"""The tree in the README is the tree on the disk, and each clause is the one that the file itself opens with.

`python tests/test_readme.py` brings the README up to date.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
SOURCE = ROOT / "src" / "vitlet"
_NAME_WIDTH = 18


def clause(docstring: str) -> str:
    """The first clause of a docstring's first sentence, long enough to say something."""
    line = docstring.split("\n\n")[0].replace("\n", " ").strip()
    ends = [m.start() for m in re.finditer(r"[:;](?= )|[.?](?= |$)", line)]
    end = next((e for e in ends if e >= 12), len(line))
    return line[: end + 1] if line[end : end + 1] == "?" else line[:end]


def rendered_tree() -> str:
    """The block as it has to stand in the README."""
    lines = ["src/vitlet/"]
    for path in sorted(SOURCE.rglob("*.py"), key=lambda p: _order(p.relative_to(SOURCE))):
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        if docstring is None and not path.read_text().strip():
            continue
        assert docstring, f"{path} has no docstring"
        inside = path.relative_to(SOURCE)
        is_folder = inside.name == "__init__.py" and len(inside.parts) > 1
        name = f"{inside.parent}/" if is_folder else inside.name
        depth = len(inside.parts) - is_folder
        lines.append(f"{'  ' * depth}{name:{_NAME_WIDTH + 4 - 2 * depth}} {clause(docstring)}")
    return "\n".join(lines)


def _order(inside: Path) -> tuple[bool, str, bool, str]:
    folder = str(inside.parent)
    return folder != ".", folder, inside.name != "__init__.py", inside.name


def printed_tree() -> str:
    found = re.search(r"```text\n(src/vitlet/\n.*?)\n```", README.read_text(), re.DOTALL)
    assert found, "README.md has no block that begins with src/vitlet/"
    return found[1]


def test_the_tree_is_true():
    assert printed_tree() == rendered_tree(), "python tests/test_readme.py brings it up to date"


def test_every_file_stands_in_the_tree_once():
    names = [line.split()[0] for line in printed_tree().splitlines()[1:]]
    folders = [n for n in names if n.endswith("/")]
    files = [n for n in names if not n.endswith("/")]
    on_disk = [p for p in SOURCE.rglob("*.py") if p.read_text().strip()]
    assert len(folders) + len(files) == len(on_disk)
    assert sorted(files) == sorted(p.name for p in on_disk if p.name != "__init__.py" or p.parent == SOURCE)


def test_a_clause_ends_where_it_says_something():
    assert clause("The loop. It receives everything. More.") == "The loop. It receives everything"
    assert clause("Is it learning?") == "Is it learning?"
    assert clause("Images in folders: without labels, one folder a class.") == "Images in folders"
    assert clause("Values of `a.b` and\nof 1.5 more.\n\nNext.") == "Values of `a.b` and of 1.5 more"


def test_files_to_read_first_exist():
    text = README.read_text()
    section = text.split("## Six files to read first")[1].split("\n## ")[0]
    paths = re.findall(r"^\d\. \[`([^`]+)`\]\(([^)]+)\)", section, re.MULTILINE)
    assert len(paths) == 6
    for shown, target in paths:
        assert (ROOT / target).is_file()
        assert target.endswith(shown)


if __name__ == "__main__":
    README.write_text(README.read_text().replace(printed_tree(), rendered_tree()))
