"""Attempts of one launch by torchrun: what an earlier one began is gone on with, never begun anew in silence.

torchrun gives rank 0 to the first of the hosts' sorted addresses, so the loss of a host can move it to one that does
not have the run directory. Its store does not tell: another first host serves a new one (torch 2.14). Therefore each
host remembers which run was begun, in the folder that its torchrun keeps until it ends, and all hosts are asked.
"""

import contextlib
import hashlib
import os
from pathlib import Path

from vitlet.disk import read_json, write_json
from vitlet.distributed.world import World
from vitlet.errors import CheckpointError, ResourceError
from vitlet.run import Run
from vitlet.text import printable


def require_begun_here(run: Run, world: World) -> None:
    """Refuse to train where the first rank does not have the run that an earlier attempt of this launch began.

    Raises:
        CheckpointError: on all ranks, naming the host.
    """
    if not world.members:
        return
    begun = set(world.gather(_recall(run))) - {""}
    here = world.broadcast_json(_id_of(run) if world.is_first else "")
    if begun and here not in begun:
        what = "another run" if here else "no run"
        raise CheckpointError(
            f"{what} at {printable(run.path)} on {world.members[0].host}, where rank 0 is now",
            why="An earlier attempt of this launch began one, on a host that had rank 0 then",
            fix="a shared --out, which all hosts see under the same path",
        )


def remember(run: Run, world: World) -> None:
    """Let every host remember the run until its torchrun ends."""
    if not world.members:
        return
    told = world.broadcast_json(_id_of(run) if world.is_first else "")
    if place := _place(run):
        with contextlib.suppress(ResourceError):  # training does not end because a temporary folder is full
            write_json(place, {"process": os.getpid(), "run": told})


def _id_of(run: Run) -> str:
    return run.environment.id if run.recipe_file.is_file() else ""


def _recall(run: Run) -> str:
    """The run that this host remembers from another process: an earlier attempt."""
    if (place := _place(run)) is None or not place.is_file():
        return ""
    told = read_json(place)
    return "" if told["process"] == os.getpid() else told["run"]


def _place(run: Run) -> Path | None:
    """A file in torchrun's folder, the only one that outlives an attempt; one rank of the host reads and writes it."""
    file = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", ""))  # FOLDER/attempt_0/0/error.json
    if len(file.parents) < 3 or os.environ.get("LOCAL_RANK") != "0" or not file.parents[1].name.startswith("attempt_"):
        return None
    return file.parents[2] / f"vitlet-{hashlib.sha256(str(run.path).encode()).hexdigest()[:16]}.json"
