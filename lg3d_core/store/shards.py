"""Shard files: what each shard of an array job records for the merge.

`STORE/shards/3-of-8.json` records the plan of shard 3, the scenes that it put into the store, and the checksum of each
scene file. Shards share nothing but the folder, so they may run on many machines over a network file system, with or
without locks: the file system only has to replace files by renaming.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lg3d_core.errors import DataError
from lg3d_core.files import write_text
from lg3d_core.scans.files import parse_json_object, read_file
from lg3d_core.scans.formats.raw_folder import join_unmapped
from lg3d_core.scans.scannet import SCENE_ID
from lg3d_core.seal import sealed_digest
from lg3d_core.store.scene_file import SceneHeader
from lg3d_core.store.scene_store import SCENES_FOLDER, SHARDS_FOLDER, vocabulary_from_json, vocabulary_to_json
from lg3d_core.vocabulary import Vocabulary

FORMAT = "lg3d shard 2"
NAME = re.compile(r"([1-9][0-9]{0,8})-of-([1-9][0-9]{0,8})\.json")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Record of one shard.

    Attributes:
        index: Number of the shard, from 1.
        count: Number of shards.
        plan: Digest of all scenes, their splits, label table and vocabulary: equal for all shards of one job.
        raw: Raw folder.
        label_table: Digest of the label table.
        vocabularies: Vocabularies of the labels.
        format: Name of the raw folder's format.
        seals: Seal of the file of each scene that the shard prepared or found up to date.
        failed: Reason for each scene that could not be prepared.
        unmapped: Raw labels missing from the label table, with their number of objects.
    """

    index: int
    count: int
    plan: str
    raw: Path
    label_table: str
    vocabularies: tuple[Vocabulary, ...]
    format: str
    seals: dict[str, str]
    failed: dict[str, str]
    unmapped: dict[str, int]


class Shards(NamedTuple):
    """All shards of a job, in order."""

    parts: list[Shard]

    def name_of(self, scene_id: str) -> str:
        """Return the option that runs the shard of a scene."""
        return next(f"--shard {part.index}/{part.count}" for part in self.parts if scene_id in part.seals)

    @property
    def failed(self) -> dict[str, str]:
        """Return the failed scenes of all shards, with reasons."""
        return dict(sorted((scene, reason) for part in self.parts for scene, reason in part.failed.items()))

    @property
    def unmapped(self) -> dict[str, int]:
        """Return the unmapped raw labels of all shards, most frequent first."""
        return join_unmapped(part.unmapped for part in self.parts)


def read_seals(store: Path, headers: Sequence[SceneHeader]) -> dict[str, str]:
    """Return the seal of each scene's file, as 64 hex digits.

    Raises:
        DataError: A file is missing.
    """
    folder = store / SCENES_FOLDER
    names = sorted(header.scene for header in headers)
    return {scene_id: sealed_digest(folder / f"{scene_id}.h5") or "" for scene_id in names}


def digest_plan(splits: Mapping[str, str], vocabularies: Sequence[Vocabulary], label_table: str) -> str:
    """Return the digest of everything that the shards of one job must agree on, 16 hex digits."""
    digests = [vocabulary.digest for vocabulary in vocabularies]
    parts = (*digests, label_table, *(f"{scene_id} {split}" for scene_id, split in sorted(splits.items())))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def write_shard(store: Path, shard: Shard) -> None:
    """Write the file of a finished shard.

    Raises:
        DataError: The file cannot be written.
    """
    body = {
        "format": FORMAT,
        "plan": shard.plan,
        "raw": str(shard.raw),
        "label_table": shard.label_table,
        "vocabularies": [vocabulary_to_json(vocabulary) for vocabulary in shard.vocabularies],
        "raw_format": shard.format,
        "seals": shard.seals,
        "failed": shard.failed,
        "unmapped": shard.unmapped,
    }
    path = store / SHARDS_FOLDER / f"{shard.index}-of-{shard.count}.json"
    write_text(path, json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def remove_shards(store: Path, index: int, count: int) -> None:
    """Remove the shard files that a run invalidates: its own earlier one, and those of jobs with another count."""
    for path, (other, total) in _find_files(store).items():
        if total != count or other == index or count == 1:
            with suppress(FileNotFoundError):  # another shard removed it first
                path.unlink()


def read_shards(store: Path) -> Shards:
    """Read the files of all shards of a job.

    Raises:
        DataError: A file is missing or damaged, the shards were made from different scans, or a scene is in two.
    """
    files = _find_files(store)
    if not files:
        raise DataError(
            f"{store} contains no finished shards to merge: run lg3d prepare RAW --store {store} --shard 1/2, and so on"
        )
    counts = sorted({count for _, count in files.values()})
    if len(counts) > 1:
        some = " and ".join(map(str, counts))
        raise DataError(f"{store / SHARDS_FOLDER} mixes jobs with {some} shards: run all shards of one job")
    done = {index for index, _ in files.values()}
    missing = [f"{index}/{counts[0]}" for index in range(1, min(counts[0], len(done) + 10) + 1) if index not in done]
    if missing:
        some = ", ".join(missing[:8]) + (", ..." if counts[0] - len(done) > 8 else "")
        raise DataError(f"{counts[0] - len(done)} of {counts[0]} shards are not done: run --shard {some}, then merge")
    parts = sorted((_read_shard(path, *numbers) for path, numbers in files.items()), key=lambda part: part.index)
    strangers = [part.index for part in parts if part.plan != parts[0].plan]
    if strangers:
        raise DataError(
            f"shard {strangers[0]}/{counts[0]} of {store} was made from other scans, splits, label table or vocabulary "
            f"than shard 1/{counts[0]}: run the shards again on an unchanged raw folder"
        )
    owner: dict[str, int] = {}
    for part in parts:
        for scene_id in part.seals:
            if scene_id in owner:
                raise DataError(f"{scene_id} is in shards {owner[scene_id]} and {part.index}: run both again")
            owner[scene_id] = part.index
    return Shards(parts)


def _find_files(store: Path) -> dict[Path, tuple[int, int]]:
    found = {}
    for path in sorted((store / SHARDS_FOLDER).glob("*.json")):
        match = NAME.fullmatch(path.name)
        if match is not None and int(match[1]) <= int(match[2]):
            found[path] = (int(match[1]), int(match[2]))
    return found


def _read_shard(path: Path, index: int, count: int) -> Shard:
    again = f"run --shard {index}/{count} again"
    try:
        body = parse_json_object(read_file(path), path)
        if body["format"] != FORMAT:
            raise ValueError(f"format {body['format']!r}, expected {FORMAT!r}")
        texts = (
            body["plan"],
            body["raw"],
            body["label_table"],
            body["raw_format"],
            *body["seals"].values(),
            *body["failed"].values(),
        )
        if not all(isinstance(text, str) for text in texts) or not all(SCENE_ID.fullmatch(s) for s in body["seals"]):
            raise ValueError("a value is not text, or a scene is not a valid id")
        if not body["vocabularies"]:
            raise ValueError("no vocabulary")
        return Shard(
            index=index,
            count=count,
            plan=body["plan"],
            raw=Path(body["raw"]),
            label_table=body["label_table"],
            vocabularies=tuple(map(vocabulary_from_json, body["vocabularies"])),
            format=body["raw_format"],
            seals=dict(body["seals"]),
            failed=dict(body["failed"]),
            unmapped={str(label): int(objects) for label, objects in body["unmapped"].items()},
        )
    except DataError as error:
        raise DataError(f"{error}: {again}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise DataError(f"{path} is damaged ({error!r}): {again}") from None
