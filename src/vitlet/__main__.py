"""Entry point of `python -m vitlet`, which torchrun uses."""

import sys

from vitlet.cli import main

sys.exit(main())
