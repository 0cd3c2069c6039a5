"""Cost of `lg3d prepare`: CPU seconds a scene and the largest worker, printed as JSON.

    python benchmarks/prepare.py RAW [--jobs 2] [--repeat 3]

CPU time is that of this process and its workers, start-up included; `cpu_per_100k` scales it to a scene of 100,000
vertices. Stages are timed in one process, scene by scene; the median over scenes is shown.
"""

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from lg3d_core.progress import Progress
from lg3d_core.scans import find_scans, read_ply, read_scan
from lg3d_core.settings import PrepareSettings
from lg3d_core.store import SceneStore, ensure_budget, prepare_store
from lg3d_core.vocabulary import load_vocabulary, read_label_table
from lg3d_core.vocabulary.labels import LABEL_TABLE_NAME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for k in range(arguments.repeat):
            target = Path(folder) / str(k)
            settings = PrepareSettings(raw=arguments.raw, store=target, jobs=arguments.jobs)
            before, wall = cpu_seconds(), time.perf_counter()
            report = prepare_store(settings, Progress())
            runs.append((cpu_seconds() - before, time.perf_counter() - wall))
        before, wall = cpu_seconds(), time.perf_counter()
        prepare_store(settings, Progress())
        resumed = (cpu_seconds() - before, time.perf_counter() - wall)
        store = SceneStore(target)
        sizes = [store.entry(scene_id).num_points for scene_id in store.scene_ids()]
        stages = {
            "read_ply": [timed(lambda f=files: read_ply(f.mesh)) for files in find_scans(arguments.raw)],
            "read_scan": read_scans(arguments.raw),
            "read_scene": [timed(lambda s=scene_id: store.read(s)) for scene_id in store.scene_ids()],
            "budget_0.05": [timed(lambda: ensure_budget(store, 0.05, progress=Progress())) / len(sizes)],
            "budget_0.5": [timed(lambda: ensure_budget(store, 0.5, progress=Progress())) / len(sizes)],
        }
        stored = sum(path.stat().st_size for path in target.glob("scenes/*.h5"))
    num_scenes = len(report.prepared)
    cpu = [seconds / num_scenes for seconds, _ in runs]
    print(
        json.dumps(
            {
                "scenes": num_scenes,
                "vertices_per_scene": round(sum(sizes) / num_scenes),
                "jobs": arguments.jobs,
                "cpu_per_scene": spread(cpu),
                "cpu_per_100k": spread([value * num_scenes * 1e5 / sum(sizes) for value in cpu]),
                "wall_per_scene": spread([seconds / num_scenes for _, seconds in runs]),
                "resume_per_scene": {
                    "cpu": round(resumed[0] / num_scenes, 4),
                    "wall": round(resumed[1] / num_scenes, 4),
                },
                "stage_cpu_median": {name: round(statistics.median(values), 4) for name, values in stages.items()},
                "peak_worker_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
                "peak_parent_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "stored_mb_per_scene": round(stored / num_scenes / 1e6, 2),
                "versions": {"python": platform.python_version(), "numpy": np.__version__, "h5py": h5py.__version__},
            },
            indent=1,
        )
    )


def read_scans(raw: Path) -> list[float]:
    table = read_label_table(raw / LABEL_TABLE_NAME, load_vocabulary())
    return [timed(lambda f=files: read_scan(f, table)) for files in find_scans(raw)]


def timed(call: object) -> float:
    """CPU seconds of one call."""
    assert callable(call)
    start = time.process_time()
    call()
    return time.process_time() - start


def cpu_seconds() -> float:
    """Of this process and the workers that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 4), "min": round(min(values), 4), "max": round(max(values), 4)}


if __name__ == "__main__":
    main()
