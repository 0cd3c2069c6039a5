"""`lg3d export-store`."""

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import ExportStoreSettings


@settings_command(ExportStoreSettings)
def export_store(settings: ExportStoreSettings) -> None:
    """Write a scene store as Pointcept's folders of numpy arrays. Rerun the command to resume after an interruption.

    Example: lg3d export-store exported --store data
    """
    from lg3d_core.store.export_store import export_store as run

    progress = console.progress(quiet=settings.quiet)
    report = run(settings, progress)
    written = console.counted(len(report.written), "scene", "scenes")
    progress.note(f"{written} written, {len(report.skipped)} already done")
    console.outcome({"out": report.out}, as_json=settings.json, details=report._asdict())
