"""Vocabularies: the 200 and the classic 20 classes, their groups, and the benchmark's scene splits."""

from lg3d_core.vocabulary.categories import Category, Vocabulary
from lg3d_core.vocabulary.labels import LabelTable, read_label_table
from lg3d_core.vocabulary.splits import SPLITS, load_scene_splits, read_split_files, read_split_lists
from lg3d_core.vocabulary.vocabulary_file import load_vocabulary

__all__ = [
    "SPLITS",
    "Category",
    "LabelTable",
    "Vocabulary",
    "load_scene_splits",
    "load_vocabulary",
    "read_label_table",
    "read_split_files",
    "read_split_lists",
]
