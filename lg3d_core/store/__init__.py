"""The HDF5 scene store: what it holds, how it is written, read and prepared, and label budgets."""

from lg3d_core.store.budgets import Budget, ensure_budget
from lg3d_core.store.prepare import PrepareReport, prepare_store
from lg3d_core.store.scene_file import Scene
from lg3d_core.store.scene_store import SceneStore

__all__ = ["Budget", "PrepareReport", "Scene", "SceneStore", "ensure_budget", "prepare_store"]
