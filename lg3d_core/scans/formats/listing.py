"""Listing of the scenes of a raw folder, with their splits and the problems of the folder."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lg3d_core.scans.formats.raw_folder import RawFolder, RawScene, find_repeated
from lg3d_core.scans.formats.splits import Place, assign_splits
from lg3d_core.vocabulary import Vocabulary


def list_scenes(
    raw: Path,
    name: str,
    vocabularies: tuple[Vocabulary, ...],
    places: Iterable[Place],
    label_table: str,
    make: Callable[[Place, str], RawScene],
    *,
    split_files: Mapping[str, str] | None = None,
) -> RawFolder:
    """Return a raw folder of scenes, sorted by id.

    Args:
        raw: The folder.
        name: Name of the format.
        vocabularies: Vocabularies of the labels.
        places: Where the scenes were found.
        label_table: Digest of what determines the labels besides the files.
        make: Returns the scene at a place in a split.
        split_files: Split of each split file by its path in the folder, instead of `train.txt`, `val.txt`, `test.txt`.
    """
    ordered = sorted(places, key=lambda place: (place.scene_id, place.path))
    assignment = assign_splits(raw, ordered, split_files)
    return RawFolder(
        path=raw,
        format=name,
        vocabularies=vocabularies,
        scenes=[make(place, split) for place, split in zip(ordered, assignment.splits, strict=True)],
        label_table=label_table,
        problems=(*assignment.problems, *find_repeated([(place.scene_id, place.path) for place in ordered])),
        warnings=tuple(assignment.warnings),
    )
