"""`lg3d` whose second process is lost once, after two steps: `torchrun -m tests.lost_rank finetune ...`.

How is in the environment: LOST_RANK is `killed`, `stopped` (as by SIGSTOP), or `hangs` (in the loading of a scene).
"""

import os
import signal
import time

import torch

from lg3d_cli.__main__ import main
from lg3d_core.training import batches
from lg3d_core.training.step import Stepper

STEPS = 2
SIGNALS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}


def lose(how: str) -> None:
    """Let this process be lost after two steps."""
    step, load, done = Stepper.take, batches.SceneBatches.load, []

    def counted(*arguments: object, **options: object) -> object:
        result = step(*arguments, **options)  # type: ignore[arg-type]
        done.append(result)
        if len(done) == STEPS:
            os.kill(os.getpid(), SIGNALS[how])
        return result

    def hangs(*arguments: object, **options: object) -> object:
        if len(done) == STEPS:
            time.sleep(600)
        done.append(None)
        return load(*arguments, **options)  # type: ignore[arg-type]

    if how == "hangs":
        batches.SceneBatches.load = hangs  # type: ignore[assignment, method-assign]
    else:
        Stepper.take = counted  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        lose(os.environ.get("LOST_RANK", "killed"))
    main()
