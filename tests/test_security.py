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
    *("torch.save", "torch.serialization", "torch.hub", "torch.package", "torch.jit.load", "torch.export.load"),
    "torch.distributed.checkpoint",
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
    *(
        "torch.utils.model_zoo",
        "torchvision.datasets",
        "datasets",
        "transformers",
        "pyarrow.fs",
        "multiprocessing.managers",
    ),
    *(f"torch.distributed.{name}" for name in ("TCPStore", "rendezvous", "init_process_group", "init_device_mesh")),
    *(f"torch.distributed.{name}" for name in ("rpc", "run", "launch", "launcher", "elastic", "device_mesh")),
)
"""Also everything below these names."""

ATTRIBUTES = (
    *("LOAD_TRUNCATED_IMAGES", "read_pickle", "load_state_dict_from_url", "load_url", "urlretrieve"),
    *("download_url", "download_and_extract_archive"),
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
    "download": False,
}
"""Keywords of any call that may be given as this literal only; `pretrained` also where a local folder is named."""

WEIGHTS = ("weights", "weights_backbone")
"""Keywords by which torchvision fetches published weights: of its models, None only; of any call, no text or member."""

SHELLS = ("sh", "ash", "bash", "dash", "zsh", "ksh", "fish", "cmd", "cmd.exe", "powershell", "pwsh", "env", "xargs")
"""Programs that run what they are given; a program may only be started as a list whose first word is another's name."""

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
_PUBLIC = (
    "Flowers102",
    "Flowers102.classes",
    "OxfordIIITPet",
    "FGVCAircraft",
    "StanfordCars",
    "CIFAR100",
    "INaturalist",
)
_REFERENCE = ("ViTMAEConfig", "ViTMAEForPreTraining")
_TRACKER = "only with --log, and offline unless the environment says otherwise"
ALLOWED = {
    "weights/reading.py:pickle": "for the next",
    "weights/reading.py:pickle.UnpicklingError": "what torch.load raises with weights_only=True",
    "weights/reading.py:torch.serialization.safe_globals": "plain containers, which run nothing",
    "weights/reading.py:torch.serialization.get_unsafe_globals_in_checkpoint": "reads names and imports nothing",
    "weights/formats.py:torch.export.load": "the file that the export has just written, to compare the outputs",
    "distributed/world.py:torch.distributed.rendezvous.rendezvous": "under torchrun: the ranks meet at its store",
    "distributed/world.py:torch.distributed.init_process_group": "under torchrun: the ranks connect to each other",
    **{f"data/downstream.py:torchvision.datasets.{name}": "downloads only with --download" for name in _PUBLIC},
    "data/downstream.py:download=": "vitlet transfer --download",
    "jobs/transferring.py:download=": "vitlet transfer --download",
    "verbs/transfer.py:download=": "vitlet transfer --download",
    "benchmarks/detection.py:torchvision.models.detection.maskrcnn_resnet50_fpn": "no weights stand beside **reference",
    **{f"benchmarks/reference.py:transformers.{name}": "built from sizes, without weights" for name in _REFERENCE},
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
    "torchvision.datasets.Flowers102": "from torchvision.datasets import Flowers102 as F\nF(r, 's', None, None, True)",
    "download=": "Flowers102(r, download=True)",
    "download=(…)": "Flowers102(r, download=download)",
    "torch.distributed.rendezvous.rendezvous": "from torch.distributed.rendezvous import rendezvous\nrendezvous(a)",
    "torch.distributed.TCPStore": "import torch.distributed as dist\ndist.TCPStore(host, 80)",
    "torch.distributed.TCPStore from": "from torch.distributed import TCPStore as Store\nStore(host, 80)",
    "torch.distributed.init_process_group": "import torch\ntorch.distributed.init_process_group('gloo')",
    "torch.distributed.rpc.init_rpc": "from torch.distributed import rpc\nrpc.init_rpc(name)",
    "torch.export.load": "import torch\ntorch.export.load(path)",
    "torch.export.load from": "from torch.export import load\nload(path)",
    "torch.distributed.checkpoint.load": "import torch.distributed.checkpoint as dcp\ndcp.load(state)",
    "torch.distributed.checkpoint.load from": "from torch.distributed.checkpoint import load\nload(state)",
    "torch.utils.model_zoo.load_url": "from torch.utils import model_zoo\nmodel_zoo.load_url(address)",
    "load_url": "zoo.load_url(address)",
    "load_state_dict_from_url": "from torchvision._internally_replaced_utils import load_state_dict_from_url",
    "urlretrieve": "request.urlretrieve(address, path)",
    "download_url": "from torchvision.datasets.utils import download_url as get",
    "weights=": "resnet18(weights='DEFAULT')",
    "weights=(…)": "resnet18(weights=ResNet18_Weights.DEFAULT)",
    "weights= from": "import torchvision\ntorchvision.models.resnet18(weights=chosen)",
    "weights_backbone=": "fasterrcnn_resnet50_fpn(weights=None, weights_backbone='IMAGENET1K_V1')",
    "torchvision.models.resnet18": "from torchvision.models import resnet18\nresnet18(True)",
    "torchvision.models.get_model": "import torchvision as tv\ntv.models.get_model(name, **words)",
    "torchvision.models.detection.ssd300_vgg16": "from torchvision.models import detection as d\n"
    "d.ssd300_vgg16(weights=None)",
    "subprocess.run a shell": "import subprocess\nsubprocess.run(['bash', '-c', text])",
    "subprocess.Popen a shell": "import subprocess\nsubprocess.Popen(('/bin/sh', '-c', text))",
    "subprocess.check_output a shell": "import subprocess\nsubprocess.check_output(args=['env', 'sh', '-c', text])",
    "subprocess.call a shell": "import subprocess\nsubprocess.call([program, '-c', text])",
    "subprocess.check_call a shell": "import subprocess\nsubprocess.check_call(words)",
}
"""Source, by what has to be found in it; endings tell variants apart."""

HARMLESS = """
'''A docstring may say pickle.load( and eval( and torch.load(path).'''
import os, re, subprocess, numpy as np, safetensors.torch, timm, torch
from jinja2 import Environment
from PIL import Image
from safetensors.torch import load, save
from torchvision.models import resnet18
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import fastrcnn_loss
model.eval()  # torch.save( in a comment
torch.load(path, "cpu", weights_only=True)
re.compile(pattern)
archive.extractall(folder, filter="data")
archive.extract(member, folder, filter="data")
extract(encoder, images)
timm.create_model("vit", pretrained=False)
resnet18(weights=None)
maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
learn(weights=contents[start], download=False)
fastrcnn_loss(a, b)
timm.create_model(f"local-dir:{folder}", pretrained=True)
Environment(loader=x, autoescape=True)
Image.open(file, formats=("PNG",))
np.load(path, "r", allow_pickle=False)
np.load(path)
torch.compile(step, **words)
safetensors.torch.load(content)
load(save(tensors))
subprocess.run(["git", *words], shell=False, timeout=10)
torch.export.export(model, images)
torch.distributed.all_reduce(x)
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


def fetches_weights(call: ast.Call, names: Names) -> Iterator[str]:
    """What of a call could make torchvision fetch published weights."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    models = {name for name in full_names(call.func, names) if name.startswith("torchvision.models.")}
    for word in keywords.keys() & set(WEIGHTS):
        match keywords[word]:
            case ast.Constant(value=None):
                pass
            case ast.Constant() | ast.Attribute():
                yield f"{word}="
            case _ if models:
                yield f"{word}="
    for name in models:
        *package, last = name.split(".")
        is_maker = last[0].islower() and package[2:] in ([], ["detection"], ["segmentation"])
        is_open = None in keywords or call.args or (package[2:] and "weights_backbone" not in keywords)
        if is_maker and is_open:
            yield name


def starts_no_shell(call: ast.Call) -> bool:
    """Whether the program is named by a literal, in a list, and is not one that runs what it is given."""
    words = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "args")]
    match words:
        case [
            ast.List(elts=[ast.Constant(value=str(program)), *_])
            | ast.Tuple(elts=[ast.Constant(value=str(program)), *_])
        ]:
            return program.rsplit("/", 1)[-1] not in SHELLS
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
        if name.startswith("subprocess.") and not starts_no_shell(call):
            yield name
    yield from fetches_weights(call, names)


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


@pytest.mark.parametrize("key", EVASIONS)
def test_an_evasion_would_be_found(key: str):
    name = key
    for ending in ("(…)", " handed on", " from", " a shell"):
        name = name.removesuffix(ending)
    assert name in found_in(EVASIONS[key])


def test_harmless_lines_are_not_taken_for_it():
    assert found_in(HARMLESS) == set()
