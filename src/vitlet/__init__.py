"""vitlet: small vision transformers, pre-trained on your own images.

    import vitlet
    run = vitlet.pretrain("mae_micro", data="images/", out="runs/mae")

Names are imported when they are first used: `import vitlet` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitlet.jobs.options import Options as Options
    from vitlet.jobs.training import finetune as finetune
    from vitlet.jobs.training import pretrain as pretrain
    from vitlet.jobs.training import resume as resume

_HOMES = {
    "Options": "vitlet.jobs.options",
    "finetune": "vitlet.jobs.training",
    "pretrain": "vitlet.jobs.training",
    "resume": "vitlet.jobs.training",
}

__all__ = ["Options", "finetune", "pretrain", "resume"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitlet' has no attribute {name!r}")
