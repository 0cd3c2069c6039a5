"""The submission that an evaluation writes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lg3d_core.evaluation.submissions import write_submission
from lg3d_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from lg3d_core.evaluation.predictor import Prediction
    from lg3d_core.store.scene_file import Scene

    Observer = Callable[[Scene, Prediction], None]


@contextmanager
def submitting(path: Path | None, vocabulary: Vocabulary) -> "Iterator[Observer | None]":
    """Yield a function that adds a scene's prediction to a submission; None without a path.

    The objects of a prediction are added if it has any list of objects, else its labels. The zip file replaces `path`
    if the block ends without an error.

    Raises:
        DataError: The file cannot be written.
    """
    if path is None:
        yield None
        return
    with write_submission(path, vocabulary) as writer:

        def add(scene: "Scene", prediction: "Prediction") -> None:
            if prediction.objects is None:
                writer.add_labels(scene.scene_id, prediction.label)
            else:
                writer.add_instances(scene.scene_id, prediction.objects, num_vertices=len(scene.label))

        yield add
