"""`lg3d prepare`."""

from pathlib import Path
from typing import Annotated

import typer

from lg3d_cli import console
from lg3d_cli.options import JobsOption, JsonOption, QuietOption, StoreOption, VocabularyOption, resolve
from lg3d_core.settings import PrepareSettings


def prepare(
    raw: Annotated[
        Path | None,
        typer.Argument(help="ScanNet's folder: scans/, scans_test/, the label table.  [default: that of lg3d.toml]"),
    ] = None,
    store: StoreOption = None,
    vocabulary: VocabularyOption = None,
    jobs: JobsOption = None,
    shard: Annotated[str | None, typer.Option(help="Part i of n of the scenes, such as 1/4.")] = None,
    force: Annotated[bool | None, typer.Option("--force", help="Prepare scenes that are done, too.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Audit the raw folder; write nothing.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn raw scans into the scene store. Run it again to go on after an interruption.

    Example: lg3d prepare /data/scannet --store data --jobs 8
    """
    settings = resolve(
        PrepareSettings, raw=raw, store=store, vocabulary=vocabulary, jobs=jobs, shard=shard, force=force
    )
    progress = console.progress(quiet=quiet)
    if check:
        _check(settings, as_json=as_json, quiet=quiet)
        return
    from lg3d_core.store.prepare import prepare_store

    report = prepare_store(settings, progress)
    progress.note(
        f"{len(report.prepared)} scenes prepared, {len(report.skipped)} already done, {len(report.failed)} bad"
    )
    for scene, reason in report.failed.items():
        console.error(f"{scene}: {reason}")
    if as_json:
        console.result_json(report._asdict() | {"store": str(report.store)})
    else:
        console.result(report.store)
    if report.failed:
        raise typer.Exit(1)


def _check(settings: PrepareSettings, *, as_json: bool, quiet: bool) -> None:
    from lg3d_core.scans.audit import audit_scans
    from lg3d_core.vocabulary import load_vocabulary

    vocabulary = load_vocabulary(settings.vocabulary)
    report = audit_scans(settings.raw, vocabulary, jobs=settings.jobs, progress=console.progress(quiet=quiet))
    if as_json:
        console.result_json(report.to_json())
    else:
        rows = [[problem.scene, problem.file, problem.reason] for problem in report.problems]
        console.result_table("Problems", ["scene", "file", "reason"], rows)
        unmapped = sorted(report.unmapped.items(), key=lambda item: -item[1])
        console.result_table(
            "Raw labels outside the table", ["raw label", "objects"], [[label, str(count)] for label, count in unmapped]
        )
    if report.problems:
        raise typer.Exit(1)
