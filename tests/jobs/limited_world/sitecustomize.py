"""The real worker with a limit on its memory, or with a checkpoint every step.

Python imports this at its start when the folder is on PYTHONPATH.
"""

import os
import resource
import sys


def _limit(headroom):
    """Let the process map so many bytes more than with everything imported and one product computed."""
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401

    from playground.training import text  # noqa: F401

    torch.set_num_threads(1)
    (torch.ones(64, 64) @ torch.ones(64, 64)).sum().item()
    with open("/proc/self/status") as file:
        now = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmSize:"))
    resource.setrlimit(resource.RLIMIT_AS, (now + headroom, now + headroom))


def _save_often():
    from dataclasses import replace

    from playground.methods.parametric import Parametric

    plan = Parametric.plan
    Parametric.plan = lambda *given, **more: replace(
        plan(*given, **more),
        checkpoint_seconds=0.0,
        mixed=False,  # not timed: two runs are compared
    )


if "playground.jobs.worker" in sys.orig_argv:
    if headroom := os.environ.get("TEST_HEADROOM"):
        _limit(int(headroom))
    if os.environ.get("TEST_SAVE_OFTEN"):
        _save_often()
