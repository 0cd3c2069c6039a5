"""Draw the panel that training shows on a terminal as a picture, from what a run has logged.

    python docs/images/panel.py runs/finetune-20260101-120000 docs/images/panel.svg --step 219

Losses, speeds and waiting are those of the run's steps, time is the sum of their seconds; the validation is the last
before that step.
"""

import argparse
import io
import json
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from lg3d_cli.live import DrawnTask
from lg3d_core.progress import Topic

LIGHT = TerminalTheme(
    (255, 255, 255),
    (29, 36, 48),
    [
        (29, 36, 48), (168, 56, 8), (32, 110, 70), (150, 105, 0),
        (27, 98, 196), (150, 40, 120), (0, 110, 130), (90, 100, 115),
    ],
)  # fmt: skip


def draw_panel(run: Path, step: int, *, width: int = 80) -> str:
    """The panel after so many steps of a run, as SVG."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    steps = [record for record in records if "loss" in record]
    validations = [record for record in records if "val_miou_present" in record and record["step"] <= step]
    now = [0.0]
    task = DrawnTask("finetune" if "start" in settings else "pretrain", len(steps), "step", clock=lambda: now[0])
    for record in steps[:step]:
        now[0] += record["seconds"]
        task.show(Topic.LOSSES, {key: record[key] for key in record if key == "loss" or key.endswith("_loss")})
        task.show(Topic.SPEED, {key: record[key] for key in ("voxels_per_second", "seconds", "data_wait")})
        task.advance(status=f"epoch {record['epoch'] + 1}/{settings['epochs']}")
    if validations:
        last, prefix = validations[-1], "val_miou_present_"
        groups = {key.removeprefix(prefix): score for key, score in last.items() if key.startswith(prefix)}
        task.show(Topic.VALIDATION, {"epoch": last["epoch"], **groups, "all": last["val_miou_present"]})
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(task)
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)  # whose fonts would be fetched
    form = form.replace("Fira Code", "DejaVu Sans Mono").replace(
        "<!-- Generated with Rich https://www.textualize.io -->", ""
    )
    return console.export_svg(
        code_format=form, title="lg3d finetune" if "start" in settings else "lg3d pretrain", theme=LIGHT
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--step", type=int, required=True)
    chosen = parser.parse_args()
    chosen.picture.write_text(draw_panel(chosen.run, chosen.step), encoding="utf-8")
