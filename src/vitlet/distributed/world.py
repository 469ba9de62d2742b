"""The processes of one job, as started by torchrun; without it there is one, and no port is opened."""

import contextlib
import functools
import json
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from vitlet.distributed.heartbeat import Heartbeat
from vitlet.distributed.meeting import meet
from vitlet.distributed.members import Member, blame, reason
from vitlet.errors import DataError, UsageError, VitletError, WorkerError
from vitlet.host import end_with_parent, has_agent, outlive_termination

TIMEOUT_VARIABLE = "VITLET_RANK_TIMEOUT"
"""Seconds after which a rank that does not respond is given up; 300 by default."""

_CPU = torch.device("cpu")
_joined: list["World"] = []
"""The worlds of the jobs that run, one within another."""
_attempts: list[int] = []
"""On rank 0: the attempt of torchrun that this process belongs to, once it has joined."""


@dataclass(frozen=True)
class World:
    """The rank of this process and the number of ranks. Every method is a no-op for a single process."""

    rank: int = 0
    size: int = 1
    members: tuple[Member, ...] = field(default=(), compare=False, repr=False)
    """By rank; empty for a single process."""
    _side: Any = field(default=None, compare=False, repr=False)  # a gloo group, for CPU tensors
    _heartbeat: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def here(cls) -> "World":
        """Return the world that this process has joined; one of a single process if it has joined none."""
        return _joined[-1] if _joined else cls()

    @classmethod
    def join(cls, device: torch.device = _CPU) -> "World":
        """Join the group that torchrun's environment describes, or return a single-process world.

        Args:
            device: Device of this rank's tensors. NCCL serves a GPU, which becomes the current one; gloo all others.

        Raises:
            WorkerError: if the ranks do not find each other in time.
            ResourceError: if the kernel has no timer for the watchdog of this rank.
            UsageError: for a timeout that is not a number of seconds.
        """
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return cls()
        timeout = _timeout()
        if has_agent():
            end_with_parent(signal.SIGTERM)  # all hear it at once and finish their step, and rank 0 saves
        with cls(int(os.environ["RANK"])).exchange():
            if not dist.is_initialized():
                if device.type == "cuda":
                    torch.cuda.set_device(device)
                    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # what fails, fails within its exchange
                rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
                store = _store(os.getpid(), os.environ.get("MASTER_PORT"))
                name = meet(store, rank=rank, size=size, seconds=timeout.total_seconds())
                if rank == 0 and not _attempts:
                    _attempts.append(store.add("vitlet/attempts", 1))
                dist.init_process_group(
                    "nccl" if device.type == "cuda" else "gloo",
                    store=dist.PrefixStore(name, store),
                    rank=rank,
                    world_size=size,
                    timeout=timeout,
                )
            side, beating = (dist.new_group(backend="gloo", timeout=timeout) for _ in range(2))
            heartbeat = Heartbeat(beating, timeout=timeout) if dist.get_world_size() > 1 else None
            world = cls(dist.get_rank(), dist.get_world_size(), _side=side, _heartbeat=heartbeat)
            here = json.dumps([os.uname().nodename, os.getpid()])
            return replace(world, members=tuple(Member(*json.loads(text)) for text in world.gather(here)))

    @classmethod
    @contextlib.contextmanager
    def joined(cls, device: torch.device = _CPU) -> Iterator["World"]:
        """`join`, then `leave` on exit; a job within another stays in the world of that one."""
        if _joined:
            yield _joined[-1]
            return
        world = cls.join(device)
        _joined.append(world)
        try:
            yield world
        finally:
            _joined.remove(world)
            world.leave()

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Make this process a world of its own within the block, for work that this rank does alone."""
        _joined.append(World())
        try:
            yield
        finally:
            _joined.pop()

    def among(self, count: int) -> "World":
        """Return who shares `count` images: the ranks or, where some would have none, each rank by itself."""
        return self if count >= self.size else World()

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints to the terminal."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients over ranks, in one message after the last accumulation step (decision 2)."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        with self.exchange():
            dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a detached scalar over the ranks."""
        if self.size == 1:
            return value
        value = value.clone()
        with self.exchange():
            dist.all_reduce(value)
        return value / self.size

    def max(self, value: int) -> int:
        """The largest of the ranks' integers, so that one rank's signal or failure reaches all at the same step."""
        return int(self._reduced(value, dist.ReduceOp.MAX))

    def sum(self, value: float) -> float:
        """The sum of the ranks' numbers, however unequally long what they counted took them."""
        self.barrier(patient=True)
        return self._reduced(value, dist.ReduceOp.SUM)

    def _reduced(self, value: float, how: dist.ReduceOp.RedOpType) -> float:
        if self.size == 1:
            return value
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        with self.exchange():
            dist.all_reduce(tensor, op=how)
        return float(tensor)

    def barrier(self, *, patient: bool = False) -> None:
        """Wait until all ranks arrive.

        Args:
            patient: However long the work of any takes; only one that is frozen or cut off is given up. Otherwise one
                that does not arrive before the timeout is.
        """
        if self.size > 1:
            with self.exchange(patient=patient):
                dist.barrier(group=self._side)  # none leaves while another still has to hear that all are here

    @contextlib.contextmanager
    def first_per_host(self) -> Iterator[None]:
        """Let one rank per host run this block before the others, which then find the result in the cache."""
        is_early = int(os.environ.get("LOCAL_RANK", self.rank)) == 0
        if not is_early:
            self.barrier(patient=True)
        try:
            yield
        except VitletError:
            if is_early:
                self.barrier(patient=True)  # the others, who wait for it, meet the same error
            raise
        if is_early:
            self.barrier(patient=True)

    def gather_rows(self, rows: Tensor, *, total: int) -> Tensor:
        """Gather all rows in order, on every rank's CPU; rank r holds rows r, r + size, r + 2 size, … of `total`."""
        if self.size == 1:
            return rows
        share = -(-total // self.size)
        padded = torch.zeros((share, *rows.shape[1:]), dtype=rows.dtype)
        padded[: len(rows)] = rows.cpu()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with self.exchange(patient=True):
            dist.all_gather(parts, padded, group=self._side)
        return torch.stack(parts, dim=1).flatten(0, 1)[:total]

    def broadcast(self, content: bytes | None) -> bytes | None:
        """Broadcast rank 0's content to every rank; what the others pass is ignored."""
        if self.size == 1:
            return content
        mine = content if self.is_first else None
        with self.exchange(patient=True):
            length = torch.tensor([-1 if mine is None else len(mine)])
            dist.broadcast(length, 0, group=self._side)
            if length < 0:
                return None
            sent = torch.empty(int(length), dtype=torch.uint8) if mine is None else _as_tensor(mine)
            dist.broadcast(sent, 0, group=self._side)
        return sent.numpy().tobytes()

    def broadcast_json(self, value: Any) -> Any:
        """Return rank 0's value on every rank; it travels as JSON."""
        return json.loads(self.broadcast(json.dumps(value).encode()) or b"null")

    def claim(self, name: str) -> bool:
        """Return whether this is the first rank that asks for `name`, a piece of work that one of them does."""
        return self.size == 1 or self.count(name) == 1

    def count(self, name: str, more: int = 1) -> int:
        """Add to a number that all ranks share, 0 at first, and return it; none waits for another.

        Raises:
            WorkerError: if a rank is lost, so that none asks for ever for what that one would do.
        """
        with self.exchange():
            return dist.distributed_c10d._get_default_store().add(f"vitlet/{name}", more)

    def gather(self, text: str) -> list[str]:
        """The texts of all ranks, by rank. torch's own object collectives unpickle what arrives."""
        if self.size == 1:
            return [text]
        mine = text.encode()
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self.exchange(patient=True):
            dist.all_gather(lengths, torch.tensor([len(mine)]), group=self._side)
            longest = max(int(length) for length in lengths)
            parts = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
            dist.all_gather(parts, _as_tensor(mine.ljust(longest)), group=self._side)
        return [part.numpy().tobytes()[: int(length)].decode() for part, length in zip(parts, lengths, strict=True)]

    def require_same(self, what: str, *, of: str) -> None:
        """Refuse to continue if ranks see different things under one name.

        Args:
            what: What this rank sees, in a few words.
            of: What is compared, for the message.

        Raises:
            DataError: on all ranks, with what each of them sees.
        """
        seen = self.gather(what)
        if len(set(seen)) > 1:
            ranks = enumerate(zip(self.members, seen, strict=True))
            lines = "".join(f"\n  rank {rank} on {member.host}: {text}" for rank, (member, text) in ranks)
            raise DataError(
                f"the ranks see different {of}",
                why="They would not work on the same thing:" + lines,
                fix="give all hosts the same files under the same path",
            )

    def leave(self) -> None:
        """Close the group."""
        if self.size > 1 and dist.is_initialized():
            self._heartbeat.leave()
            dist.destroy_process_group()

    @contextlib.contextmanager
    def exchange(self, *, patient: bool = False) -> Iterator[None]:
        """Let the ranks exchange something in the block, and name the rank that is gone if that fails.

        A block that waits for a lost rank without noticing, as NCCL's do, ends the process with that error instead.

        Args:
            patient: Wait for ranks that come from work of unequal length.

        Raises:
            WorkerError: when the connection to a rank breaks or it does not answer in time.
        """
        try:
            with self._heartbeat.exchange(self._loss) if self._heartbeat else contextlib.nullcontext():
                if patient:
                    self._heartbeat.meet()
                yield
        except RuntimeError as error:
            outlive_termination()  # torchrun, which misses the rank too, is not to be faster than the message
            raise self._loss(error) from error

    def _loss(self, error: RuntimeError) -> WorkerError:
        if self._heartbeat and self._heartbeat.loss:
            return self._heartbeat.loss
        who, where = blame(self.members, self.rank)
        fix = "look at the output of the other ranks; the same command goes on from the last checkpoint"
        return WorkerError(who, where=where, why=reason(error), fix=fix)


@functools.lru_cache(maxsize=1)
def _store(process: int, port: str | None) -> dist.Store:
    """Return the store in which ranks meet, the same for all jobs of this process.

    Without an agent of torchrun rank 0 serves it. If every job had its own, a rank could meet that of the last one.
    """
    return next(rendezvous("env://", timeout=_timeout()))[0]


def _as_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def _timeout() -> timedelta:
    text = os.environ.get(TIMEOUT_VARIABLE, "300")
    if not text.isdigit() or not int(text):
        raise UsageError(f"{TIMEOUT_VARIABLE}={text!r}", why="It is a number of seconds", fix=f"{TIMEOUT_VARIABLE}=300")
    return timedelta(seconds=int(text))


def is_restart() -> bool:
    """Whether torchrun started this process, rank 0, to go on with what an earlier one began."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" or max(_attempts, default=1) > 1
