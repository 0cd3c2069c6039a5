"""`lg3d bench`."""

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import BenchSettings


@settings_command(BenchSettings)
def bench(settings: BenchSettings) -> None:
    """Compare the sparse engine's speed with other engines.

    The results are checked for agreement. Ratios: best times, then medians, each divided by the other engine's.

    Example: lg3d bench --networks 34C --what train --scene scan.ply --repeats 5 --peers minkowski
    """
    from lg3d_core.sparse_benchmark.bench import bench as run_benchmarks
    from lg3d_core.sparse_benchmark.report import bench_table

    report = run_benchmarks(settings, console.progress(quiet=settings.quiet))
    if settings.json:
        console.result_json(report.to_dict())
        return
    header, rows = bench_table(report)
    if not console.has_room_for(header):
        header, rows = bench_table(report, wide=False)
    console.result_table(f"Sparse engine on {report.machine['device']}", header, rows)
