"""`lg3d prepare`."""

from pathlib import Path
from typing import Annotated

import typer

from lg3d_cli import console
from lg3d_cli.options import JobsOption, JsonOption, QuietOption, StoreOption, VocabularyOption, resolve
from lg3d_core.errors import UsageError
from lg3d_core.settings import PrepareSettings, StoreCheckSettings


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
    merge: Annotated[bool, typer.Option("--merge", help="Check what all shards made, and index it.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Audit the raw folder; write nothing.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Name the store's damaged scenes; write nothing.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn raw scans into the scene store. Run it again to go on after an interruption.

    Example: lg3d prepare /data/scannet --store data --jobs 8
    """
    chosen = [name for name, is_chosen in (("--merge", merge), ("--check", check), ("--verify", verify)) if is_chosen]
    if len(chosen) > 1 or (shard is not None and chosen):
        raise UsageError(f"{' and '.join(chosen + ['--shard'] * (shard is not None))} are different things to do")
    if merge or verify:
        run = _merge if merge else _verify
        run(resolve(StoreCheckSettings, store=store, jobs=jobs), as_json=as_json, quiet=quiet)
        return
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


def _merge(settings: StoreCheckSettings, *, as_json: bool, quiet: bool) -> None:
    from lg3d_core.store import merge_shards

    progress = console.progress(quiet=quiet)
    report = merge_shards(settings, progress)
    progress.note(f"{len(report.scenes)} scenes of {report.shards} shards, {len(report.failed)} bad")
    for scene, reason in report.failed.items():
        console.error(f"{scene}: {reason}")
    if as_json:
        console.result_json(report._asdict() | {"store": str(report.store)})
    else:
        console.result(report.store)
    if report.failed:
        raise typer.Exit(1)


def _verify(settings: StoreCheckSettings, *, as_json: bool, quiet: bool) -> None:
    from lg3d_core.store import verify_store

    progress = console.progress(quiet=quiet)
    report = verify_store(settings, progress)
    progress.note(f"{len(report.whole)} scenes whole, {len(report.damaged)} damaged or missing")
    if report.unsealed:
        progress.note(
            f"{len(report.unsealed)} of them were written before files had a checksum of the whole: "
            "lg3d prepare RAW adds it"
        )
    if report.strange:
        progress.warn(f"{len(report.strange)} files belong to no scene of the store, such as {report.strange[0]}")
    if as_json:
        console.result_json(report._asdict() | {"store": str(report.store)})
    else:
        rows = [[scene, reason] for scene, reason in report.damaged.items()]
        console.result_table("Damaged scenes", ["scene", "reason"], rows)
    if report.damaged:
        console.error(f"lg3d prepare RAW --store {report.store} prepares these {len(report.damaged)} again")
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
