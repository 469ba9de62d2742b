"""How the ranks of one attempt agree on a name for it, among what earlier attempts left in the same store."""

import json
import time
import uuid

from torch.distributed import Store

_POLL_SECONDS = 0.01


def meet(store: Store, *, rank: int, size: int, seconds: float) -> str:
    """Return a new name that all ranks of this attempt return, and no rank of another.

    torchrun keeps one store for all attempts (torch 2.14), and its count of restarts differs between hosts: losing a
    worker counts where it was, on other hosts it is a change of membership. So every rank leaves a token, rank 0 offers
    a name to the tokens it sees, and offers another if one of them was of an earlier attempt.

    Raises:
        RuntimeError: if not all ranks are there in time.
    """
    until = time.monotonic() + seconds
    return _lead(store, size, until) if rank == 0 else _follow(store, rank, until)


def _lead(store: Store, size: int, until: float) -> str:
    name, offered = "", [""]
    while True:
        tokens = [store.get(f"vitlet/token/{rank}").decode() for rank in range(1, size)]
        if tokens != offered:
            name, offered = uuid.uuid4().hex, tokens
            store.set("vitlet/offer", json.dumps([name, tokens]))
        if all(_read(store, f"vitlet/taken/{rank}") == name for rank in range(1, size)):
            store.set("vitlet/name", name)
            return name
        _wait(until)


def _follow(store: Store, rank: int, until: float) -> str:
    token, taken = uuid.uuid4().hex, ""
    store.set(f"vitlet/token/{rank}", token)
    while True:
        name, tokens = json.loads(store.get("vitlet/offer"))
        if name != taken and rank <= len(tokens) and tokens[rank - 1] == token:
            store.set(f"vitlet/taken/{rank}", taken := name)
        if taken and _read(store, "vitlet/name") == taken:
            return taken
        _wait(until)


def _read(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _wait(until: float) -> None:
    if time.monotonic() > until:
        raise RuntimeError("Not all ranks are there")
    time.sleep(_POLL_SECONDS)
