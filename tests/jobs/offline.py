"""Run as a program without a network: command lines on stdin as JSON, their exit codes as the last line of stdout.

Each command's name is written to the file of connections before it begins; see `watched/sitecustomize.py`.
The jobs whose sizes no flag makes small enough are started with smaller ones. Not a test itself.
"""

import errno
import functools
import json
import os
import socket
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from small_runs import SHORT, SMALLER, TINY_DETECTOR

from in_place import in_place
from vitlet.cli import main
from vitlet.jobs import demo, learning, overfitting, side_by_side, studying
from vitlet.units import Images


def require_no_network() -> None:
    """Not even this machine itself can be reached."""
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 9)) == errno.ENETUNREACH, "there is a network"


def shrink() -> None:
    brief = {"budget.duration": Images(n=64), "budget.batch_size": 8}
    demo._LONG, demo._SHORT = SHORT, {k: v for k, v in SMALLER.items() if k != "budget.probe_every"}
    learning.PROBES = 2
    learning.learn = functools.partial(learning.learn, settings=brief)
    studying.study = functools.partial(studying.study, settings=brief, num_images=32)
    overfitting.overfit = functools.partial(overfitting.overfit, settings=TINY_DETECTOR)
    side_by_side.processes = in_place


def marked(words: list[str]) -> int:
    with open(os.environ["CONNECTIONS"], "a") as record:
        record.write(f"{words[0]}:\n")
    return main(words)


if __name__ == "__main__":
    require_no_network()
    shrink()
    print(json.dumps([marked(words) for words in json.load(sys.stdin)]))
