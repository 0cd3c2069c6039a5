"""Which models furnish which split, and a model as a thing that can be placed."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from lg3d_core.errors import DataError
from lg3d_core.files import atomic_path
from lg3d_core.synthetic.modelled.library import CatalogEntry, Library, find_libraries, read_library
from lg3d_core.synthetic.modelled.naming import Names, category_of
from lg3d_core.synthetic.modelled.resample import SampledModel, sample_model
from lg3d_core.synthetic.modelling import Kit, Model, Top
from lg3d_core.synthetic.shapes import Array, Paint, Part, SampledMesh

HELD_OUT = 0.3
"""Share of a thing's models that only validation rooms hold, where it has two or more."""
LARGEST = 3.6
"""Models with a longer side do not fit into a room, metres."""
SMALLEST = 0.05
"""Models with no longer side are not seen by a scanner, metres."""
SCALES = (0.93, 1.07)
"""Every placed model is scaled by a factor between."""
SAMPLER = 4
"""Counts changes of what sampling gives, so that older samples are not reused."""


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model of a library and the thing that it stands for."""

    library: Path
    entry: CatalogEntry
    thing: str
    digest: str


@dataclass(frozen=True)
class FurniturePlan:
    """The models that one split's rooms are furnished with; small enough to be handed to every worker.

    Attributes:
        models: Thing -> its models, in the libraries' order.
        spacing: Distance of neighbouring vertices in metres.
        cache: Folder of sampled models.
    """

    models: dict[str, tuple[NamedModel, ...]]
    spacing: float
    cache: Path


@dataclass(frozen=True)
class Catalog:
    """All models that have a name.

    Attributes:
        models: In the libraries' order.
        libraries: As they were read.
        unnamed: Models that the table leaves out.
        problems: One line for every entry that cannot be used.
    """

    models: tuple[NamedModel, ...]
    libraries: tuple[Library, ...]
    unnamed: int
    problems: tuple[str, ...]

    def split(self, seed: int) -> dict[str, frozenset[str]]:
        """Keys of the models of each split: those of things with one model are in both, the others in one.

        Of a thing's n >= 2 models, max(1, round(0.3 n)) go to validation alone, by a random order of the seed and the
        thing's name.
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
        """The plan of the models with these keys."""
        models: dict[str, tuple[NamedModel, ...]] = {}
        for model in self.models:
            if model.entry.key in keys:
                models[model.thing] = (*models.get(model.thing, ()), model)
        return FurniturePlan(models, spacing, cache)

    @property
    def digest(self) -> str:
        """Changes with the libraries and with the names."""
        text = json.dumps([[model.digest, model.entry.key, model.thing] for model in self.models])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_catalog(folder: Path, names: Names) -> Catalog:
    """Read all libraries of a folder and name their models.

    Raises:
        DataError: No library, one that is no library, or no model that the names know.
    """
    libraries = tuple(read_library(path) for path in find_libraries(folder))
    if len({library.name for library in libraries}) < len(libraries):
        raise DataError(f"--furniture {folder}: two libraries have one name")
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
        raise DataError(f"--furniture {folder}: the table of names knows none of its models; see --furniture-names")
    problems = tuple(problem for library in libraries for problem in library.problems)
    return Catalog(tuple(models), libraries, unnamed, problems)


@dataclass
class Furniture:
    """Builds modelled things for one room, and remembers which.

    Attributes:
        used: Keys of the models that were built, in the order of their first use.
        problems: Key of each model that turned out malformed -> what is wrong.
    """

    plan: FurniturePlan
    used: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def has(self, thing: str) -> bool:
        """Whether there are models of it."""
        return thing in self.plan.models

    def build(self, thing: str, kit: Kit, *, raised: bool) -> Model | None:
        """Build one of a thing's models, of a size and tint of its own; None where there is no sound one.

        Args:
            thing: Name of the thing.
            kit: The room's random numbers.
            raised: Whether it starts at the height above the floor at which its maker hangs it.
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
    """A sampled model as a thing: one part to draw, many boxes that nothing may enter."""

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
        """Centres, half sizes and rotations of its boxes."""
        return self._boxes


def load_sampled(model: NamedModel, spacing: float, cache: Path) -> SampledModel:
    """A sampled model from the cache, or sampled and put there.

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
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # cut short by a full disk
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
    with path.open("rb") as stream, np.load(stream) as stored:
        xyz, normal, rgb = (stored[key].astype(np.float64) for key in ("xyz", "normal", "rgb"))
        mesh = SampledMesh(xyz, normal, rgb, stored["faces"])
        return SampledModel(mesh, stored["low"], stored["high"], stored["tops"])


def _digest(path: Path) -> str:
    """Of a library's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()[:16]
