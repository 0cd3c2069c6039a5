"""The steps of the Dockerfile as a script, without Docker: `python -m tests.dockerfile_steps FOLDER`.

Steps for which a container is root (apt-get, folders at the root) are left out; paths of the image are below FOLDER.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"
AS_ROOT = ("apt-get ", "mkdir -p /work")


class Step(NamedTuple):
    """One instruction of a Dockerfile, its continued lines joined."""

    instruction: str
    text: str


def read_steps(path: Path = DOCKERFILE) -> list[Step]:
    """Return the instructions of a Dockerfile."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [Step(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def arguments(steps: list[Step]) -> dict[str, str]:
    """Return the build arguments and their defaults."""
    return dict(step.text.partition("=")[::2] for step in steps if step.instruction == "ARG")


def script(folder: Path, overrides: dict[str, str] | None = None) -> list[str]:
    """Return the shell commands of the steps that need no root, with the image's paths below `folder`."""
    steps = read_steps()
    values = arguments(steps) | (overrides or {}) | {"PREFIX": str(folder / "opt")}
    commands = []
    for step in steps:
        text = re.sub(r"\$\{(\w+)\}", lambda found: values.get(found[1], found[0]), step.text)
        text = re.sub(r'(?<=[\s"])/src', str(folder / "src"), text)
        if step.instruction == "COPY":
            *sources, target = text.split()
            for source in sources:
                to = Path(target) / source if target.endswith("/") else Path(target)
                commands.append(f"mkdir -p '{to.parent}' && cp -r '{ROOT / source}' '{to}'")
        elif step.instruction == "RUN" and not text.startswith(AS_ROOT):
            commands.append(text)
    return commands


def main(folder: Path, overrides: dict[str, str]) -> None:
    """Run the steps."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for command in script(folder, overrides):
        sys.stdout.write(f"+ {command}\n")
        sys.stdout.flush()
        subprocess.run(["sh", "-ec", command], check=True, cwd=folder, env={**os.environ, "HOME": str(folder)})


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), dict(word.split("=", 1) for word in sys.argv[2:]))
