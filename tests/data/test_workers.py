import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from vitlet.data import workers
from vitlet.data.workers import Lost, parallel


def square(i: int) -> int:
    return i * i


def slow(i: int) -> int:
    time.sleep(0.3)
    return i


def hang_at_7(i: int) -> int:
    if i == 7:
        time.sleep(60)
    return i


def die_at_5_and_6(i: int) -> int:
    if i == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if i == 6:
        os._exit(3)
    return i


def noisy(i: int) -> int:
    if i % 10 == 0:
        os.write(2, b"item %d is odd\n" % i)
    return i


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("num", [0, 1, 31, 100])
def test_every_item_once(workers, num):
    found = sorted((i, result) for i, result, _ in parallel(square, range(num), workers=workers, timeout=20))
    assert found == [(i, i * i) for i in range(num)]


def test_a_hanging_item_is_given_up():
    start = time.monotonic()
    found = {i: result for i, result, _ in parallel(hang_at_7, range(50), workers=2, timeout=1)}
    assert time.monotonic() - start < 15
    assert found.pop(7) == Lost("no result after 1 s")
    assert found == {i: i for i in range(50) if i != 7}


@pytest.mark.parametrize(("grace", "lost"), [(10.0, False), (0.0, True)])
def test_a_pause_of_all_processes_costs_no_item(monkeypatch, grace, lost):
    """As after Ctrl-Z and `fg`. The control gives no time to answer."""
    monkeypatch.setattr(workers, "_GRACE_SECONDS", grace)
    results = parallel(slow, range(12), workers=2, timeout=1)
    found = [next(results)]
    children = multiprocessing.active_children()
    signals = [(0.2, signal.SIGSTOP), (1.7, signal.SIGCONT)]  # the parent looks at the clock before they go on
    pauses = [
        threading.Timer(at, lambda n=n: [child.is_alive() and os.kill(child.pid, n) for child in children])
        for at, n in signals
    ]
    for pause in pauses:
        pause.start()
    found += results
    for pause in pauses:
        pause.join()
    assert sorted(i for i, _, _ in found) == list(range(12))
    assert any(isinstance(result, Lost) for _, result, _ in found) is lost


def test_a_crash_costs_one_item():
    found = {i: result for i, result, _ in parallel(die_at_5_and_6, range(50), workers=2, timeout=20)}
    assert found.pop(5) == Lost("the decoding process died (SIGKILL)")
    assert found.pop(6) == Lost("the decoding process died (exit status 3)")
    assert found == {i: i for i in range(50) if i not in (5, 6)}


def test_a_process_that_is_killed_while_it_waits_costs_no_item():
    """At the end of a chunk it has nothing in hand, and that it is gone shows when the next chunk is sent to it."""
    found, killed = {}, 0
    for i, result, _ in parallel(square, range(100), workers=1, timeout=20):
        found[i] = result
        if i in (31, 63):  # the last of a chunk of 32
            (idle,) = multiprocessing.active_children()
            os.kill(idle.pid, signal.SIGKILL)
            idle.join()
            killed += 1
    assert killed == 2
    assert found == {i: i * i for i in range(100)}
    assert multiprocessing.active_children() == []


def test_what_libraries_say_is_heard():
    heard = {i: noise for i, _, noise in parallel(noisy, range(40), workers=2, timeout=20)}
    assert heard == {i: f"item {i} is odd\n" if i % 10 == 0 else "" for i in range(40)}


def test_stopping_early_leaves_no_process():
    results = parallel(square, range(1000), workers=2, timeout=20)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert multiprocessing.active_children() == []


TOP_LEVEL = """
from vitlet.data import workers
from vitlet.errors import WorkerError

workers.LOADING = "spawn"  # as on macOS
try:
    list(workers.parallel(abs, range(3), workers=1, timeout=60))
except WorkerError as error:
    print(error)
"""


def test_a_script_that_calls_at_its_top_level_is_told_so(tmp_path):
    (tmp_path / "script.py").write_text(TOP_LEVEL)
    found = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120)
    assert "a decoding process did not start" in found.stdout
    assert "Fix: put the script's calls under if __name__ == '__main__', or free some memory" in found.stdout
