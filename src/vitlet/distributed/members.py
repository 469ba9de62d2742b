"""The ranks as processes of their hosts: which of them is lost, and what the library said."""

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Member:
    """Host and process of a rank."""

    host: str
    process: int

    def state(self) -> str:
        """`is gone` or `is stopped`, as far as this host can tell; empty for a rank that is alive or elsewhere."""
        if self.host != os.uname().nodename or not sys.platform.startswith("linux"):
            return ""
        try:
            letter = Path(f"/proc/{self.process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            return "is gone"
        return "is gone" if letter in "ZX" else "is stopped" if letter in "Tt" else ""


def reason(error: RuntimeError) -> str:
    """The library's message, without its source location and advice."""
    line = re.sub(r"^\[\S+:\d+\]\s*", "", (str(error) or type(error).__name__).splitlines()[0])
    return line.split(". ")[0].rstrip(".")


def blame(members: tuple[Member, ...], rank: int) -> tuple[str, str]:
    """Which rank is missing, and who noticed: an unhealthy rank of this host, else the other hosts."""
    here = f"seen by rank {rank} on {os.uname().nodename}"
    ill: list[tuple[int, Member, str]] = []
    for _ in range(20):  # a killed process closes its connections shortly before it counts as gone
        ill = [(r, member, state) for r, member in enumerate(members) if r != rank and (state := member.state())]
        if ill or not members:
            break
        time.sleep(0.05)
    if ill:
        return " and ".join(f"rank {r} {state} (process {member.process})" for r, member, state in ill), here
    far: dict[str, list[str]] = {}
    for r, member in enumerate(members):
        if member.host != os.uname().nodename:
            far.setdefault(member.host, []).append(str(r))
    if far:
        places = "; ".join(f"{'ranks' if len(r) > 1 else 'rank'} {', '.join(r)} on {host}" for host, r in far.items())
        return f"no connection to another host: {places}", here
    return "another rank died or hangs", here
