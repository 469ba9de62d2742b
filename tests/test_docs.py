"""What the documentation tells people to type exists, and what it links to is there."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from vitlet.cli import app
from vitlet.recipes import all_recipes

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_STARTS = re.compile(r"^(?:torchrun .* -m )?vitlet ")


def lines(text: str) -> Iterator[str]:
    """Every line in a fenced block of shell that calls vitlet, by itself or by torchrun, without its comment."""
    for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s+#.*", "", line.strip().removeprefix("$ "))
            if _STARTS.match(line):
                yield line


def commands(text: str) -> Iterator[str]:
    """The words for vitlet of those lines."""
    for line in lines(text):
        yield _STARTS.sub("", line)


def mentions(text: str) -> Iterator[str]:
    """Every `vitlet …` between backticks in running text."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    yield from re.findall(r"`vitlet ([^`]+)`", prose)


def unknown_words(mention: str) -> list[str]:
    """Verbs and options in a mention that do not exist; it may leave out what is required."""
    verb, *rest = mention.split()
    if verb.startswith("-"):
        return [] if verb in ("--help", "--version") else [verb]
    if verb not in app:
        return [verb]
    inner = app[verb]
    while rest and rest[0] in inner:
        inner, rest = inner[rest[0]], rest[1:]
    known = {name for argument in inner.assemble_argument_collection() for name in argument.names}
    return [word for word in rest if word.startswith("--") and word.split("=")[0] not in known | {"--help", "--debug"}]


def parse(command: str) -> None:
    words = [re.sub(r"\$\w+", "0", word) for word in shlex.split(command)]
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    recipe = bound.arguments.get("recipe")
    assert recipe is None or recipe.endswith(".json") or recipe in all_recipes(), f"no recipe {recipe}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_parses(page: Path):
    text = page.read_text()
    for command in commands(text):
        try:
            parse(command)
        except CycloptsError as error:
            pytest.fail(f"vitlet {command}: {error}")
    for mention in mentions(text):
        assert not unknown_words(mention), f"vitlet {mention}"


def test_commands_were_found():
    found = [c for page in PAGES for c in commands(page.read_text())]
    assert len(found) >= 20
    verbs = {c.split()[0] for c in found}
    assert verbs >= set(app) - {"--help", "-h", "--version", "bench", "resume"} - {v for v in app if v.startswith("-")}


@pytest.mark.parametrize("wrong", ["pretrian mae_micro --data d --out o", "probe r --data d --protocl knn", "embed r"])
def test_a_wrong_command_would_be_found(wrong: str):
    with pytest.raises(CycloptsError):
        parse(wrong)


def test_a_wrong_recipe_or_mention_would_be_found():
    with pytest.raises(AssertionError, match="no recipe"):
        parse("pretrain mae_mircro --data d --out o")
    assert unknown_words("pretrain NAME --epoch 3") == ["--epoch"]
    assert unknown_words("pretain NAME") == ["pretain"]


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links without a file."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    targets = [t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"https?:|mailto:|#", t)]
    return [t for t in targets if t and not (page.parent / t).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_exists(page: Path):
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_would_be_found():
    assert broken_links(ROOT / "README.md", "[a](docs/nowhere.md) [b](docs/start.md#x) [c](https://a.b)") == [
        "docs/nowhere.md"
    ]


def without_a_path(text: str) -> bool:
    """Whether `vitlet` follows commands that install it where no shell looks, and the page does not say so."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.DOTALL)
    first = [line.removeprefix("$ ").split()[0] for block in blocks for line in block.splitlines() if line.strip()]
    installs = first[:1] in (["make"], ["uv"]) and "vitlet" in first
    says = re.search(r"source \.venv/bin/activate|uv run ", text)
    return bool(installs and not says) or ("uv sync" in text and "uv run " not in text)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_page_that_installs_says_how_vitlet_is_found(page: Path):
    assert not without_a_path(page.read_text())


def test_a_page_that_does_not_would_be_found():
    shell = "```bash\nmake demo\n```\n{}\n```bash\nvitlet recipes\n```"
    assert without_a_path(shell.format("That installs."))
    assert not without_a_path(shell.format("Once per terminal: `source .venv/bin/activate`."))
    assert without_a_path("Run `uv sync`, and then `vitlet demo`.")
    assert not without_a_path("Run `uv sync`, and then `uv run vitlet demo`.")
    assert not without_a_path("```bash\nvitlet recipes\nmake demo\n```")


def test_make_takes_an_environment_that_is_there(tmp_path: Path):
    """With another build of PyTorch in it, say: the control without one creates it."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    def would() -> str:
        done = subprocess.run(["make", "-n", "demo"], cwd=tmp_path, env=os.environ | {"MAKEFLAGS": ""},
                              capture_output=True, text=True, check=True)  # fmt: skip
        assert "-m pip install" in done.stdout
        assert "--upgrade" not in done.stdout
        return done.stdout

    assert "-m venv .venv" in would()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    assert "-m venv" not in would()


def test_papers_has_a_row_for_every_method():
    rows = (ROOT / "docs" / "papers.md").read_text()
    for name, function in all_recipes().items():
        assert f"| `{function().objective.method}` |" in rows, name


def test_pages_of_the_site_are_in_its_navigation():
    listed = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in listed
