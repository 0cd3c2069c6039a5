"""`lg3d compare`: plan the runs, execute the missing ones, and write the table."""

import json
from collections.abc import Sequence

from lg3d_core.comparing.plan import Step, plan_table
from lg3d_core.comparing.record import read_record
from lg3d_core.comparing.run import LOGS, run_steps
from lg3d_core.comparing.table import Comparison, compare_records, to_markdown
from lg3d_core.errors import DataError, SettingsError
from lg3d_core.files import lock_file, require_folder, sweep_temporaries, write_text
from lg3d_core.progress import Progress
from lg3d_core.settings import AnchorsSettings, CompareSettings
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.vocabulary import load_vocabulary

TABLE_JSON = "table.json"
TABLE_MARKDOWN = "table.md"


def compare(settings: CompareSettings, progress: Progress) -> Comparison:
    """Train and score every recipe with every seed, and compare the rows with the first one.

    Finished runs of earlier comparisons into the same folder are reused, even for other rows, and interrupted runs are
    resumed. Rows with the same pre-training share it. The table is also written as `table.json` and `table.md`.

    Raises:
        SettingsError: A recipe conflicts with the settings.
        DataError: There is no store, there are no scenes to score, or a run failed.
        Interrupted: Ctrl-C was pressed; the current runs have saved their state.
    """
    require_folder(settings.out, "--out")
    store = SceneStore(settings.store, settings.vocabulary)
    if not store.scene_ids(settings.split):
        raise DataError(f"no scenes to score in {settings.store}: choose another --split")
    plan = plan_table(settings, store_digest=store.digest, progress=progress)
    _require_vocabulary(plan.steps, store)
    settings.out.mkdir(parents=True, exist_ok=True)
    with lock_file(settings.out / ".lock", holder="another comparison"):
        for folder in (settings.out, settings.out / LOGS):
            sweep_temporaries(folder)
        run_steps(plan.steps, settings.out, jobs=settings.jobs, progress=progress)
        records = [[read_record(folder) for folder in row.runs] for row in plan.rows]
        comparison = compare_records(
            plan.rows,
            records,
            store.vocabulary,
            classes=settings.classes,
            resamples=settings.resamples,
            facts={"settings": json.loads(settings.to_json()), "store_digest": store.digest},
            progress=progress,
        )
        write_text(settings.out / TABLE_JSON, json.dumps(comparison.to_dict(), indent=1, allow_nan=False) + "\n")
        write_text(settings.out / TABLE_MARKDOWN, to_markdown(comparison))
    return comparison


def _require_vocabulary(steps: Sequence[Step], store: SceneStore) -> None:
    """Check before any run that the anchors of the recipes are those of the store's classes.

    Raises:
        SettingsError: The anchors of a recipe are of another vocabulary.
    """
    for step in steps:
        if step.kind == "anchors":
            name = AnchorsSettings.from_json(step.settings).vocabulary
            if load_vocabulary(name).digest != store.vocabulary.digest:
                raise SettingsError(
                    f"the anchors of the recipes belong to the vocabulary {name}, and {store.path} has labels of "
                    f"{store.vocabulary.name}: pass --vocabulary with the file of {store.vocabulary.name}",
                    fields=("vocabulary",),
                )
