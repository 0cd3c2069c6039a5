"""`lg3d` whose second process is killed once, after two steps: `torchrun -m tests.lost_rank finetune ...`."""

import os
import signal

import torch

from lg3d_cli.__main__ import main
from lg3d_core.training import loop

STEPS = 2


def _die_after_steps() -> None:
    step, done = loop._take_step, []

    def counted(*arguments: object, **options: object) -> object:
        result = step(*arguments, **options)  # type: ignore[arg-type]
        done.append(result)
        if len(done) == STEPS:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    loop._take_step = counted  # type: ignore[assignment]


if __name__ == "__main__":
    torch.set_num_threads(1)
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        _die_after_steps()
    main()
