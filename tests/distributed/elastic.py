"""Run by torchrun: the small training of `ranked`, whose rank 1 is killed at a step of each attempt. Not a test itself.

Called as `torchrun … elastic.py IMAGES RUN STEP …`.
"""

import os
import signal
import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "faults")]

import torch
from harness import Job
from ranked import noting, run_training

from vitlet.data.index import open_index
from vitlet.distributed.world import World
from vitlet.errors import VitletError
from vitlet.methods.objective import Losses, Objective, Step
from vitlet.run import Run
from vitlet.train import checkpoint


def killed_at(number: int, objective: Objective, world: World) -> None:
    forward = objective.forward

    def last(batch: object, step: Step) -> Losses:
        if world.rank == 1 and step.index == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(batch, step)

    objective.forward = last


def main(images: str, out: str, *steps: str) -> int:
    torch.set_num_threads(1)
    run, job = Run(Path(out)), Job(open_index(images), batch_size=4)
    kill = dict(enumerate(map(int, steps))).get(int(os.environ["TORCHELASTIC_RESTART_COUNT"]), -1)

    def note(objective: Objective, world: World) -> None:
        noting(run)(objective, world)
        killed_at(kill, objective, world)

    try:
        with World.joined() as world:
            if world.is_first:
                found, _ = checkpoint.latest(run)
                with open(run.path.with_suffix(".starts"), "a") as log:
                    log.write(f"{world.size} from {found.step if found else 0}\n")
            run_training(job, run, world, note=note, every=3)
    except VitletError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
