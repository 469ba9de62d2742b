"""No call that runs code from data stands in the source. The list is that of SECURITY.md."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "vitlet"

FORBIDDEN = {
    "weights_only=False": r"weights_only=(?!True)",
    "pickle": r"\bpickle\.(?:loads?|Unpickler)\b|from pickle import|\b(?:import|from) (?:dill|joblib|shelve|marshal)\b",
    "torch.load": r"(?<!safetensors\.)\btorch\.load\((?!.*weights_only=True)|from torch import .*\b(?:load|save|hub)\b",
    "torch.save": r"(?<!safetensors\.)\btorch\.save\(",
    "yaml.load": r"\byaml\.(?:load|unsafe_load|full_load)\(",
    "eval": r"(?<![\w.])eval\(",
    "exec": r"(?<![\w.])exec\(",
    "compile": r"(?<![\w.])compile\(",
    "shell": r"shell=True|os\.(?:system|popen)\(",
    "torch.hub": r"\btorch\.hub\.|hub\.load\(",
    "trust_remote_code": r"trust_remote_code",
    "extractall": r"\.extractall\((?!.*filter='data')",
    "np.load": r"allow_pickle=(?!False)",
    "truncated images": r"LOAD_TRUNCATED_IMAGES",
    "objects between ranks": r"(?:broadcast_object_list|all_gather_object|gather_object|scatter_object_list)\(",
    "network": r"\b(?:urllib\.request|requests\.|urlopen\()|\b(?:import|from) (?:requests|httpx|aiohttp|socket)\b",
    "autoescape off": r"autoescape=False",
}

SAMPLES = {
    "weights_only=False": "torch.load(path, weights_only=False)",
    "pickle": "import pickle\nvalue = pickle.load(stream)",
    "torch.load": "torch.load(path)",
    "torch.save": "torch.save(state, path)",
    "yaml.load": "yaml.load(stream, Loader=Loader)",
    "eval": "value = eval(text)",
    "exec": "exec(text)",
    "compile": "compile(text, 'x', 'exec')",
    "shell": "subprocess.run(f'rm {x}', shell=True)",
    "torch.hub": "model = torch.hub.load('a/b', 'c')",
    "trust_remote_code": "load_dataset(name, trust_remote_code=True)",
    "extractall": "archive.extractall(folder)",
    "np.load": "np.load(\n    path,\n    allow_pickle=True,\n)",
    "truncated images": "ImageFile.LOAD_TRUNCATED_IMAGES = True",
    "objects between ranks": "dist.broadcast_object_list(values)",
    "network": "from urllib.request import urlopen\nurlopen(address)",
    "autoescape off": "Environment(autoescape=False)",
}

HARMLESS = """
'''A docstring may say pickle.load( and eval( and torch.load(path).'''
model.eval()  # torch.save( in a comment
torch.load(path, weights_only=True)
re.compile(pattern)
archive.extractall(folder, filter="data")
np.load(path, allow_pickle=False)
torch.compile(step)
safetensors.torch.load(content)
"""


def found_in(source: str) -> set[str]:
    """Names of the forbidden things in `source`; comments and docstrings do not count, line breaks do not hide."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value = ast.Constant(value=None)
    plain = ast.unparse(tree)
    return {name for name, pattern in FORBIDDEN.items() if re.search(pattern, plain)}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_source_runs_no_code_from_data(path: Path):
    assert found_in(path.read_text()) == set()


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_planted_sample_would_be_found(name: str):
    assert name in found_in(SAMPLES[name])


def test_harmless_lines_are_not_taken_for_it():
    assert found_in(HARMLESS) == set()
