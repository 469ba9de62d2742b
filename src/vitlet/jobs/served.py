"""What the server of `vitlet.jobs.pool` imports before it forks: all that training and probing need.

The server hears no signals. Its children do, also those that others than vitlet ask it for.
"""

import os
import signal

import vitlet.evaluation.logistic
import vitlet.jobs.arms  # noqa: F401

os.register_at_fork(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, ()))
