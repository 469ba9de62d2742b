"""Run as a program: command lines on stdin as JSON, what each of them answered on stdout. Not a test itself."""

import contextlib
import io
import json
import sys

from vitlet.cli import main


def answer(words: list[str]) -> dict[str, object]:
    out, err, before = io.StringIO(), io.StringIO(), "torch" in sys.modules
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "torch": "torch" in sys.modules and not before}


if __name__ == "__main__":
    json.dump([answer(words) for words in json.load(sys.stdin)], sys.stdout)
