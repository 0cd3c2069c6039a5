"""`lg3d bench`."""

from pathlib import Path
from typing import Annotated

import typer

from lg3d_cli import console
from lg3d_cli.options import DeviceOption, JsonOption, PrecisionOption, QuietOption, SeedOption, StoreOption, resolve
from lg3d_core.settings import BenchSettings


def bench(
    what: Annotated[
        str | None,
        typer.Option(help="Of maps, layers, layers-train, forward, train.  [default: all but layers-train]"),
    ] = None,
    networks: Annotated[str | None, typer.Option(help="34D, 34C, 18C, 18A, 14A.  [default: 14A,34C]")] = None,
    scene: Annotated[
        list[str] | None, typer.Option(help="A .ply file or a scene of the store.  [default: procedural rooms]")
    ] = None,
    store: StoreOption = None,
    voxel_size: Annotated[str | None, typer.Option(help="Edges in metres.  [default: 0.05]")] = None,
    batch: Annotated[str | None, typer.Option(help="Scenes per batch.  [default: 1]")] = None,
    backends: Annotated[str | None, typer.Option(help="Backends of lg3d.  [default: all that run here]")] = None,
    peers: Annotated[
        str | None,
        typer.Option(help="none, or of minkowski, spconv, spconv-triton.  [default: all]"),
    ] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    repeats: Annotated[int | None, typer.Option(help="Timed passes of each engine.  [default: 3]")] = None,
    threads: Annotated[int | None, typer.Option(help="Of the CPU.  [default: PyTorch's choice]")] = None,
    patience: Annotated[float | None, typer.Option(help="Seconds to wait for a quiet machine, per pass.")] = None,
    seed: SeedOption = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Time the sparse engine beside its peers, in turns, equal results first.

    Several values are separated by commas; --scene may be given again. Ratios are best / median, below 1 is faster.

    Example: lg3d bench --networks 34C --what train --scene scan.ply --repeats 5 --peers minkowski
    """
    settings = resolve(
        BenchSettings,
        what=_split(what),
        networks=_split(networks),
        scene=tuple(scene) if scene else None,
        store=store,
        voxel_size=_split(voxel_size),
        batch=_split(batch),
        backends=_split(backends),
        peers=_split(peers),
        device=device,
        precision=precision,
        repeats=repeats,
        threads=threads,
        patience=patience,
        seed=seed,
        out=out,
    )
    from lg3d_core.sparse_benchmark.report import bench_table
    from lg3d_core.sparse_benchmark.run import run_benchmarks

    report = run_benchmarks(settings, console.progress(quiet=quiet))
    if as_json:
        console.result_json(report.to_dict())
        return
    header, rows = bench_table(report)
    if not console.has_room_for(header):
        header, rows = bench_table(report, wide=False)
    console.result_table(f"Sparse engine on {report.machine['device']}", header, rows)


def _split(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())
