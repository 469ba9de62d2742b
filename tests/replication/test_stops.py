"""The whole command killed or stopped half-way: what is finished is kept and shown, and the rest is made next time."""

import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from small_images import command

from forked import fork, wait
from vitlet.cli import main
from vitlet.disk import read_json
from vitlet.replication import replicate
from vitlet.replication.catalogue import chosen
from vitlet.replication.plan import NODE_FILE, Plan
from vitlet.replication.planner import make_plan
from vitlet.replication.scales import scale_by_name

SMOKE = scale_by_name("smoke")
WORDS = ("claim-1", "claim-9", "claim-12")


def finished(out: Path) -> set[str]:
    return {file.parent.name for file in out.glob(f"*/*/{NODE_FILE}")}


def planned(images: Path, out: Path) -> Plan:
    return make_plan(chosen(WORDS).stages(SMOKE.order), SMOKE, data=images, out=out)


@contextmanager
def begun(words: list[str], out: Path, *, until: int) -> Iterator[int]:
    """The command in a process of its own, once so many runs are finished."""
    child = fork(lambda: os._exit(main(words)), error_file=out.parent / "error.txt")
    try:
        last = time.monotonic() + 90
        while len(finished(out)) < until and time.monotonic() < last:
            time.sleep(0.005)
        yield child
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise


@pytest.mark.timeout(300)
def test_after_a_kill_the_same_command_makes_what_is_left_and_nothing_twice(smoke: Path, images: Path, tmp_path: Path):
    out = tmp_path / "out"
    words = command(images, out, what=WORDS)
    with begun(words, out, until=4) as child:
        os.kill(child, signal.SIGKILL)
        assert wait(child) == -signal.SIGKILL
    kept = finished(out)
    assert 4 <= len(kept) < len(planned(images, out).nodes), "half-way"
    before = {name: (next(out.glob(f"*/{name}")) / NODE_FILE).stat().st_mtime_ns for name in kept}
    assert main(words) == 0
    assert {name: (next(out.glob(f"*/{name}")) / NODE_FILE).stat().st_mtime_ns for name in kept} == before
    assert not planned(images, out).waiting
    document = read_json(out / "replication.json")
    assert (document["waiting"], len(document["runs"])) == ([], len(planned(images, out).nodes) - 1)
    results = [file.relative_to(out) for file in out.glob("runs/*/results/top1.json")]
    assert len(results) >= 4
    for file in results:
        assert read_json(out / file)["value"] == read_json(smoke / file)["value"], "as if it had never been killed"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_stop_leaves_the_page_about_all_that_is_finished(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Control: the page from the beginning, which here stands until the end, shows no run."""
    monkeypatch.setattr(replicate, "_SAVE_SECONDS", math.inf)
    out = tmp_path / "out"
    with begun(command(images, out, what=WORDS), out, until=4) as child:
        before = (out / "report.html").read_text()
        os.kill(child, signal.SIGTERM)
        assert wait(child) == 143
    shown = re.compile(r"runs finished</dt>\s*<dd>(\d+)")
    made = len([name for name in finished(out) if (out / "runs" / name).is_dir()])
    assert shown.findall(before) == ["0"], "images are no run"
    assert shown.findall((out / "report.html").read_text()) == [str(made)]
    assert len(read_json(out / "replication.json")["runs"]) == made


def test_page_and_document_follow_once_a_minute(copied: Path, images: Path, monkeypatch: pytest.MonkeyPatch):
    request = replicate.Request(WORDS, images, copied, scale="smoke")
    plan = planned(images, copied)
    saver = replicate._Saver(plan, chosen(WORDS), request)
    page, document = copied / "report.html", copied / "replication.json"
    page.unlink()
    saver.save()
    assert page.is_file()
    page.unlink()
    document.unlink()
    saver.save()
    assert not document.exists()
    assert not page.exists()
    monkeypatch.setattr(replicate, "_SAVE_SECONDS", 0.0)
    saver.save()
    assert document.is_file()
    assert page.is_file()
    shutil.rmtree(plan.nodes[next(reversed(plan.nodes))].folder)
    assert len(saver.save_all()["waiting"]) == 1
