"""Audit of a raw folder; nothing is written."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lg3d_core.processes import run_in_processes
from lg3d_core.progress import Progress
from lg3d_core.scans.formats.raw_folder import Findings, Problem, RawFolder, RawScene, join_unmapped


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

    In ScanNet's layout, the checks of a scene continue after its first problem.

    Args:
        folder: The folder.
        jobs: Number of processes; 0 uses one per core.
        progress: Receives one step per scene.
    """
    problems = list(folder.problems)
    num_vertices = 0
    unmapped: list[dict[str, int]] = []
    with progress.task("check", total=len(folder.scenes), unit="scene") as task:
        for scene, found in run_in_processes(_audit_scene, folder.scenes, num_processes=jobs):
            problems += found.problems
            num_vertices += found.num_vertices
            unmapped.append(found.unmapped)
            task.advance(status=scene.scene_id)
    return AuditReport(
        raw=folder.path,
        num_scenes=len(folder.scenes),
        num_vertices=num_vertices,
        problems=sorted(problems),
        unmapped=join_unmapped(unmapped),
    )


def _audit_scene(scene: RawScene) -> Findings:
    return scene.audit()
