"""The processes of one training run, as torchrun starts them; without it there is one, and no port is opened."""

import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from vitlet.errors import DataError, UsageError, WorkerError

TIMEOUT_VARIABLE = "VITLET_RANK_TIMEOUT"
"""Seconds after which a rank that does not answer is given up; 300 without it."""

_TIMEOUT_SECONDS = 300
# For what one rank does alone while the others wait, such as decoding every image once. A rank that dies is noticed
# at once by its closed connection, however long this is.
_PATIENCE = timedelta(hours=12)
_PR_SET_PDEATHSIG = 1
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Member:
    """Where a rank runs."""

    host: str
    process: int

    def state(self) -> str:
        """`is gone` or `is stopped`, as far as this host can tell; empty for a rank that lives, or lives elsewhere."""
        if self.host != os.uname().nodename or not sys.platform.startswith("linux"):
            return ""
        try:
            letter = Path(f"/proc/{self.process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            return "is gone"
        return "is gone" if letter in "ZX" else "is stopped" if letter in "Tt" else ""


@dataclass(frozen=True)
class World:
    """Which process this is, of how many. Every method is a no-op for a single process."""

    rank: int = 0
    size: int = 1
    members: tuple[Member, ...] = field(default=(), compare=False, repr=False)
    """By rank; empty for a single process."""
    _side: Any = field(default=None, compare=False, repr=False)
    """A group on gloo for what lies on the CPU and may take long."""

    @classmethod
    def join(cls, device: torch.device = _CPU) -> "World":
        """Join the group that torchrun's environment describes, or be alone.

        Args:
            device: Of this rank's tensors: NCCL carries those of a GPU, which becomes the current one, gloo all others.

        Raises:
            WorkerError: if the ranks do not find each other in time.
            UsageError: for a timeout that is no number of seconds.
        """
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return cls()
        timeout = _timeout()
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _end_with_parent()
        with _together((), rank=int(os.environ["RANK"])):
            if not dist.is_initialized():
                if device.type == "cuda":
                    torch.cuda.set_device(device)
                store, rank, size = next(rendezvous("env://", timeout=timeout))
                dist.init_process_group(
                    "nccl" if device.type == "cuda" else "gloo",
                    store=dist.PrefixStore(_attempt(), store),
                    rank=rank,
                    world_size=size,
                    timeout=timeout,
                )
            side = dist.new_group(backend="gloo", timeout=_PATIENCE)
            alone = cls(dist.get_rank(), dist.get_world_size(), _side=side)
            here = json.dumps([os.uname().nodename, os.getpid()]).encode()
            members = tuple(Member(*json.loads(text)) for text in alone._gathered(here))
        return cls(alone.rank, alone.size, members, side)

    @classmethod
    @contextlib.contextmanager
    def joined(cls, device: torch.device = _CPU) -> Iterator["World"]:
        """`join`, and `leave` in the end."""
        world = cls.join(device)
        try:
            yield world
        finally:
            world.leave()

    @property
    def is_first(self) -> bool:
        """The process that writes files and talks to the terminal."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean gradient over ranks, in one message.

        A ViT-Tiny's gradients are 23 MB: one flat all-reduce after the last accumulation step costs less than
        wrapping the objective, works with any number of accumulation steps, and needs no word on unused parameters.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        with self._together():
            dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a detached scalar over ranks."""
        if self.size == 1:
            return value
        value = value.clone()
        with self._together():
            dist.all_reduce(value)
        return value / self.size

    def highest(self, value: int) -> int:
        """The largest of the ranks' integers: how one rank's signal or trouble reaches all at the same step."""
        return int(self._reduced(value, dist.ReduceOp.MAX))

    def total(self, value: float) -> float:
        """The sum of the ranks' numbers."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def _reduced(self, value: float, how: dist.ReduceOp.RedOpType) -> float:
        if self.size == 1:
            return value
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        with self._together():
            dist.all_reduce(tensor, op=how)
        return float(tensor)

    def meet(self) -> None:
        """Until all ranks are here; one that does not come before the timeout is given up."""
        self.highest(0)

    def wait(self) -> None:
        """Until all ranks are here, however long it takes: for work that one of them does alone."""
        if self.size > 1:
            with self._together():
                dist.barrier(group=self._side)

    @contextlib.contextmanager
    def one_first(self) -> Iterator[None]:
        """One rank of each host does this before the others, who then find it in the cache."""
        is_early = int(os.environ.get("LOCAL_RANK", self.rank)) == 0
        if not is_early:
            self.wait()
        yield
        if is_early:
            self.wait()

    def gather_rows(self, rows: Tensor, *, total: int) -> Tensor:
        """All rows in order on every rank, on the CPU, where rank r has rows r, r + size, r + 2 size, … of `total`."""
        if self.size == 1:
            return rows
        share = -(-total // self.size)
        padded = torch.zeros((share, *rows.shape[1:]), dtype=rows.dtype)
        padded[: len(rows)] = rows.cpu()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with self._together():
            dist.all_gather(parts, padded, group=self._side)
        return torch.stack(parts, dim=1).flatten(0, 1)[:total]

    def share(self, content: bytes | None) -> bytes | None:
        """What rank 0 has, on every rank; what the others pass is ignored."""
        if self.size == 1:
            return content
        mine = content if self.is_first else None
        with self._together():
            length = torch.tensor([-1 if mine is None else len(mine)])
            dist.broadcast(length, 0, group=self._side)
            if length < 0:
                return None
            sent = torch.empty(int(length), dtype=torch.uint8) if mine is None else _as_tensor(mine)
            dist.broadcast(sent, 0, group=self._side)
        return sent.numpy().tobytes()

    def gather(self, text: str) -> list[str]:
        """The texts of all ranks, by rank."""
        if self.size == 1:
            return [text]
        with self._together():
            return [found.decode() for found in self._gathered(text.encode())]

    def require_same(self, what: str, *, of: str) -> None:
        """Refuse to go on where ranks see different things under one name.

        Args:
            what: What this rank sees, in a few words.
            of: Of what.

        Raises:
            DataError: on all ranks, with what each of them sees.
        """
        if self.size == 1:
            return
        seen = self.gather(what)
        if len(set(seen)) > 1:
            lines = "".join(
                f"\n  rank {r} on {m.host}: {text}" for r, (m, text) in enumerate(zip(self.members, seen, strict=True))
            )
            raise DataError(
                f"the ranks see different {of}",
                why="They would not work on the same thing:" + lines,
                fix="give all hosts the same files under the same path",
            )

    def leave(self) -> None:
        """Close the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _gathered(self, text: bytes) -> list[bytes]:
        """The texts of all ranks. Torch's own way for objects unpickles what arrives."""
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(text)]), group=self._side)
        longest = max(int(length) for length in lengths)
        padded = _as_tensor(text.ljust(longest))
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self._side)
        return [bytes(part.tolist())[: int(length)] for part, length in zip(parts, lengths, strict=True)]

    def _together(self) -> contextlib.AbstractContextManager[None]:
        return _together(self.members, rank=self.rank)


def _as_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def _timeout() -> timedelta:
    text = os.environ.get(TIMEOUT_VARIABLE, str(_TIMEOUT_SECONDS))
    if not text.isdigit() or not int(text):
        raise UsageError(f"{TIMEOUT_VARIABLE}={text!r}", why="It is a number of seconds", fix=f"{TIMEOUT_VARIABLE}=300")
    return timedelta(seconds=int(text))


def is_restart() -> bool:
    """Whether torchrun has started this process in the place of one that was lost."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def _attempt() -> str:
    """What tells this start of the ranks from those before it.

    torchrun keeps one store through its restarts (torch 2.14), and a rank that is quick would find there the address of
    one that is gone. A change of hosts is no restart to it, but changes the number of ranks.
    """
    return f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{os.environ['WORLD_SIZE']}"


def _end_with_parent() -> None:
    """Let the kernel send SIGTERM when torchrun is gone: without it nobody would start, stop or watch this rank.

    All ranks get it at once, finish their step, and rank 0 saves; a rank that cannot is given up after the timeout.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


@contextlib.contextmanager
def _together(members: tuple[Member, ...], *, rank: int) -> Iterator[None]:
    """Say in our words which rank is gone.

    Raises:
        WorkerError: when the connection to a rank breaks or it does not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        who, where = _blame(members, rank)
        raise WorkerError(
            who,
            where=where,
            why=_reason(error),
            fix="look at the output of the other ranks; the same command goes on from the last checkpoint",
        ) from error


def _reason(error: RuntimeError) -> str:
    """What the library says, without the place in its sources and its advice."""
    line = re.sub(r"^\[\S+:\d+\]\s*", "", (str(error) or type(error).__name__).splitlines()[0])
    return line.split(". ")[0].rstrip(".")


def _blame(members: tuple[Member, ...], rank: int) -> tuple[str, str]:
    """Who is missing, and seen from where: a rank of this host that is not well, else the other hosts."""
    here = f"seen by rank {rank} on {os.uname().nodename}"
    others = [(r, member) for r, member in enumerate(members) if r != rank]
    ill: list[tuple[int, Member, str]] = []
    for _ in range(20):  # a killed process closes its connections a moment before it counts as gone
        ill = [(r, member, state) for r, member in others if (state := member.state())]
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
