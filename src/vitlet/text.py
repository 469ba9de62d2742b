"""Text that is safe to print, and numbers as text.

Names from outside are escaped, since a file name may hold anything but NUL and the slash.
"""

import difflib
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence

_SHOWN = 20
_OUTSIDE = re.compile(r"((?:timm|torchvision):[^@]*@)?(?:\.\.|~[^/]*)?/(?:.*/)?", re.DOTALL)
"""What precedes the last component of a path outside the working folder; the group is the name before `@`."""
# Cc control, Cf format (bidirectional overrides), Cs lone surrogates, Co private, Zl/Zp line separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(name: str | bytes | os.PathLike[str]) -> str:
    """`name` with control, bidirectional and undecodable characters written as escapes; one line, always UTF-8."""
    text = os.fsdecode(name)
    return "".join(_escape(c) if unicodedata.category(c) in _UNPRINTABLE else c for c in text)


def quoted(path: str | os.PathLike[str]) -> str:
    """`path` as one word of a command line, printable."""
    return printable(shlex.quote(os.fspath(path)))


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


def told_apart(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The shortest suffix of each path that no other has; a path that is given twice gets a number."""

    def end(path: tuple[str, ...]) -> str:
        others = [other for other in paths if other != path]
        depths = (n for n in range(1, len(path)) if all(other[-n:] != path[-n:] for other in others))
        return "/".join(path[-next(depths, len(path)) :])

    names = [end(path) for path in paths]
    return [f"{n} ({names[: i + 1].count(n)})" if names.count(n) > 1 else n for i, n in enumerate(names)]


def slug(text: str) -> str:
    """`text` fit for the name of a file: a-z, 0-9 and single hyphens; may be empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def uncapitalised(title: str) -> str:
    """Return a title as it stands within a sentence."""
    return title[:1].lower() + title[1:]


def plural(count: int, noun: str, nouns: str = "") -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def counted(seeds: int, images: int, *, split: str = "") -> str:
    """What a number was measured on: `3 seeds, 5,000 test images`."""
    return f"{plural(seeds, 'seed')}, {plural(images, f'{split} image'.strip())}"


def decimal(value: float, digits: int = 1, *, sign: bool = True) -> str:
    """`+30.1`, `−4.4`, `0.0`: `value` with its sign, or with `sign=False` only a minus."""
    return true_minus(f"{value:{'+' if sign else ''}.{digits}f}")


def percent(share: float) -> str:
    """`59.2 %`."""
    return f"{100 * share:.1f} %"


def points(difference: float, *, sign: bool = True) -> str:
    """`decimal` of a difference of shares in percentage points."""
    return decimal(100 * difference, sign=sign)


def true_minus(number: str) -> str:
    """A formatted number with the minus of typography instead of a hyphen, and no sign before a zero."""
    return number.lstrip("+-") if float(number) == 0 else number.replace("-", "−")


def csv_cell(text: str) -> str:
    """Make `text` safe as a spreadsheet cell: a quote before = + - @ and white space keeps it from being a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
