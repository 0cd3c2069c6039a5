"""HDF5 scene store: file format, preparation, reading, verification, and label budgets."""

from lg3d_core.store.budgets import Budget, ensure_budget
from lg3d_core.store.prepare import MergeReport, PrepareReport, merge_shards
from lg3d_core.store.prepare import prepare as prepare_store
from lg3d_core.store.scene_file import Scene
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.store.verify import VerifyReport, verify_store

__all__ = [
    "Budget",
    "MergeReport",
    "PrepareReport",
    "Scene",
    "SceneStore",
    "VerifyReport",
    "ensure_budget",
    "merge_shards",
    "prepare_store",
    "verify_store",
]
