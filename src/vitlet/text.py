"""Text from outside, made safe to print: file names may hold anything but NUL and the slash."""

import difflib
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable

_SHOWN = 20
_OUTSIDE = re.compile(r"((?:timm|torchvision):[^@]*@)?(?:\.\.|~[^/]*)?/(?:.*/)?", re.DOTALL)
"""What precedes the last component of a path outside the working folder; the group is the name before `@`."""
# Cc control, Cf format (bidirectional overrides), Cs lone surrogates, Co private, Zl/Zp line separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(name: str | bytes | os.PathLike[str]) -> str:
    """`name` with control, bidirectional and undecodable characters written as escapes; one line, always UTF-8."""
    text = os.fsdecode(name)
    return "".join(_escape(c) if unicodedata.category(c) in _UNPRINTABLE else c for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8, as preserved by os.fsdecode
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shareable(command: str) -> str:
    """`command` with paths that lead out of the working folder shortened to their last component.

    Cards and pages are passed on; the names of the user's folders are not.
    """
    try:
        words, join = shlex.split(command), shlex.join
    except ValueError:  # an unclosed quote, in a file that vitlet did not write
        words, join = command.split(), " ".join
    shown = list(map(shareable_word, words))
    return command if shown == words else join(shown)


def shareable_word(word: str) -> str:
    """One word of a command, shortened if it is a path out of the working folder."""
    bare = word.rstrip("/")
    found = _OUTSIDE.match(bare)
    return word if found is None else (found[1] or "") + bare[found.end() :]


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """A sentence with the nearest known word, or with the known words if none is near (empty if there are none)."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]}?"
    rest = ", …" if len(names) > _SHOWN else ""
    return f"Known: {', '.join(names[:_SHOWN])}{rest}" if names else ""


def plural(count: int, noun: str, nouns: str = "") -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def csv_cell(text: str) -> str:
    """Make `text` safe as a spreadsheet cell: a quote before = + - @ and white space keeps it from being a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
