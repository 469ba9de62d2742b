"""Uploading to a hub, against a small stand-in for its interface on this machine."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
from small_runs import QUIET, SHORT, write_images

from vitlet.disk import read_json, write_json
from vitlet.errors import CheckpointError, UsageError
from vitlet.evaluation.agreement import FP32
from vitlet.jobs import exporting
from vitlet.jobs.launch import Launch
from vitlet.jobs.pushing import push
from vitlet.jobs.training import pretrain
from vitlet.run import Run
from vitlet.weights.files import CARD, PREPROCESSING, PROOF
from vitlet.weights.folder import read_model
from vitlet.weights.names import CONFIG, WEIGHTS

pytestmark = pytest.mark.usefixtures("few_witnesses")
SECRET = "../../../home/alice_secret/client x"


class Hub(ThreadingHTTPServer):
    """Takes repositories, large files and commits as the hub does, and keeps them in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.created: dict[str, Any] = {}
        self.stored: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.refuses = self.was_public = False


class Asked(BaseHTTPRequestHandler):
    """One request."""

    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        self.server.asked.append(f"{self.command} {self.path}")
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        self._body()
        is_there = bool(self.server.created)
        about = {"id": "someone/digits", "private": not self.server.was_public} if is_there else {"error": "none"}
        self._answer(about, status=200 if is_there else 404)

    def do_PUT(self) -> None:
        self.server.stored[self.path.rsplit("/", 1)[1]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        hub, content = self.server, self._body()
        if self.path != "/api/validate-yaml":
            hub.tokens.add(self.headers.get("Authorization"))
        if hub.refuses:
            self._answer({"error": "no right to write here"}, status=403)
        elif self.path == "/api/repos/create":
            hub.created = json.loads(content)
            if hub.was_public:
                self._answer({"error": "exists", "url": f"{hub.address}/someone/digits"}, status=409)
                return
            self._answer({"url": f"{hub.address}/someone/digits"})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(content)["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if f["path"] == WEIGHTS else "regular",
                      "shouldIgnore": False} for f in files]  # fmt: skip
            self._answer({"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            places = [{**o, "actions": {"upload": {"href": f"{hub.address}/lfs/{o['oid']}"}}} for o in objects]
            self._answer({"transfer": "basic", "objects": places})
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    hub.files[line["value"]["path"]] = hub.stored[line["value"]["oid"]]
            self._answer({"success": True, "commitUrl": f"{hub.address}/someone/digits/commit/1", "commitOid": "1"})
        else:
            self._answer({})


@pytest.fixture(scope="module")
def tuned(tuned: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy, since an export leaves its numbers in the run; its facts name folders, as earlier versions wrote them."""
    run = Run(shutil.copytree(tuned.path, tmp_path_factory.mktemp("exported") / "tuned"))
    config = read_json(run.encoder / CONFIG)
    command = f"vitlet pretrain runs/a/recipe.json --data '{SECRET}/photos' --out NEW"
    teacher = {"source": f"{SECRET}/large", "licence": "Apache-2.0", "init": {"command": command}}
    config["vitlet"]["facts"] |= {"command": command, "teacher": teacher}
    write_json(run.encoder / CONFIG, config)
    return run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # its storage has no stand-in here
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("many"), train=0, test=24)


@pytest.mark.filterwarnings("ignore:Use 'content=<...>'")  # the hub's client to its own HTTP library
def test_what_arrives_is_the_folder_that_timm_opens(tuned: Run, many: Path, hub: Hub, tmp_path: Path) -> None:
    address = push(tuned.path, to="hf://someone/digits", images=many, private=True, options=QUIET)
    assert address == f"{hub.address}/someone/digits/commit/1"
    assert (hub.created["name"], hub.created["organization"]) == ("digits", "someone")
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    assert set(hub.files) == {CARD, CONFIG, WEIGHTS, PREPROCESSING, PROOF}
    assert hub.tokens == {"Bearer hf_of_a_test"}
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    assert read_model(tmp_path).classes == ("dark", "light")
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True).num_classes == 2
    told = b"".join(hub.files.values())
    assert b"--data photos" in told
    assert b"taught by: large" in told
    for folder in ("alice_secret", "client x", *tuned.path.parts[1:-1], *many.parts[1:-1]):
        assert f"{folder}/".encode() not in told, "nothing names a folder of this machine"


@pytest.mark.filterwarnings("ignore:Use 'content=<...>'")
def test_nor_does_what_was_just_trained_from_another_folder(
    data: Path, many: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run and images lie beside the working folder, in folders whose names are nobody's business."""
    images = shutil.copytree(data, tmp_path / "alice_secret/client/photos")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    out = tmp_path / "alice_secret/runs/mae"
    run = pretrain("debug", data=images, out=out, options=QUIET, set=SHORT)
    push(run.path, to="hf://someone/digits", images=many, options=QUIET)
    assert b"vitlet pretrain recipe.json --data photos --out NEW" in hub.files[CARD]
    for content in (*hub.files.values(), *((run.encoder / name).read_bytes() for name in (CARD, CONFIG))):
        assert b"alice_secret" not in content
        assert b"client" not in content
    assert Launch.of(run).data == str(images), "what resuming needs stays in the run"


def test_a_refusal_says_what_the_hub_said(tuned: Run, many: Path, hub: Hub) -> None:
    hub.refuses = True
    with pytest.raises(UsageError, match=r"hf://someone/digits was not uploaded.*403.*HF_TOKEN"):
        push(tuned.path, to="hf://someone/digits", images=many, options=QUIET)
    assert hub.files == {}


@pytest.mark.filterwarnings("ignore:Use 'content=<...>'")
def test_what_is_to_be_private_goes_to_no_public_repository(tuned: Run, many: Path, hub: Hub) -> None:
    """One that is there stays public, whatever is asked for when it is created again."""
    hub.was_public = True
    with pytest.raises(UsageError, match=r"hf://someone/digits is public.*Nothing was uploaded.*Fix: make it private"):
        push(tuned.path, to="hf://someone/digits", images=many, private=True, options=QUIET)
    assert hub.files == {}
    push(tuned.path, to="hf://someone/digits", images=many, options=QUIET)
    assert WEIGHTS in hub.files, "the control: nothing private is asked for"


def test_nothing_is_asked_of_the_hub_when_the_proof_fails(
    tuned: Run, many: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "FP32", replace(FP32, max_relative_error=-1.0))
    with pytest.raises(CheckpointError, match=r"timm computes something else.*Nothing was written"):
        push(tuned.path, to="hf://someone/digits", images=many, options=QUIET)
    assert hub.asked == []


def test_nothing_is_asked_of_the_hub_when_the_images_are_too_few(tuned: Run, data: Path, hub: Hub) -> None:
    with pytest.raises(ValueError, match="44 usable images"):
        push(tuned.path, to="hf://someone/digits", images=data, options=QUIET)
    assert hub.asked == []
