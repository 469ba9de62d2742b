"""The command line: lists the verbs, runs one, and turns every error into one line and an exit code."""

import sys
import traceback

from cyclopts import App, CycloptsError

from vitlet.arguments import refuse_alone, refuse_empty, usage_message
from vitlet.console import say_error
from vitlet.errors import StoppedError, VitletError
from vitlet.text import printable
from vitlet.verbs import cluster, comparing, data, evaluation, models, replication, training, transfer

app = App(
    name="vitlet",
    help="Small vision transformers, pre-trained on your own images.",
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    help_epilogue="Every command takes --debug, which shows where an error comes from.",
)
for _verb in (
    training.demo,
    data.check,
    data.pack,
    data.recipes,
    training.pretrain,
    training.finetune,
    training.resume,
    training.learn,
    replication.reproduce,
    comparing.compare,
    training.overfit,
    evaluation.probe,
    evaluation.evaluate,
    evaluation.analyse,
    evaluation.study,
    transfer.transfer,
    evaluation.bench,
    models.embed,
    models.predict,
    models.detect,
    models.export,
    models.push,
    models.report,
    cluster.slurm,
):
    app.command(_verb)
app.command(models.import_, name="import")
app.command(comparing.sweep)


_TOGETHER = {
    "check",
    *("pretrain", "finetune", "resume", "probe", "embed", "predict", "evaluate", "detect", "analyse"),
    *("demo", "compare", "sweep", "transfer", "learn", "study", "overfit", "reproduce"),
    *("export", "import", "push", "pack", "report"),
}
"""Verbs that run under torchrun: ranks share every batch of the second row and whole trainings and probes of the third,
and the first rank does the work of the fourth alone. The images of a host are checked by one of its ranks."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code that `vitlet.errors` assigns to each kind of error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    try:
        refuse_empty(words)
        refuse_alone(words, together=_TOGETHER)
        app(words, exit_on_error=False, print_error=False)
    except BrokenPipeError:
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        message, code = _answer(error)
        say_error(message)
        return code
    return 0


def _answer(error: BaseException) -> tuple[str, int]:
    """Return the message for an error, and the exit code."""
    match error:
        case StoppedError():
            return str(error), error.exit_status
        case VitletError():
            return str(error), error.exit_code
        case CycloptsError():
            return usage_message(error, verbs=tuple(app)), 2
        case KeyboardInterrupt():
            return (
                "interrupted; what was saved is whole. Fix: the same command again, or vitlet resume RUN, goes on",
                130,
            )
        case _:
            text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":. ")
            return f"{printable(text)}. This is a fault of vitlet. Fix: report it, with what --debug shows", 1


if __name__ == "__main__":
    sys.exit(main())
