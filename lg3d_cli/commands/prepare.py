"""`lg3d prepare`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import PrepareSettings


@settings_command(PrepareSettings)
def prepare(settings: PrepareSettings) -> None:
    """Convert raw scenes to the scene store. Rerun the command to resume after an interruption.

    Example: lg3d prepare /data/scannet --store data --jobs 8
    """
    if settings.merge:
        _merge(settings)
    elif settings.verify:
        _verify(settings)
    elif settings.check:
        _check(settings)
    else:
        _prepare(settings)


def _prepare(settings: PrepareSettings) -> None:
    from lg3d_core.store.prepare import prepare as prepare_store

    progress = console.progress(quiet=settings.quiet)
    report = prepare_store(settings, progress)
    prepared = console.counted(len(report.prepared), "scene", "scenes")
    progress.note(f"{prepared} prepared, {len(report.skipped)} already done, {len(report.failed)} failed")
    _finish(report._asdict(), report.store, report.failed, as_json=settings.json)


def _merge(settings: PrepareSettings) -> None:
    from lg3d_core.store import merge_shards

    progress = console.progress(quiet=settings.quiet)
    report = merge_shards(settings, progress)
    scenes = console.counted(len(report.scenes), "scene", "scenes")
    shards = console.counted(report.shards, "shard", "shards")
    progress.note(f"{scenes} of {shards}, {len(report.failed)} failed")
    _finish(report._asdict(), report.store, report.failed, as_json=settings.json)


def _finish(report: Mapping[str, Any], store: Path, failed: Mapping[str, str], *, as_json: bool) -> None:
    for scene, reason in failed.items():
        console.error(f"{scene}: {reason}")
    console.outcome({"store": store}, as_json=as_json, details=report)
    if failed:
        raise typer.Exit(1)


def _verify(settings: PrepareSettings) -> None:
    from lg3d_core.store import verify_store

    progress = console.progress(quiet=settings.quiet)
    report = verify_store(settings, progress)
    whole = console.counted(len(report.whole), "scene", "scenes")
    progress.note(f"{whole} intact, {len(report.damaged)} damaged or missing")
    if report.unsealed:
        progress.note(
            f"{len(report.unsealed)} of them have no checksum of the whole file, as older versions wrote none: "
            "lg3d prepare RAW adds it"
        )
    if report.strange:
        progress.warn(f"{len(report.strange)} files do not belong to any scene of the store, e.g. {report.strange[0]}")
    if settings.json:
        console.result_json(report._asdict() | {"store": str(report.store)})
    else:
        rows = [[scene, reason] for scene, reason in report.damaged.items()]
        console.result_table("Damaged scenes", ["scene", "reason"], rows)
    if report.damaged:
        console.error(f"lg3d prepare RAW --store {report.store} prepares these {len(report.damaged)} again")
        raise typer.Exit(1)


def _check(settings: PrepareSettings) -> None:
    from lg3d_core.scans.audit import audit_folder
    from lg3d_core.scans.formats.open_folder import UNMAPPED, open_folder

    progress = console.progress(quiet=settings.quiet)
    folder = open_folder(settings)
    if folder.note:
        progress.note(folder.note)
    for warning in folder.warnings:
        progress.warn(warning)
    report = audit_folder(folder, jobs=settings.jobs, progress=progress)
    if settings.json:
        console.result_json(report.to_json())
    else:
        rows = [[one.scene, one.file, one.reason.removeprefix(f"{one.file}: ")] for one in report.problems]
        console.result_table("Problems", ["scene", "file", "reason"], rows)
        unit, table = UNMAPPED.get(folder.format, UNMAPPED[""])
        console.result_table(
            f"Raw labels outside {table}",
            ["raw label", unit],
            [[label, str(count)] for label, count in report.unmapped.items()],
        )
    if report.problems:
        raise typer.Exit(1)
