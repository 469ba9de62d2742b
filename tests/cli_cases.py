"""Run as a program: command lines on stdin as JSON, what each of them answered on stdout. Not a test itself.

At last it imports what a job begins with, and then what only some need: see `document` in `test_cli.py`.
"""

import contextlib
import importlib
import io
import json
import sys

from vitlet.cli import main

OWN = {*sys.stdlib_module_names, "vitlet"}
JOB, PROBE = "vitlet.jobs.arms", "vitlet.evaluation.logistic"
seen: set[str] = set()


def new_packages() -> list[str]:
    """Those of others that were imported since the last call."""
    packages = {name.partition(".")[0] for name in sys.modules if not name.startswith("_")} - OWN - seen
    seen.update(packages)
    return sorted(packages)


def answer(words: list[str]) -> dict[str, object]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "imported": new_packages()}


def imports(module: str) -> list[str]:
    importlib.import_module(module)
    return new_packages()


if __name__ == "__main__":
    answers = [answer(words) for words in json.load(sys.stdin)]
    json.dump({"answers": answers, "job": imports(JOB), "probe": imports(PROBE)}, sys.stdout)
