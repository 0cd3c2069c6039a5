"""Prepared scene store: its scenes and their content, optionally under a label budget."""

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import ChoiceError, DataError
from lg3d_core.files import write_bytes
from lg3d_core.progress import Progress
from lg3d_core.scans.scannet import SCENE_ID
from lg3d_core.store.budgets import Budget
from lg3d_core.store.scene_file import FORMAT_VERSION, MAX_ROWS, Scene, SceneHeader, read_scene_content
from lg3d_core.vocabulary import SPLITS, Category, Vocabulary, load_vocabulary
from lg3d_core.vocabulary.vocabulary_file import RESERVED_GROUP

INDEX_NAME = "store.json"
SCENES_FOLDER = "scenes"
SHARDS_FOLDER = "shards"


class SceneEntry(NamedTuple):
    """Entry of a scene in `store.json`.

    Attributes:
        split: "train", "val" or "test".
        num_points: Number of vertices.
        num_faces: Number of triangles.
        digest: Digest of the raw files, label table and vocabulary that the scene was made from.
        class_counts: Number of labelled points of each class that occurs.
    """

    split: str
    num_points: int
    num_faces: int
    digest: str
    class_counts: dict[int, int]


class SceneStore:
    """Scenes written by `lg3d prepare`.

    Keeps no file open, so it can be copied to other processes. Scenes are read one at a time, completely.
    """

    path: Path
    vocabularies: tuple[Vocabulary, ...]
    """Vocabularies of the labels in the scene files; the first one is the default."""
    vocabulary: Vocabulary
    """Vocabulary of the labels that are read."""
    digest: str
    """Digest of the vocabulary and every scene: equal exactly if two stores were made from the same input."""
    train_digest: str
    """Digest of the vocabulary and the training scenes, which identifies what a label budget is made for."""

    def __init__(self, path: Path, vocabulary: str | None = None, *, preferred: str = "") -> None:
        """Read `store.json`.

        Args:
            path: Folder of the store.
            vocabulary: Vocabulary whose labels are read: its name, or the path of an equal vocabulary's file.
            preferred: Digest of the vocabulary to use if the store has it and `vocabulary` is None; the first one is
                used otherwise.

        Raises:
            DataError: The store is missing, unfinished or of another version; the message names the command to run.
            ChoiceError: The store has no labels of the vocabulary.
        """
        self.path = path
        index = _read_index(path)
        try:
            first = vocabulary_from_json(index["vocabulary"])
            self.vocabularies = (first, *map(vocabulary_from_json, index.get("more_vocabularies", ())))
            self.vocabulary = _choose_vocabulary(self.vocabularies, vocabulary, preferred, path)
            self._labels = None if self.vocabulary is first else self.vocabulary.name
            self._entries = {
                str(scene_id): SceneEntry(
                    split=entry["split"],
                    num_points=int(entry["points"]),
                    num_faces=int(entry["faces"]),
                    digest=str(self._labels_of(entry)["digest"]),
                    class_counts={
                        int(key): int(value) for key, value in self._labels_of(entry)["class_counts"].items()
                    },
                )
                for scene_id, entry in sorted(index["scenes"].items())
            }
            _require_counts(self._entries, len(self.vocabulary))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
            raise DataError(f"{path / INDEX_NAME} is damaged ({error!r}): run lg3d prepare again") from None
        wrong = [s for s, entry in self._entries.items() if entry.split not in SPLITS or not SCENE_ID.fullmatch(s)]
        if wrong:
            raise DataError(f"{path / INDEX_NAME}: scene {wrong[0]!r} is invalid: run lg3d prepare again")
        self.digest = digest_scenes(self.vocabulary, self._entries)
        train = {scene_id: entry for scene_id, entry in self._entries.items() if entry.split == "train"}
        self.train_digest = digest_scenes(self.vocabulary, train)

    @property
    def labels_suffix(self) -> str:
        """End of the names of files that depend on the labels; empty for those of the first vocabulary."""
        return "" if self._labels is None else f"-{self._labels}"

    def _labels_of(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return digest and class counts of a scene's labels."""
        labels: dict[str, Any] = entry if self._labels is None else entry["more_labels"][self._labels]
        return labels

    def scene_ids(self, split: str | None = None) -> list[str]:
        """Return the sorted ids of all scenes or of a split; may be empty.

        Raises:
            ChoiceError: The split does not exist.
        """
        if split is not None and split not in SPLITS:
            raise ChoiceError(f"no split {split!r}: expected one of {', '.join(SPLITS)}")
        return [scene_id for scene_id, entry in self._entries.items() if split in (None, entry.split)]

    def entry(self, scene_id: str) -> SceneEntry:
        """Return the index entry of a scene without opening its file.

        Raises:
            DataError: The scene does not exist; the message lists similar ids.
        """
        if scene_id not in self._entries:
            close = difflib.get_close_matches(scene_id, self._entries, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else f" among its {len(self._entries)} scenes"
            raise DataError(f"no scene {scene_id!r} in {self.path}{hint}")
        return self._entries[scene_id]

    def split_of(self, scene_id: str) -> str:
        """Return the split of a scene.

        Raises:
            DataError: The scene does not exist.
        """
        return self.entry(scene_id).split

    def scene_path(self, scene_id: str) -> Path:
        """Return the path of a scene's file.

        Raises:
            DataError: The scene does not exist.
        """
        self.entry(scene_id)
        return self.path / SCENES_FOLDER / f"{scene_id}.h5"

    def read(self, scene_id: str, *, budget: Budget | None = None, for_training: bool = False) -> Scene:
        """Read a scene.

        Args:
            scene_id: Id of the scene.
            budget: Label budget. Other points of a training scene get label -1 and instance 0; geometry and segments
                are unchanged. Scenes of other splits are not affected.
            for_training: Whether to skip normals, segments and faces, which then have no rows.

        Raises:
            DataError: The scene does not exist, its file is damaged, or the budget was made for other scenes.
        """
        entry = self.entry(scene_id)
        path = self.scene_path(scene_id)
        scene, header = read_scene_content(
            path, num_classes=len(self.vocabulary), for_training=for_training, labels=self._labels
        )
        if (
            scene.scene_id != scene_id
            or len(scene.xyz) != entry.num_points
            or scene_digest(header, self._labels) != entry.digest
        ):
            raise DataError(f"{path} does not fit {INDEX_NAME}: run lg3d prepare again")
        if budget is None or entry.split != "train":
            return scene
        rows = self._budgeted_rows(scene_id, budget)
        label, instance = np.full_like(scene.label, -1), np.zeros_like(scene.instance)
        label[rows], instance[rows] = scene.label[rows], scene.instance[rows]
        return scene._replace(label=label, instance=instance)

    def class_counts(self, split: str, *, budget: Budget | None = None) -> npt.NDArray[np.int64]:
        """Return the number of labelled points of each class in a split, shape `(classes,)`, int64.

        With a budget, the training split only counts the points that the budget keeps.

        Raises:
            ChoiceError: The split does not exist.
            DataError: The budget was made for other scenes.
        """
        if budget is not None and split == "train":
            self._require_own(budget)
            kept: npt.NDArray[np.int64] = budget.counts.sum(axis=0)
            return kept
        total = np.zeros(len(self.vocabulary), dtype=np.int64)
        for scene_id in self.scene_ids(split):
            for index, count in self.entry(scene_id).class_counts.items():
                total[index] += count
        return total

    def instance_counts(self, split: str, progress: Progress | None = None) -> npt.NDArray[np.int64]:
        """Return the number of annotated objects of each class in a split, shape `(classes,)`, int64.

        Reads every scene of the split.

        Raises:
            ChoiceError: The split does not exist.
            DataError: A file is damaged.
        """
        total = np.zeros(len(self.vocabulary), dtype=np.int64)
        scene_ids = self.scene_ids(split)
        with (progress or Progress()).task("count objects", total=len(scene_ids), unit="scene") as task:
            for scene_id in scene_ids:
                scene = self.read(scene_id, for_training=True)
                annotated = (scene.label >= 0) & (scene.instance > 0)
                keys = scene.instance[annotated].astype(np.int64) * len(total) + scene.label[annotated]
                total += np.bincount(np.unique(keys) % len(total), minlength=len(total))
                task.advance(status=scene_id)
        return total

    def _require_own(self, budget: Budget) -> None:
        if budget.train_digest != self.train_digest:
            raise DataError(
                f"the label budget {budget.path} was made for other training scenes than those of {self.path}"
            )

    def _budgeted_rows(self, scene_id: str, budget: Budget) -> npt.NDArray[np.int64]:
        self._require_own(budget)
        rows = budget.rows(scene_id)
        if len(rows) and int(rows.max()) >= self.entry(scene_id).num_points:
            raise DataError(f"the label budget {budget.path} lists points that {scene_id} does not have")
        return rows


def _choose_vocabulary(known: tuple[Vocabulary, ...], wanted: str | None, preferred: str, path: Path) -> Vocabulary:
    if wanted is None:
        return next((vocabulary for vocabulary in known if vocabulary.digest == preferred), known[0])
    by_name = {vocabulary.name: vocabulary for vocabulary in known}
    if wanted in by_name:
        return by_name[wanted]
    if Path(wanted).is_file():
        digest = load_vocabulary(wanted).digest
        for vocabulary in known:
            if vocabulary.digest == digest:
                return vocabulary
    raise ChoiceError(
        f"{path} has no labels of the vocabulary {wanted}, expected one of {', '.join(by_name)}: pass one of them as "
        "--vocabulary, or prepare the store with both"
    )


def write_index(
    path: Path, vocabularies: Sequence[Vocabulary], headers: list[SceneHeader], provenance: dict[str, Any]
) -> None:
    """Write `store.json` for scenes whose files are in place.

    Raises:
        DataError: The file cannot be written.
    """
    scenes = {
        header.scene: {
            "split": header.split,
            "points": header.num_points,
            "faces": header.num_faces,
            "digest": scene_digest(header),
            "class_counts": _counts_to_json(header.class_counts),
            **_more_labels(header),
        }
        for header in sorted(headers, key=lambda header: header.scene)
    }
    index = {
        "format": "lg3d scene store",
        "format_version": FORMAT_VERSION,
        "provenance": provenance,
        "vocabulary": vocabulary_to_json(vocabularies[0]),
        **({"more_vocabularies": [vocabulary_to_json(v) for v in vocabularies[1:]]} if len(vocabularies) > 1 else {}),
        "splits": {split: [s for s, entry in scenes.items() if entry["split"] == split] for split in SPLITS},
        "scenes": scenes,
    }
    write_bytes(path / INDEX_NAME, (json.dumps(index, indent=1, ensure_ascii=False) + "\n").encode())


def _more_labels(header: SceneHeader) -> dict[str, Any]:
    found = {
        name: {"digest": scene_digest(header, name), "class_counts": _counts_to_json(labels.class_counts)}
        for name, labels in header.more_labels.items()
    }
    return {"more_labels": found} if found else {}


def _counts_to_json(counts: dict[int, int]) -> dict[str, int]:
    return {str(index): count for index, count in sorted(counts.items())}


def _read_index(path: Path) -> dict[str, Any]:
    file = path / INDEX_NAME
    if not path.exists():
        raise DataError(f"no scene store at {path}: create one with lg3d prepare RAW --store {path}")
    if not file.exists():
        begun = (path / SCENES_FOLDER).is_dir()
        if begun and any((path / SHARDS_FOLDER).glob("*.json")):
            raise DataError(
                f"{path} is an unfinished scene store (no {INDEX_NAME}): when all shards are done, "
                f"run lg3d prepare --merge --store {path}"
            )
        state = "an unfinished scene store" if begun else "not a scene store"
        raise DataError(f"{path} is {state} (no {INDEX_NAME}): run lg3d prepare RAW --store {path}")
    try:
        index = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{file} cannot be read ({reason}): run lg3d prepare again") from None
    if not isinstance(index, dict) or index.get("format") != "lg3d scene store":
        raise DataError(f"{file} is not the index of a scene store: run lg3d prepare again")
    if index.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{file} has format version {index.get('format_version')}, expected {FORMAT_VERSION}: prepare it again"
        )
    return index


def scene_digest(header: SceneHeader, labels: str | None = None) -> str:
    """Return the digest of all inputs that determine the content of a scene with the labels of one vocabulary.

    Args:
        header: Header of the scene file.
        labels: Name of the vocabulary, if it is not the first one.

    Raises:
        DataError: The file has no labels of the vocabulary.
    """
    found = header.labels_of(labels)
    if found is None:
        raise DataError(f"{header.scene} has no labels of the vocabulary {labels}: run lg3d prepare again")
    parts = (str(FORMAT_VERSION), header.source_digest, header.label_table, found.vocabulary, header.split)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def digest_scenes(vocabulary: Vocabulary, entries: dict[str, SceneEntry]) -> str:
    """Return the digest of a vocabulary and a set of scenes, 16 hex digits."""
    total = hashlib.sha256(vocabulary.digest.encode())
    for scene_id, entry in sorted(entries.items()):
        total.update(f"\n{scene_id}\t{entry.digest}".encode())
    return total.hexdigest()[:16]


def vocabulary_to_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a complete vocabulary as JSON values, so that a store does not depend on the user's file."""
    value: dict[str, Any] = {
        "name": vocabulary.name,
        "id_column": vocabulary.id_column,
        "digest": vocabulary.digest,
        "categories": [_category_to_json(category) for category in vocabulary.categories],
    }
    optional = {"ignored_ids": vocabulary.ignored_ids, "group_order": vocabulary.group_order}
    return value | {name: list(values) for name, values in optional.items() if values}


def vocabulary_from_json(value: dict[str, Any]) -> Vocabulary:
    """Read a vocabulary from `vocabulary_to_json`."""
    categories = tuple(_category(index, fields) for index, fields in enumerate(value["categories"]))
    if not (isinstance(value["name"], str) and isinstance(value["id_column"], str) and categories):
        raise ValueError("the vocabulary has no name, no column or no classes")
    ignored, order = value.get("ignored_ids", []), value.get("group_order", [])
    if not all(type(number) is int for number in ignored) or not all(isinstance(group, str) for group in order):
        raise ValueError("the ignored ids are not integers, or a group has no name")
    vocabulary = Vocabulary(value["name"], value["id_column"], categories, tuple(ignored), tuple(order))
    if vocabulary.digest != value["digest"]:
        raise ValueError("the vocabulary does not match its digest")
    return vocabulary


def _category_to_json(category: Category) -> dict[str, Any]:
    """Return a class without empty synonyms, so that stores of vocabularies without them do not change."""
    fields = dict(category.__dict__)
    return fields if category.synonyms else {name: value for name, value in fields.items() if name != "synonyms"}


def _category(index: int, fields: dict[str, Any]) -> Category:
    """Read one class of a file and check the type of every field."""
    red, green, blue = fields["color"]
    category = Category(**(fields | {"color": (red, green, blue), "synonyms": tuple(fields.get("synonyms", ()))}))
    numbers = (category.index, category.id, red, green, blue)
    if not all(type(number) is int for number in numbers) or category.index != index or abs(category.id) >= 1 << 63:
        raise ValueError(f"class {index} has another index or an invalid number")
    if not all(isinstance(text, str) for text in (category.name, category.group, *category.synonyms)):
        raise ValueError(f"class {index} has an invalid name, group or synonym")
    if category.group.casefold() == RESERVED_GROUP:
        raise ValueError(f"class {index} has the group {category.group!r}, which is not allowed")
    if type(category.in_validation) is not bool or not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"class {index} has an invalid colour")
    return category


def _require_counts(entries: dict[str, SceneEntry], num_classes: int) -> None:
    """Reject counts that no scene can have."""
    for scene_id, entry in entries.items():
        fits = all(0 <= index < num_classes and 0 <= n <= entry.num_points for index, n in entry.class_counts.items())
        if not (fits and 0 <= entry.num_points <= MAX_ROWS and 0 <= entry.num_faces <= MAX_ROWS):
            raise ValueError(f"scene {scene_id} has invalid counts")
