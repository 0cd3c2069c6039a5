"""Audit of a raw folder; nothing is written."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lg3d_core.processes import run_in_processes
from lg3d_core.progress import Progress
from lg3d_core.scans.formats.raw_folder import Findings, Problem, RawFolder, RawScene
from lg3d_core.scans.formats.scannet import open_scannet
from lg3d_core.vocabulary import Vocabulary


@dataclass(frozen=True)
class AuditReport:
    """Result of an audit.

    Attributes:
        raw: Folder that was audited.
        num_scenes: Number of audited scans.
        num_vertices: Number of vertices of the readable meshes.
        problems: Problems, sorted by scene.
        unmapped: Raw labels missing from the label table, with their number of objects, most frequent first.
    """

    raw: Path
    num_scenes: int
    num_vertices: int
    problems: list[Problem] = field(default_factory=list)
    unmapped: dict[str, int] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether every scene can be prepared."""
        return not any(problem.fatal for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON-serializable object."""
        return {
            "raw": str(self.raw),
            "scenes": self.num_scenes,
            "vertices": self.num_vertices,
            "problems": [problem._asdict() for problem in self.problems],
            "unmapped": self.unmapped,
        }


def audit_folder(folder: RawFolder, *, jobs: int, progress: Progress) -> AuditReport:
    """Check a raw folder for everything that `prepare` would reject or warn about.

    Args:
        folder: The folder.
        jobs: Number of processes; 0 uses one per core.
        progress: Receives one step per scene.
    """
    problems = list(folder.problems)
    num_vertices = 0
    unmapped: dict[str, int] = {}
    with progress.task("check", total=len(folder.scenes), unit="scene") as task:
        for scene, found in run_in_processes(_audit_scene, folder.scenes, num_processes=jobs):
            problems += found.problems
            num_vertices += found.num_vertices
            for label, objects in found.unmapped.items():
                unmapped[label] = unmapped.get(label, 0) + objects
            task.advance(status=scene.scene_id)
    return AuditReport(
        raw=folder.path,
        num_scenes=len(folder.scenes),
        num_vertices=num_vertices,
        problems=sorted(problems),
        unmapped=dict(sorted(unmapped.items(), key=lambda item: (-item[1], item[0]))),
    )


def audit_scans(raw: Path, vocabulary: Vocabulary, *, jobs: int, progress: Progress) -> AuditReport:
    """Check a folder in ScanNet's layout; see `audit_folder`.

    The checks cover missing and damaged files, lengths that differ from the mesh's, raw labels missing from the table,
    repeated ids, non-finite coordinates, and groups without segments or with unknown segments. Unlike `prepare`, the
    audit continues within a scene after the first problem.

    Raises:
        DataError: The folder does not exist or contains no scans.
    """
    return audit_folder(open_scannet(raw, (vocabulary,)), jobs=jobs, progress=progress)


def _audit_scene(scene: RawScene) -> Findings:
    return scene.audit()
