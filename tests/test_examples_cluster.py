"""The job scripts for Slurm are bash, call commands that exist, and queue themselves again when they are stopped."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.test_docs import parse

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples" / "cluster").glob("*.sbatch"))

TORCHRUN = """#!/bin/bash
echo "$*" >> calls
case "$*" in
    *pretrain*)
        [ -e fast ] && exit 0
        trap 'exit 1' TERM
        touch waits
        for _ in {1..300}; do sleep 0.1; done;;
esac
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_job_script_is_bash_and_its_commands_exist(script: Path) -> None:
    text = script.read_text()
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", script], capture_output=True, text=True).stdout == ""
    text = re.sub(r"\$SLURM_ARRAY_TASK_ID", "1", text.replace("\\\n", " "))
    lines = re.findall(r"^\s*(?:srun )?lg3d (\w+[^\n>#]*)", text, re.MULTILINE)
    lines += re.findall(r"^train ((?:pretrain|finetune)[^\n#]*)", text, re.MULTILINE)
    assert lines
    for line in lines:
        parse(shlex.split(line.replace("$SLURM_CPUS_PER_TASK", "4")))


def test_the_training_job_is_stopped_queued_again_and_goes_on(tmp_path: Path) -> None:
    stand_ins = {
        "srun": '#!/bin/bash\nwhile [[ $1 == -* ]]; do shift; done\nexec "$@"\n',
        "torchrun": TORCHRUN,
        "lg3d": "#!/bin/bash\n",
    }
    stand_ins["scontrol"] = '#!/bin/bash\n[ "$1" = show ] && echo node7 || echo "$@" >> calls\n'
    (tmp_path / "bin").mkdir()
    (tmp_path / "runs" / "finetune-34d").mkdir(parents=True)
    for name, text in stand_ins.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}
    environment["SLURM_JOB_NODELIST"] = "node[7-8]"
    command = ["bash", str(ROOT / "examples" / "cluster" / "train.sbatch")]
    job = subprocess.Popen(command, cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 30
    while not (tmp_path / "waits").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 0
    (tmp_path / "fast").touch()
    assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [re.sub(r".*lg3d_cli (\w+) .*", r"\1", call) for call in calls] == [
        "pretrain",
        "requeue 7",
        "pretrain",
        "finetune",
    ]
    assert calls[0].startswith("--nnodes 2 --nproc-per-node 8 --max-restarts 3 --rdzv-backend c10d")
    assert "--rdzv-endpoint node7:29500 --rdzv-id 7" in calls[0]
