"""The pipeline over the library: prepare a raw folder, pre-train, fine-tune with few labels, score.

Usage: python examples/pipeline.py RAW WORK [RECIPE]
"""

import sys
from pathlib import Path

from lg3d_core.evaluation.eval import evaluate as evaluate_checkpoint
from lg3d_core.language.anchors import anchors as make_anchors
from lg3d_core.progress import Progress
from lg3d_core.settings import AnchorsSettings, EvalSettings, FinetuneSettings, PrepareSettings, PretrainSettings
from lg3d_core.store.prepare import prepare as prepare_store
from lg3d_core.training.finetune import finetune
from lg3d_core.training.pretrain import pretrain


class Printed(Progress):
    """Shows notes and warnings, and no bars."""

    def note(self, message: str) -> None:
        print(message, file=sys.stderr)

    warn = note


def run_pipeline(raw: Path, work: Path, recipe: str = "demo", limited: float = 0.5) -> float:
    """Run the pipeline with a share of the labels; returns the validation mIoU over the present categories."""
    progress = Printed()
    store, runs, anchors = work / "data", work / "runs", work / "anchors.safetensors"

    report = prepare_store(PrepareSettings(raw=raw, store=store), progress)
    for scene, reason in report.failed.items():
        progress.warn(f"{scene}: {reason}")
    make_anchors(AnchorsSettings.resolve(recipe=recipe, anchors=anchors), progress)

    common = {"recipe": recipe, "store": store, "anchors": anchors, "runs": runs, "limited": limited}
    pretrained = pretrain(PretrainSettings.resolve(**common), progress)
    tuned = finetune(FinetuneSettings.resolve(start=str(pretrained), **common), progress)

    evaluation = evaluate_checkpoint(EvalSettings(store=store, checkpoint=tuned), progress)
    return evaluation.vertex.miou_present


if __name__ == "__main__":
    print(f"miou_present {run_pipeline(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4]):.4f}")
