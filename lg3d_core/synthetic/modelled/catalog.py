"""Catalog of models: their split, and placement of a model as a thing."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from lg3d_core.arrays import read_npz
from lg3d_core.errors import DataError
from lg3d_core.files import atomic_path
from lg3d_core.synthetic.modelled.library import CatalogEntry, Library, find_libraries, read_library
from lg3d_core.synthetic.modelled.naming import Names, category_of
from lg3d_core.synthetic.modelled.resample import SampledModel, sample_model
from lg3d_core.synthetic.modelling import Kit, Model, Top
from lg3d_core.synthetic.shapes import Array, Paint, Part, SampledMesh

HELD_OUT = 0.3
"""Share of a thing's models that are reserved for validation rooms, if it has two or more."""
LARGEST = 3.6
"""Maximum side length of a model in metres."""
SMALLEST = 0.05
"""Minimum longest side of a model in metres; a scanner would not see smaller ones."""
SCALES = (0.93, 1.07)
"""Range of the random scale of a placed model."""
SAMPLER = 4
"""Version of the sampling; samples of other versions are not reused."""


@dataclass(frozen=True, slots=True)
class NamedModel:
    """Model of a library, and the thing that it represents."""

    library: Path
    entry: CatalogEntry
    thing: str
    digest: str


@dataclass(frozen=True)
class FurniturePlan:
    """Models of one split's rooms; small enough to be sent to every worker.

    Attributes:
        models: Models by thing, in the libraries' order.
        spacing: Distance of neighbouring vertices in metres.
        cache: Folder of sampled models.
    """

    models: dict[str, tuple[NamedModel, ...]]
    spacing: float
    cache: Path


@dataclass(frozen=True)
class Catalog:
    """All models that have a name in the table.

    Attributes:
        models: Models in the libraries' order.
        libraries: Libraries in the order of reading.
        unnamed: Number of models that the table skips.
        problems: One message per unusable entry.
    """

    models: tuple[NamedModel, ...]
    libraries: tuple[Library, ...]
    unnamed: int
    problems: tuple[str, ...]

    def split(self, seed: int) -> dict[str, frozenset[str]]:
        """Return the keys of the models of each split; the only model of a thing is in both splits.

        If a thing has n >= 2 models, max(1, round(0.3 n)) are used for validation only, in a random order that
        depends on the seed and the thing's name.
        """
        by_thing: dict[str, list[str]] = {}
        for model in self.models:
            by_thing.setdefault(model.thing, []).append(model.entry.key)
        keys: dict[str, set[str]] = {"train": set(), "val": set()}
        for thing, own in by_thing.items():
            if len(own) == 1:
                keys["train"].add(own[0])
                keys["val"].add(own[0])
                continue
            rng = np.random.default_rng([seed, *thing.encode()])
            order = [own[int(n)] for n in rng.permutation(len(own))]
            held_out = max(1, round(HELD_OUT * len(own)))
            keys["val"].update(order[:held_out])
            keys["train"].update(order[held_out:])
        return {split: frozenset(own) for split, own in keys.items()}

    def plan(self, keys: frozenset[str], *, spacing: float, cache: Path) -> FurniturePlan:
        """Return the plan of the models with some keys."""
        models: dict[str, tuple[NamedModel, ...]] = {}
        for model in self.models:
            if model.entry.key in keys:
                models[model.thing] = (*models.get(model.thing, ()), model)
        return FurniturePlan(models, spacing, cache)

    @property
    def digest(self) -> str:
        """Digest of the libraries and the names."""
        text = json.dumps([[model.digest, model.entry.key, model.thing] for model in self.models])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_catalog(folder: Path, names: Names) -> Catalog:
    """Read all libraries of a folder and name their models.

    Raises:
        DataError: There is no library, a library is invalid, or no model has a name in the table.
    """
    libraries = tuple(read_library(path) for path in find_libraries(folder))
    if len({library.name for library in libraries}) < len(libraries):
        raise DataError(f"--furniture {folder}: two libraries share a name")
    models: list[NamedModel] = []
    unnamed = 0
    for library in libraries:
        digest = _digest(library.path)
        for entry in library.entries:
            thing = names.thing_of(entry)
            if thing is None or not SMALLEST < max(entry.size) < LARGEST:
                unnamed += 1
                continue
            models.append(NamedModel(library.path, entry, thing, digest))
    if not models:
        raise DataError(f"--furniture {folder}: the table of names contains none of its models; see --furniture-names")
    problems = tuple(problem for library in libraries for problem in library.problems)
    return Catalog(tuple(models), libraries, unnamed, problems)


@dataclass
class Furniture:
    """Builder of modelled things for one room.

    Attributes:
        used: Keys of the models that were built, in the order of their first use.
        problems: Messages about malformed models, by key.
    """

    plan: FurniturePlan
    used: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def has(self, thing: str) -> bool:
        """Return whether the thing has models."""
        return thing in self.plan.models

    def build(self, thing: str, kit: Kit, *, raised: bool) -> Model | None:
        """Build one of a thing's models with a random size and tint; return None if no model is valid.

        Args:
            thing: Name of the thing.
            kit: Random numbers of the room.
            raised: Whether the model keeps its original height above the floor.
        """
        models: Sequence[NamedModel] = self.plan.models.get(thing, ())
        while models:
            model = kit.choose(models)
            scale = np.array([kit.u(*SCALES), kit.u(*SCALES), kit.u(*SCALES)])
            tint = kit.u(0.82, 1.08)
            try:
                sampled = load_sampled(model, self.plan.spacing, self.plan.cache)
            except DataError as error:
                self.problems[model.entry.key] = f"{model.entry.describe()}: {error}"
                models = [other for other in models if other is not model]
                continue
            if model.entry.key not in self.used:
                self.used.append(model.entry.key)
            lift = model.entry.elevation if raised else 0.0
            return ModelledThing(category_of(thing), sampled, scale=scale, tint=tint, lift=lift)
        return None


class ModelledThing(Model):
    """Sampled model as a thing: one part for drawing, many boxes for collisions."""

    def __init__(self, label: str, sampled: SampledModel, *, scale: Array, tint: float, lift: float) -> None:
        super().__init__(label)
        mesh = sampled.mesh
        offset = np.array([0.0, 0.0, lift])
        center = (sampled.low.min(axis=0) + sampled.high.max(axis=0)) / 2
        normal = mesh.normal / scale
        placed = SampledMesh(
            (mesh.xyz - center) * scale,
            normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-9),
            mesh.rgb,
            mesh.faces,
        )
        half = (sampled.high.max(axis=0) - sampled.low.min(axis=0)) / 2 * scale
        paint = Paint((255.0 * tint,) * 3, "as it is")
        self.parts.append(Part("mesh", center * scale + offset, half, np.eye(3), paint, mesh=placed))
        low, high = sampled.low * scale + offset, sampled.high * scale + offset
        self._boxes = (low + high) / 2, np.maximum((high - low) / 2, 1e-4), np.broadcast_to(np.eye(3), (len(low), 3, 3))
        six = np.array([scale[0], scale[1], scale[0], scale[1], scale[2], scale[2]])
        self.tops = [
            Top((*(float(value) for value in top[:4]), float(top[4]) + lift, float(top[5])))
            for top in sampled.tops * six
        ]

    def bounds(self) -> tuple[Array, Array, Array]:
        """Return centres, half sizes and rotations of the boxes."""
        return self._boxes


def load_sampled(model: NamedModel, spacing: float, cache: Path) -> SampledModel:
    """Load a sampled model from the cache, or sample it and add it to the cache.

    Raises:
        DataError: The model is malformed.
    """
    return _load(model.library, model.entry, model.digest, spacing, cache)


@lru_cache(maxsize=160)
def _load(library: Path, entry: CatalogEntry, digest: str, spacing: float, cache: Path) -> SampledModel:
    name = hashlib.sha256(f"{SAMPLER} {digest} {entry} {spacing}".encode()).hexdigest()[:20]
    path = cache / f"{entry.key}-{name}.npz"
    if not path.is_file():
        _write(path, sample_model(library, entry, spacing=spacing))
    try:
        return _read(path)
    except (DataError, KeyError):  # damaged, for example by a full disk
        _write(path, sample_model(library, entry, spacing=spacing))
    return _read(path)


def _write(path: Path, sampled: SampledModel) -> None:
    mesh = sampled.mesh
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            xyz=mesh.xyz.astype(np.float32),
            normal=mesh.normal.astype(np.float32),
            rgb=mesh.rgb.astype(np.float32),
            faces=mesh.faces,
            low=sampled.low,
            high=sampled.high,
            tops=sampled.tops,
        )


def _read(path: Path) -> SampledModel:
    stored = read_npz(path)
    xyz, normal, rgb = (stored[key].astype(np.float64) for key in ("xyz", "normal", "rgb"))
    mesh = SampledMesh(xyz, normal, rgb, stored["faces"])
    return SampledModel(mesh, stored["low"], stored["high"], stored["tops"])


def _digest(path: Path) -> str:
    """Return the digest of a library's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()[:16]
