"""No call that runs code from data, and none that connects, stands in the source. The list is that of SECURITY.md.

Names are resolved through imports, `as`, plain assignments and `getattr` with a literal. That finds what is written by
mistake or out of habit; who wants to hide a call can still do so.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "vitlet"

FORBIDDEN = (
    # what runs code from data, and what writes such data
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"),
    *("torch.save", "torch.serialization", "torch.hub", "torch.package", "torch.jit.load"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all"),
    *("numpy.lib.format", "numpy.lib.npyio", "runpy", "code", "importlib.import_module"),
    *("builtins.eval", "builtins.exec", "builtins.__import__"),
    # what hands text to a shell, or starts programs past subprocess
    *("os.system", "os.popen", "os.posix_spawn", "os.posix_spawnp", "pty"),
    *(f"os.exec{ending}" for ending in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *(f"os.spawn{ending}" for ending in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *("subprocess.getoutput", "subprocess.getstatusoutput"),
    # what connects
    *("http.client", "http.server", "urllib.request", "urllib3", "requests", "httpx", "aiohttp", "socket", "ssl"),
    *("asyncio", "multiprocessing.connection.Client", "multiprocessing.connection.Listener"),
    *("ftplib", "smtplib", "xmlrpc", "websockets", "fsspec", "s3fs", "gcsfs", "huggingface_hub", "wandb", "mlflow"),
)
"""Also everything below these names."""

ATTRIBUTES = (
    *("LOAD_TRUNCATED_IMAGES", "read_pickle", "load_state_dict_from_url"),
    *("broadcast_object_list", "scatter_object_list", "send_object_list", "recv_object_list"),
    *("all_gather_object", "gather_object"),
)
"""Of anything."""

LITERALS = {
    "weights_only": True,
    "allow_pickle": False,
    "pickle_module": None,
    "shell": False,
    "trust_remote_code": False,
    "autoescape": True,
    "pretrained": False,
}
"""Keywords of any call that may be given as this literal only; `pretrained` also where a local folder is named."""

CHECKED = {
    "torch.load": (2, "weights_only"),
    "numpy.load": (2, None),
    "builtins.compile": (-1, None),
    "PIL.Image.open": (1, "formats"),
    **dict.fromkeys(["jinja2.Environment", "jinja2.Template"], (1, "autoescape")),
    **dict.fromkeys(["timm.create_model", "timm.models.create_model"], (1, "pretrained")),
    **dict.fromkeys([f"subprocess.{f}" for f in ("run", "call", "check_call", "check_output", "Popen")], (1, None)),
}
"""Functions that may be called and not handed on: with so many positional arguments, and always with this keyword."""

_MLFLOW = ("entities.Metric", "entities.Param", "tracking.MlflowClient")
_TRACKER = "only with --log, and offline unless the environment says otherwise"
ALLOWED = {
    "weights/reading.py:pickle": "for the next",
    "weights/reading.py:pickle.UnpicklingError": "what torch.load raises with weights_only=True",
    "weights/reading.py:torch.serialization.safe_globals": "plain containers, which run nothing",
    "weights/reading.py:torch.serialization.get_unsafe_globals_in_checkpoint": "reads names and imports nothing",
    "data/downstream.py:pickle": "for the next",
    "data/downstream.py:pickle.UnpicklingError": "what torchvision raises over a damaged CIFAR",
    "benchmarks/input.py:PIL.Image.open": "images that the measurement itself wrote",
    "nn/convnet.py:timm.create_model": "pretrained=False stands beside **dilation",
    "data/stores.py:fsspec": "for the next",
    "data/stores.py:fsspec.url_to_fs": "addresses that the user gave, of a list of schemes",
    "jobs/pushing.py:huggingface_hub.HfApi": "vitlet push",
    **{f"train/trackers.py:wandb{name}": _TRACKER for name in ("", ".init", ".Settings")},
    **{f"train/trackers.py:mlflow.{name}": _TRACKER for name in _MLFLOW},
    "__init__.py:importlib.import_module": "names of a table in the file",
    "recipes/__init__.py:importlib.import_module": "the modules of the package",
    "weights/formats.py:importlib.import_module": "names that the package itself gives",
    "jobs/benching.py:importlib.import_module": "names of a closed list in the file",
}
"""FILE:NAME, and why it is well there."""

EVASIONS = {
    "pickle.load": "import pickle as p\np.load(f)",
    "pickle.loads": "from pickle import loads as read\nread(b)",
    "pickle.dump": "import pickle\npickle.dump(value, f)",
    "pickle.Unpickler": "def f():\n    import pickle as p, os\n    q = p\n    return q.Unpickler",
    "joblib.load": "from joblib import load\nload(f)",
    "dill": "import dill",
    "shelve.open": "import shelve as s\ns.open(f)",
    "marshal.loads": "import importlib\nimportlib.import_module('marshal').loads(b)",
    "numpy.load": "import numpy as np\nnp.load(p, None, True)",
    "numpy.load(…)": "import numpy\nnumpy.load(p, **words)",
    "numpy.load handed on": "import numpy as np\nf = partial(np.load, p)",
    "allow_pickle=": "np.load(p, allow_pickle=flag)",
    "torch.serialization.load": "from torch.serialization import load\nload(f)",
    "torch.load": "import torch as t\nt.load(f)",
    "torch.load from": "from torch import load as read\nread(f)",
    "torch.load handed on": "import torch\nlist(map(torch.load, files))",
    "weights_only=": "import torch\ntorch.load(f, weights_only=trusted)",
    "torch.save": "from torch import save\nsave(state, f)",
    "torch.hub.load": "import torch\ntorch.hub.load('a/b', 'c')",
    "torch.hub": "from torch import hub",
    "yaml.load": "from yaml import load\nload(f)",
    "yaml.unsafe_load": "import yaml as y\ny.unsafe_load(f)",
    "os.system": "from os import system\nsystem(text)",
    "os.popen": "import os as o\nrun = o.popen\nrun(text)",
    "os.execv": "import os\ngetattr(os, 'execv')(p, a)",
    "shell=": "import subprocess\nsubprocess.run(text, shell=flag)",
    "subprocess.run": "from subprocess import run as start\nstart(text, **words)",
    "subprocess.Popen": "import subprocess\nsubprocess.Popen(text, -1, None, None, None, None, None, True, True)",
    "builtins.eval": "evaluate = eval\nevaluate(text)",
    "builtins.exec": "import builtins\nbuiltins.exec(text)",
    "builtins.compile": "compile(text, 'x', 'exec')",
    "builtins.__import__": "__import__('os').system(text)",
    "http.client": "import http.client",
    "http.client.HTTPSConnection": "from http import client\nclient.HTTPSConnection(host)",
    "urllib.request.urlopen": "from urllib.request import urlopen\nurlopen(address)",
    "requests": "import requests",
    "socket.create_connection": "from socket import create_connection",
    "asyncio.open_connection": "from asyncio import open_connection as go\ngo(host, 80)",
    "asyncio.create_subprocess_shell": "import asyncio\nasyncio.create_subprocess_shell(text)",
    "multiprocessing.connection.Client": "from multiprocessing import connection\nconnection.Client(address)",
    "multiprocessing.connection.Client from": "from multiprocessing.connection import Client as join\njoin(address)",
    "from os import *": "from os import *",
    "trust_remote_code=": "load_dataset(name, trust_remote_code=True)",
    "autoescape=": "Environment(autoescape=False)",
    "jinja2.Environment": "from jinja2 import Environment as E\nE(loader=x)",
    "jinja2.Template": "import jinja2\njinja2.Template(text)",
    "timm.create_model": "import timm\ntimm.create_model(name, True)",
    "timm.create_model(…)": "import timm\ntimm.create_model(name, **words)",
    "timm.create_model handed on": "from timm import create_model\nmake = partial(create_model, pretrained=False)",
    "pretrained=": "import timm\ntimm.create_model(name, pretrained=True)",
    "pretrained=(…)": "timm.create_model(f'{scheme}:{folder}', pretrained=True)",
    "extractall": "archive.extractall(folder)",
    "extract": "tar.extract(member, folder)",
    "PIL.Image.open": "from PIL import Image\nImage.open(p)",
    "PIL.Image.open handed on": "import PIL.Image as I\nlist(map(I.open, paths))",
    "LOAD_TRUNCATED_IMAGES": "ImageFile.LOAD_TRUNCATED_IMAGES = True",
    "broadcast_object_list": "from torch.distributed import broadcast_object_list as send\nsend(values)",
    "all_gather_object": "dist.all_gather_object(values, value)",
}
"""Source, by what has to be found in it; endings tell variants apart."""

HARMLESS = """
'''A docstring may say pickle.load( and eval( and torch.load(path).'''
import os, re, subprocess, numpy as np, safetensors.torch, timm, torch
from jinja2 import Environment
from PIL import Image
from safetensors.torch import load, save
model.eval()  # torch.save( in a comment
torch.load(path, "cpu", weights_only=True)
re.compile(pattern)
archive.extractall(folder, filter="data")
archive.extract(member, folder, filter="data")
extract(encoder, images)
timm.create_model("vit", pretrained=False)
timm.create_model(f"local-dir:{folder}", pretrained=True)
Environment(loader=x, autoescape=True)
Image.open(file, formats=("PNG",))
np.load(path, "r", allow_pickle=False)
np.load(path)
torch.compile(step, **words)
safetensors.torch.load(content)
load(save(tensors))
subprocess.run(["git", *words], shell=False, timeout=10)
make(compile=compile)
path = path.parent
"""

Names = dict[str, set[str]]


def full_names(node: ast.AST, names: Names) -> set[str]:
    """What an expression may stand for, as `module.name`; nothing for what came from no import."""
    match node:
        case ast.Name(id=name):
            return names.get(name, set())
        case ast.Attribute(value=value, attr=attr):
            return {f"{name}.{attr}" for name in full_names(value, names)}
        case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str(attr)), *_]):
            return {f"{name}.{attr}" for name in full_names(value, names)}
        case ast.Call(func=func, args=[ast.Constant(value=str(module)), *_]):
            return {module} if "importlib.import_module" in full_names(func, names) else set()
        case _:
            return set()


def names_of(tree: ast.AST) -> Names:
    """What each name of a file may stand for, wherever in it: imports, builtins, and names assigned from them."""
    names: Names = {name: {f"builtins.{name}"} for name in ("eval", "exec", "compile", "__import__")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names.setdefault(alias.asname or first, set()).add(alias.name if alias.asname else first)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names.setdefault(alias.asname or alias.name, set()).add(f"{node.module}.{alias.name}")
    for _ in range(2):  # a name of a name
        for node in ast.walk(tree):
            match node:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.NamedExpr(target=ast.Name(id=name), value=value)
                ):
                    names.setdefault(name, set()).update(full_names(value, names))
    return names


def is_below(name: str, names: tuple[str, ...] | dict) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in names)


def is_local_folder(call: ast.Call) -> bool:
    """Whether the first argument is a text that starts with timm's word for a folder."""
    match call.args:
        case [ast.Constant(value=str(text)), *_] | [ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]), *_]:
            return text.startswith("local-dir:")
        case _:
            return False


def wrong_in_call(call: ast.Call, names: Names) -> Iterator[str]:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    for word, value in keywords.items():
        is_local = word == "pretrained" and is_local_folder(call)
        if word in LITERALS and not (is_local or (isinstance(value, ast.Constant) and value.value is LITERALS[word])):
            yield f"{word}="
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if method in ("extract", "extractall") and ast.unparse(keywords.get("filter", ast.Constant(None))) != "'data'":
        yield method
    for name in full_names(call.func, names) & CHECKED.keys():
        most, needed = CHECKED[name]
        is_open = None in keywords or any(isinstance(argument, ast.Starred) for argument in call.args)
        if is_open or len(call.args) > most or (needed and needed not in keywords):
            yield name


def found_in(source: str) -> set[str]:
    """What of the forbidden stands in `source`, by full name; comments and docstrings do not count."""
    tree, found = ast.parse(source), set[str]()
    names, nodes = names_of(tree), list(ast.walk(tree))
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        full = set[str]()
        match node:
            case ast.Import():
                full = {alias.name for alias in node.names}
            case ast.ImportFrom():
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {f"from {node.module} import *" for alias in node.names if alias.name == "*"}
                found |= {alias.name for alias in node.names if alias.name in ATTRIBUTES}
            case ast.Name() | ast.Attribute() | ast.Call() if id(node) not in inner:
                full = full_names(node, names)
                is_handed_on = id(node) not in called and isinstance(getattr(node, "ctx", None), ast.Load)
                found |= {n for n in full if is_handed_on and is_below(n, CHECKED) and n != "builtins.compile"}
        if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            found.add(node.attr)
        if isinstance(node, ast.Call):
            found |= set(wrong_in_call(node, names))
        found |= {name for name in full if is_below(name, FORBIDDEN)}
    return found


def found_in_file(path: Path) -> set[str]:
    return {f"{path.relative_to(SOURCE).as_posix()}:{name}" for name in found_in(path.read_text())}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_source_runs_no_code_from_data_and_connects_nowhere(path: Path):
    assert found_in_file(path) - ALLOWED.keys() == set()


def test_every_exception_is_still_one():
    assert ALLOWED.keys() - {found for path in SOURCE.rglob("*.py") for found in found_in_file(path)} == set()


@pytest.mark.parametrize("name", EVASIONS)
def test_an_evasion_would_be_found(name: str):
    assert name.removesuffix("(…)").removesuffix(" handed on").removesuffix(" from") in found_in(EVASIONS[name])


def test_harmless_lines_are_not_taken_for_it():
    assert found_in(HARMLESS) == set()
