"""Label budgets (limited annotations): which training points keep their label, chosen once and written down."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from lg3d_core.progress import Progress
    from lg3d_core.store.scene_store import SceneStore


class Budget:
    """The points of the training scenes that keep their label."""

    ratio: float
    seed: int
    path: Path
    digest: str
    train_digest: str

    def rows(self, scene_id: str) -> npt.NDArray[np.int64]:
        raise NotImplementedError

    def class_counts(self, scene_id: str) -> npt.NDArray[np.int64]:
        raise NotImplementedError


def ensure_budget(store: "SceneStore", ratio: float, *, seed: int = 0, progress: "Progress") -> Budget:
    raise NotImplementedError
