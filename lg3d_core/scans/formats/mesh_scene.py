"""Scene of a mesh in a PLY file whose annotation is in other files."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from lg3d_core.errors import DataError
from lg3d_core.scans.files import digest_files
from lg3d_core.scans.formats.assembly import MappedLabels, SceneArrays, assemble, metre_frame, no_labels
from lg3d_core.scans.formats.groups import PaintedObjects
from lg3d_core.scans.formats.raw_folder import RawScene
from lg3d_core.scans.ply import open_ply
from lg3d_core.scans.scannet import Scan
from lg3d_core.scans.surface import Surface
from lg3d_core.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class MeshScene(RawScene):
    """Mesh, and annotation files that scenes of the split "test" may lack."""

    mesh: Path
    annotation: tuple[Path, ...]
    vocabularies: tuple[Vocabulary, ...]
    scale: str
    up: str

    @property
    def folder(self) -> Path:
        """Folder of the mesh."""
        return self.mesh.parent

    @property
    def files(self) -> list[Path]:
        """Mesh, and the annotation files that exist."""
        return [self.mesh, *(path for path in self.annotation if path.exists())]

    def require(self) -> None:
        """Check the id and the presence of the files.

        Raises:
            DataError: The id is invalid, or a file is missing.
        """
        super().require()
        needed = (self.mesh,) if self.split == "test" else (self.mesh, *self.annotation)
        missing = [path for path in needed if not path.exists()]
        if missing:
            raise DataError(f"{missing[0]}: missing")

    @abstractmethod
    def paint(self, surface: Surface) -> PaintedObjects:
        """Return the labels, objects and segments of the vertices.

        Raises:
            DataError: The annotation is damaged, or belongs to another mesh.
        """

    def read(self) -> Scan:
        """Read the scene.

        Raises:
            DataError: A file is missing, damaged, or does not match the mesh.
        """
        surface = open_ply(self.mesh)
        num_points = surface.num_vertices
        if not num_points:
            raise DataError(f"{self.mesh}: the mesh has no vertices")
        labels: list[MappedLabels] = [no_labels(num_points) for _ in self.vocabularies]
        instance = segment = None
        if all(path.exists() for path in self.annotation):
            labels, instance, segment = self.paint(surface)
        doubts = [f"{self.mesh}: {doubt}" for doubt in surface.doubts]
        if surface.colors is None:
            doubts.append(f"{self.mesh}: no colours: using grey, which reduces accuracy")
        arrays = SceneArrays(
            path=self.mesh,
            xyz=surface.positions(0, num_points),
            rgb=None if surface.colors is None else surface.colors(0, num_points),
            faces=surface.faces,
            normal=None,
            labels=labels,
            instance=instance,
            segment=segment,
            warnings=tuple(doubts),
        )
        frame = metre_frame(arrays, scale=self.scale, up=self.up)
        digest = digest_files(self.files)
        return assemble(arrays, frame, scene_id=self.scene_id, vocabularies=self.vocabularies, digest=digest)
