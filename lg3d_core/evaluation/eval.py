"""Evaluation of one checkpoint on one split of a store."""

from pathlib import Path

from lg3d_core.errors import CheckpointError
from lg3d_core.evaluation.evaluate import Evaluation, evaluate_scenes
from lg3d_core.evaluation.objects import Grouping
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.evaluation.submit import submitting
from lg3d_core.files import require_file, require_folder, sweep_temporaries
from lg3d_core.models.names import find_model
from lg3d_core.networks.checkpoint import CheckpointInfo, newest_checkpoint
from lg3d_core.progress import Progress
from lg3d_core.settings import EvalSettings
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.vocabulary import Vocabulary


def evaluate(settings: EvalSettings, progress: Progress) -> Evaluation:
    """Score a fine-tuned checkpoint, by default the newest one, on a split.

    With the instance task, voxels are grouped into objects; without an offset head, by class and distance alone.

    Raises:
        CheckpointError: There is no checkpoint, or it has no classifier or another vocabulary.
        DataError: There is no store, the split has no scenes, or the submission cannot be written.
    """
    if settings.export is not None:
        require_folder(settings.export, "--export")
    require_file(settings.submission, "--submission")
    store = SceneStore(settings.store, settings.vocabulary)
    path = find_classifier(settings.checkpoint, settings.runs, progress, final_relu=settings.final_relu)
    if path is None:
        raise CheckpointError(f"no fine-tuned run in {settings.runs}: run lg3d finetune, or pass --checkpoint FILE")
    predictor, info = Predictor.load(
        path,
        device=settings.device,
        precision=settings.precision,
        backend=settings.backend,
        votes=settings.votes,
        adapt=settings.adapt,
        final_relu=settings.final_relu,
        vocabulary=store.vocabulary.digest,
    )
    store = SceneStore(settings.store, settings.vocabulary, preferred=info.vocabulary_digest)
    require_classifier(path, info, store.vocabulary)
    if settings.export is not None:
        sweep_temporaries(settings.export)
    with submitting(settings.submission, store.vocabulary) as observe:
        return evaluate_scenes(
            predictor,
            store,
            store.scene_ids(settings.split),
            grouping=_choose_grouping(settings, info, progress),
            export=settings.export,
            observe=observe,
            progress=progress,
        )


def _choose_grouping(settings: EvalSettings, info: CheckpointInfo, progress: Progress) -> Grouping | None:
    if settings.task == "semantic" or (settings.task == "auto" and not info.offset_head):
        return None
    if not info.offset_head:
        progress.note(
            "the checkpoint has no offset head: objects are connected components of each class; lg3d finetune --task "
            "instance trains an offset head"
        )
    return Grouping.for_voxels(info.voxel_size)


def find_classifier(
    checkpoint: Path | None, runs: Path, progress: Progress, *, final_relu: bool | None = None
) -> Path | None:
    """Return the requested checkpoint, by default the newest fine-tuned one, or None if there is none.

    Raises:
        CheckpointError: The requested checkpoint does not exist.
    """
    if checkpoint is not None:
        return find_model(checkpoint, progress, final_relu=final_relu)
    newest = newest_checkpoint(runs, "finetune")
    if newest is not None:
        progress.note(f"using the newest fine-tuned run: {newest}")
    return newest


def require_classifier(path: Path, info: CheckpointInfo, vocabulary: Vocabulary) -> None:
    """Check that a checkpoint has a classifier for the classes of a vocabulary.

    Raises:
        CheckpointError: It has no classifier, or one for other classes.
    """
    if info.num_classes is None:
        raise CheckpointError(
            f"{path} is a pre-training checkpoint without a classifier: run lg3d finetune --from {path}"
        )
    if not info.vocabulary_digest and info.num_classes != len(vocabulary):
        raise CheckpointError(
            f"{path} is for {info.num_classes} classes, the store has {len(vocabulary)} ({vocabulary.name}): "
            "use a store of the vocabulary that the checkpoint was trained with"
        )
    if info.vocabulary_digest not in ("", vocabulary.digest):
        raise CheckpointError(
            f"{path} is for the vocabulary {info.vocabulary} ({info.vocabulary_digest}), the store has "
            f"{vocabulary.name} ({vocabulary.digest}): use a store of the checkpoint's vocabulary"
        )
