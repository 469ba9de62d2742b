"""vitlet: small vision transformers, pre-trained on your own images.

    import vitlet
    run = vitlet.pretrain("mae_micro", data="images/", out="runs/mae")

Functions have the names and parameters of their commands, and take the run that another returned wherever a path is
asked for. `vitlet sweep keep-blocks` is `sweep_keep_blocks`, and `vitlet import` is `import_weights`, since `import` is
a word of Python's. `Options` holds what does not affect results.

Names are imported on first use: `import vitlet` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitlet.jobs.analysing import analyse as analyse
    from vitlet.jobs.checking import check as check
    from vitlet.jobs.comparing import compare as compare
    from vitlet.jobs.demo import demo as demo
    from vitlet.jobs.detecting import detect as detect
    from vitlet.jobs.evaluating import evaluate as evaluate
    from vitlet.jobs.evaluation import embed as embed
    from vitlet.jobs.evaluation import predict as predict
    from vitlet.jobs.evaluation import probe as probe
    from vitlet.jobs.exporting import export as export
    from vitlet.jobs.importing import import_weights as import_weights
    from vitlet.jobs.learning import learn as learn
    from vitlet.jobs.options import Options as Options
    from vitlet.jobs.overfitting import overfit as overfit
    from vitlet.jobs.packing import pack as pack
    from vitlet.jobs.pushing import push as push
    from vitlet.jobs.reporting import report as report
    from vitlet.jobs.studying import study as study
    from vitlet.jobs.sweeping import sweep_distill_layers as sweep_distill_layers
    from vitlet.jobs.sweeping import sweep_keep_blocks as sweep_keep_blocks
    from vitlet.jobs.training import finetune as finetune
    from vitlet.jobs.training import pretrain as pretrain
    from vitlet.jobs.training import resume as resume
    from vitlet.jobs.transferring import transfer as transfer

_HOMES = {
    "Options": "vitlet.jobs.options",
    "analyse": "vitlet.jobs.analysing",
    "check": "vitlet.jobs.checking",
    "compare": "vitlet.jobs.comparing",
    "demo": "vitlet.jobs.demo",
    "detect": "vitlet.jobs.detecting",
    "embed": "vitlet.jobs.evaluation",
    "evaluate": "vitlet.jobs.evaluating",
    "export": "vitlet.jobs.exporting",
    "finetune": "vitlet.jobs.training",
    "import_weights": "vitlet.jobs.importing",
    "learn": "vitlet.jobs.learning",
    "overfit": "vitlet.jobs.overfitting",
    "pack": "vitlet.jobs.packing",
    "predict": "vitlet.jobs.evaluation",
    "pretrain": "vitlet.jobs.training",
    "probe": "vitlet.jobs.evaluation",
    "push": "vitlet.jobs.pushing",
    "report": "vitlet.jobs.reporting",
    "resume": "vitlet.jobs.training",
    "study": "vitlet.jobs.studying",
    "sweep_distill_layers": "vitlet.jobs.sweeping",
    "sweep_keep_blocks": "vitlet.jobs.sweeping",
    "transfer": "vitlet.jobs.transferring",
}

__all__ = [
    "Options",
    "analyse",
    "check",
    "compare",
    "demo",
    "detect",
    "embed",
    "evaluate",
    "export",
    "finetune",
    "import_weights",
    "learn",
    "overfit",
    "pack",
    "predict",
    "pretrain",
    "probe",
    "push",
    "report",
    "resume",
    "study",
    "sweep_distill_layers",
    "sweep_keep_blocks",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vitlet' has no attribute {name!r}")
    from vitlet.jobs.calling import checked

    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found if isinstance(found, type) else checked(found, name)
    return globals()[name]
