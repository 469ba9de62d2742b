"""Run as a program: command lines on stdin as JSON, what each of them answered on stdout. Not a test itself."""

import contextlib
import io
import json
import sys

from vitlet.cli import main

OWN = {*sys.stdlib_module_names, "vitlet"}
seen: set[str] = set()


def answer(words: list[str]) -> dict[str, object]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    packages = {name.partition(".")[0] for name in sys.modules if not name.startswith("_")} - OWN - seen
    seen.update(packages)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "imported": sorted(packages)}


if __name__ == "__main__":
    json.dump([answer(words) for words in json.load(sys.stdin)], sys.stdout)
