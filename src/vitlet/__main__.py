"""`python -m vitlet`, as torchrun starts it."""

import sys

from vitlet.cli import main

sys.exit(main())
