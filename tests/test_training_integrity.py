"""What a run learns from is what it says: leaks, missing labels, other data, damage and divergence are refused."""

import dataclasses
import json
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lg3d_core.comparing.plan import plan_table
from lg3d_core.errors import CheckpointError, DataError, Lg3dError, SettingsError
from lg3d_core.language.anchors_file import load_anchors, save_anchors
from lg3d_core.networks.checkpoint import load_network, newest_checkpoint, read_info
from lg3d_core.progress import Progress
from lg3d_core.settings import CompareSettings, FinetuneSettings, PretrainSettings
from lg3d_core.store.scene_file import read_scene_header, write_scene_file
from lg3d_core.store.scene_store import SceneStore, write_index
from lg3d_core.training import batches
from lg3d_core.training.finetune import finetune
from lg3d_core.training.pretrain import pretrain
from lg3d_core.training.run import Run
from lg3d_core.training.scenes import join_labels
from tests.notes import Notes

SMALL: dict[str, Any] = {
    "network": "14A",
    "voxel_size": 0.2,
    "batch_size": 2,
    "jobs": 0,
    "device": "cpu",
    "learning_rate": 0.1,
    "augment": False,
    "validate_every": 0,
    "epochs": 1,
}
EXAMPLES = Path(__file__).parents[1] / "examples" / "tables"


def scratch(store: Path, runs: Path, **changes: Any) -> FinetuneSettings:
    return FinetuneSettings(**({"store": store, "runs": runs, "start": "scratch", "name": "r", **SMALL} | changes))


@pytest.fixture(scope="module")
def pretrained(store_path: Path, anchors_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pre-training runs: with all labels, with 5 %, and without labels."""
    runs = tmp_path_factory.mktemp("runs")
    common = {"store": store_path, "anchors": anchors_path, "runs": runs, **SMALL}
    pretrain(PretrainSettings(name="all", **common), Progress())
    pretrain(PretrainSettings(name="limited", limited=0.05, **common), Progress())
    pretrain(PretrainSettings(name="csc", method="csc", contrast_points=64, **common), Progress())
    return runs


@pytest.fixture
def finished(store_path: Path, tmp_path: Path) -> Path:
    """A finished run of one epoch on a store of its own."""
    shutil.copytree(store_path, tmp_path / "data")
    return finetune(scratch(tmp_path / "data", tmp_path / "runs"), Progress()).parent


# Leaks


@pytest.mark.parametrize(
    ("start", "changes", "leaks"),
    [
        ("all", {"limited": 0.05}, "all labels"),
        ("limited", {"limited": 0.05}, ""),
        ("limited", {"limited": 0.1}, "another label budget"),
        ("limited", {"limited": 0.05, "limited_seed": 1}, "another label budget"),
        ("csc", {"limited": 0.05}, ""),
        ("all", {}, ""),
        ("limited", {}, ""),
    ],
)
def test_a_budget_after_training_with_other_labels_is_refused(
    pretrained: Path, store_path: Path, tmp_path: Path, start: str, changes: dict[str, Any], leaks: str
) -> None:
    settings = scratch(store_path, tmp_path, start=str(pretrained / start), **changes)
    if leaks:
        with pytest.raises(SettingsError, match=f"was trained with {leaks}.*--limited-seed.*--allow-leak"):
            finetune(settings, Progress())
        assert not (tmp_path / "r").exists()
        settings = dataclasses.replace(settings, allow_leak=True)
    checkpoint = finetune(settings, Progress())
    if leaks:  # a leak is passed on to the runs that start from this one
        with pytest.raises(SettingsError, match="was trained with"):
            finetune(dataclasses.replace(settings, start=str(checkpoint), name="s", allow_leak=False), Progress())


def test_older_checkpoints_get_their_labels_from_their_settings(
    pretrained: Path, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_older(path: Path, **options: Any) -> Any:
        return dataclasses.replace(read_info(path, **options), labels_seen=None)

    monkeypatch.setattr("lg3d_core.training.finetune.read_info", read_older)
    with pytest.raises(SettingsError, match="all labels"):
        finetune(scratch(store_path, tmp_path, start=str(pretrained / "all"), limited=0.05), Progress())
    with pytest.raises(SettingsError, match="another label budget"):
        finetune(scratch(store_path, tmp_path, start=str(pretrained / "limited"), limited=0.1), Progress())
    finetune(scratch(store_path, tmp_path, start=str(pretrained / "limited"), limited=0.05), Progress())
    monkeypatch.setattr(
        "lg3d_core.training.finetune.read_info", lambda path, **_: dataclasses.replace(read_older(path), settings="{}")
    )
    notes = Notes()
    finetune(scratch(store_path, tmp_path, start=str(pretrained / "all"), limited=0.05, name="x"), notes)
    assert any("does not record which labels" in line for line in notes.warnings)


def test_labels_seen_add_up() -> None:
    assert join_labels("", "") == ""
    assert join_labels("", "abc") == "abc"
    assert join_labels("abc", "abc") == "abc"
    assert join_labels("all", "abc") == "abc,all"
    assert join_labels(None, "abc") is None
    assert join_labels(None, "all") == "all"


def test_compare_refuses_recipes_that_leak_and_plans_all_that_are_shipped(store_path: Path, tmp_path: Path) -> None:
    for recipe in EXAMPLES.glob("*.toml"):
        settings = CompareSettings(recipes=(str(recipe),), store=store_path, out=tmp_path, seeds=1)
        assert len(plan_table(settings, store_digest="d").rows) == 1
    leaking = dataclasses.replace(
        settings, recipes=(str(EXAMPLES / "table1-7-ours.toml"),), changes=("finetune.limited=0.1",)
    )
    with pytest.raises(SettingsError, match=r"table1-7-ours\.toml: pre-training has all labels.*--allow-leak"):
        plan_table(leaking, store_digest="d")
    allowed = plan_table(dataclasses.replace(leaking, allow_leak=True), store_digest="d")
    assert FinetuneSettings.from_json(allowed.steps[-1].settings).allow_leak
    both = dataclasses.replace(leaking, changes=("limited=0.1",))
    assert plan_table(both, store_digest="d").rows[0].share == 0.1


# Labels


def relabel(store: Path, value: int, *, instance: int | None = None, stray: bool = False) -> None:
    """Give every point of a store one label; with `stray`, no point of an object, and all others."""
    opened = SceneStore(store)
    headers = []
    for scene_id in opened.scene_ids():
        scene, header = opened.read(scene_id), read_scene_header(opened.scene_path(scene_id))
        label = np.full_like(scene.label, value)
        header = header._replace(class_counts={value: len(label)} if value >= 0 else {})
        changed = scene._replace(label=label)
        if stray:
            own = np.arange(len(label)) < 50
            changed = changed._replace(label=np.where(own, -1, label), instance=own.astype(np.int32))
        if instance is not None:
            changed = changed._replace(instance=np.full_like(scene.instance, instance))
        write_scene_file(opened.scene_path(scene_id), changed, header)
        headers.append(header)
    write_index(store, [opened.vocabulary], headers, {})


def test_training_scenes_without_a_label_are_refused(store_path: Path, anchors_path: Path, tmp_path: Path) -> None:
    shutil.copytree(store_path, tmp_path / "data")
    relabel(tmp_path / "data", -1)
    with pytest.raises(DataError, match=r"no point of the 3 training scenes .* vocabulary scannet200.*--check"):
        finetune(scratch(tmp_path / "data", tmp_path / "runs"), Progress())
    common = {"store": tmp_path / "data", "anchors": anchors_path, "runs": tmp_path / "runs", **SMALL}
    for method in ("language", "supcon"):
        with pytest.raises(DataError, match="has a label"):
            pretrain(PretrainSettings(method=method, **common), Progress())
    assert not (tmp_path / "runs").exists()
    pretrain(PretrainSettings(method="csc", contrast_points=64, **common), Progress())  # learns without labels
    relabel(tmp_path / "data", 3, stray=True)
    with pytest.raises(DataError, match="none in an annotated object"):
        finetune(scratch(tmp_path / "data", tmp_path / "runs", limited=0.5), Progress())
    relabel(tmp_path / "data", 3, instance=0)
    settings = scratch(tmp_path / "data", tmp_path / "runs", limited=0.5, limited_seed=1)
    finetune(settings, Progress())  # without any object, each class is one


# Resuming


def test_an_equal_store_elsewhere_is_accepted_and_remembered(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"the store .*data of this run is missing: pass --store"):
        finetune(FinetuneSettings(resume=finished), Progress())
    finetune(FinetuneSettings(resume=finished, store=tmp_path / "moved"), Progress())
    finetune(FinetuneSettings(resume=finished), Progress())
    assert json.loads((finished / "settings.json").read_text())["store"] == str(tmp_path / "moved")


def change_source(headers: list[Any]) -> list[Any]:
    return [header._replace(source_digest="other") for header in headers]


def swap_splits(headers: list[Any]) -> list[Any]:
    return [header._replace(split={"train": "val", "val": "train", "test": "test"}[header.split]) for header in headers]


@pytest.mark.parametrize(("change", "names"), [(change_source, "store"), (swap_splits, "store .*split")])
def test_another_store_is_refused_by_name(finished: Path, tmp_path: Path, change: Any, names: str) -> None:
    store = SceneStore(tmp_path / "data")
    headers = change([read_scene_header(store.scene_path(scene_id)) for scene_id in store.scene_ids()])
    for header in headers:
        scene = store.read(header.scene)._replace(split=header.split)
        write_scene_file(store.scene_path(header.scene), scene, header)
    write_index(store.path, [store.vocabulary], headers, {})
    before = (finished / "resume.pt").read_bytes()
    with pytest.raises(DataError, match=f"trained with other data .*{names}.*pass --store"):
        finetune(FinetuneSettings(resume=finished), Progress())
    assert (finished / "resume.pt").read_bytes() == before


def test_other_anchors_are_refused_by_name(store_path: Path, anchors_path: Path, tmp_path: Path) -> None:
    anchors = load_anchors(anchors_path)
    shutil.copy(anchors_path, tmp_path / "a.safetensors")
    settings = PretrainSettings(store=store_path, anchors=tmp_path / "a.safetensors", runs=tmp_path, name="p", **SMALL)
    run = pretrain(settings, Progress()).parent
    save_anchors(tmp_path / "a.safetensors", dataclasses.replace(anchors, vectors=anchors.vectors[::-1].copy()))
    with pytest.raises(DataError, match=r"other data \(text anchors .*pass --anchors"):
        pretrain(PretrainSettings(resume=run), Progress())
    pretrain(PretrainSettings(resume=run, anchors=anchors_path), Progress())


def test_a_scene_that_does_not_fit_the_index_is_refused(finished: Path, tmp_path: Path) -> None:
    del finished
    store = SceneStore(tmp_path / "data")
    scene_id = store.scene_ids("train")[0]
    header = read_scene_header(store.scene_path(scene_id))
    write_scene_file(store.scene_path(scene_id), store.read(scene_id), header._replace(source_digest="other"))
    with pytest.raises(DataError, match=r"does not fit store\.json: run lg3d prepare again"):
        store.read(scene_id)


def test_a_missing_state_is_refused_once_a_step_was_taken(finished: Path) -> None:
    (finished / "resume.pt").unlink()
    with pytest.raises(CheckpointError, match=r"resume\.pt is missing"):
        finetune(FinetuneSettings(resume=finished), Progress())
    (finished / "checkpoint.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"resume\.pt is missing"):
        finetune(FinetuneSettings(resume=finished), Progress())
    (finished / "metrics.jsonl").unlink()  # killed before its first step
    finetune(FinetuneSettings(resume=finished), Progress())
    assert (finished / "checkpoint.safetensors").is_file()


@pytest.mark.parametrize(
    "changes",
    [{"step": -1}, {"epoch": -1}, {"epoch": 2}, {"step": 10**9}, {"step": 1}, {"best": math.nan}, {"epoch": 10**20}],
    ids=str,
)
def test_a_position_that_no_run_has_is_refused(finished: Path, changes: dict[str, Any]) -> None:
    run = Run.open(finished)
    state = run.load_resume()
    assert state is not None
    run.save_resume(state | changes)
    with pytest.raises(CheckpointError, match=r"resume\.pt (is damaged|does not fit)"):
        finetune(FinetuneSettings(resume=finished), Progress())


@pytest.mark.parametrize("name", ["resume.pt", "checkpoint.safetensors"])
def test_a_flipped_bit_in_a_run_is_refused(finished: Path, name: str) -> None:
    data = (finished / name).read_bytes()
    for place in np.linspace(0, len(data) - 1, 9).astype(int).tolist():
        (finished / name).write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(CheckpointError):
            (Run.load_resume if name == "resume.pt" else read_checkpoint)(Run.open(finished))


def read_checkpoint(run: Run) -> None:
    load_network(run.checkpoint)


def test_a_state_of_before_there_were_seals_is_resumed(finished: Path) -> None:
    run = Run.open(finished)
    state = run.load_resume()
    assert state is not None
    del state["digests"]
    torch.save(state, run.resume_file)
    finetune(FinetuneSettings(resume=finished), Progress())


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x80", b"[1]", b"{", b"{}x", b"null", b'{"epochs": "many"}', b""])
def test_damaged_settings_are_named(finished: Path, content: bytes) -> None:
    (finished / "settings.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"runs/r/settings\.json"):
        finetune(FinetuneSettings(resume=finished), Progress())


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x80", b"[1]", b"{", b""])
def test_a_damaged_card_is_named(finished: Path, content: bytes) -> None:
    (finished / "card.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"runs/r/card\.json is damaged"):
        newest_checkpoint(finished.parent, "finetune")
    (finished / "card.json").unlink()
    assert newest_checkpoint(finished.parent, "finetune") is None


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[1]", b"7", b"{", b"{}", b'{"step": "x"}'])
def test_a_damaged_log_is_named(finished: Path, line: bytes) -> None:
    lines = (finished / "metrics.jsonl").read_bytes().splitlines()
    (finished / "metrics.jsonl").write_bytes(b"\n".join([line, *lines]) + b"\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 1 is damaged"):
        finetune(FinetuneSettings(resume=finished), Progress())
    (finished / "metrics.jsonl").write_bytes(b"\n".join([*lines, line]))  # cut short by a kill
    finetune(FinetuneSettings(resume=finished), Progress())


# Divergence


def test_the_last_finite_state_survives_a_divergence_and_resumes_with_a_lower_rate(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = scratch(store_path, tmp_path, epochs=3)
    from lg3d_core.training.step import Stepper

    take_step, taken = Stepper.take, []

    def poison(self: Any, *arguments: Any) -> Any:
        step = take_step(self, *arguments)
        taken.append(step)
        if len(taken) == 4:  # the last step of the second epoch: a buffer, where the loss does not show it
            next(buffer for name, buffer in self.learner.network.named_buffers() if "running_var" in name)[0] = math.inf
        return step

    monkeypatch.setattr(Stepper, "take", poison)
    with pytest.raises(
        SettingsError, match=r"running_var is not finite in epoch 2.*--resume .*r --learning-rate 0\.01"
    ):
        finetune(settings, Progress())
    monkeypatch.undo()
    state = Run.open(tmp_path / "r").load_resume()
    assert state is not None
    assert (state["epoch"], state["step"]) == (1, 0)
    assert read_info(tmp_path / "r/checkpoint.safetensors").epoch == 1
    weights = load_file(tmp_path / "r/checkpoint.safetensors").values()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights)
    notes = Notes()
    finetune(FinetuneSettings(resume=tmp_path / "r", learning_rate=0.05, overrides=("learning_rate",)), notes)
    assert "resuming with --learning-rate 0.05" in notes.notes
    rates = [json.loads(line).get("lr") for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    assert max(rate for rate in rates[2:] if rate) <= 0.05


def test_a_pass_of_one_voxel_is_named(store_path: Path, tmp_path: Path) -> None:
    notes = Notes()
    finetune(scratch(store_path, tmp_path, voxel_size=50.0, batch_size=1), notes)
    assert any("too few for batch normalisation" in line for line in notes.warnings)


# Workers


@pytest.mark.parametrize("jobs", [0, 1, 2])
def test_a_damaged_scene_is_the_same_line_with_and_without_workers(store_path: Path, tmp_path: Path, jobs: int) -> None:
    shutil.copytree(store_path, tmp_path / "data")
    path = next(iter(sorted((tmp_path / "data/scenes").glob("*.h5"))))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError) as caught:
        finetune(scratch(tmp_path / "data", tmp_path / "runs", jobs=jobs, batch_size=3), Progress())
    assert str(caught.value).startswith(f"{path}: damaged (checksum mismatch)")
    assert "Traceback" not in str(caught.value)


def test_full_shared_memory_is_an_error_that_names_the_ways_out(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)  # workers are forks of this process
    with pytest.raises(DataError, match=r"/dev/shm.*No space left.*--jobs 0.*--shm-size"):
        finetune(scratch(store_path, tmp_path, jobs=1), Progress())


def test_locks_without_room_are_the_same_error(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(batches.DataLoader, "__iter__", refuse)
    with pytest.raises(DataError, match=r"/dev/shm.*--jobs 0"):
        finetune(scratch(store_path, tmp_path, jobs=1), Progress())


# Anchors and folders


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: np.concatenate([v[:1], v[:1], v[2:]]), "the same direction"),
        (lambda v: np.concatenate([v[:1], 3 * v[:1], v[2:]]), "the same direction"),
        (lambda v: np.concatenate([v[:1], v[:1] * (1 + 1e-7), v[2:]]), "the same direction"),
        (lambda v: v * np.where(np.arange(len(v)) == 5, 1e-20, 1)[:, None], "has length 1e-20"),
        (lambda v: v * np.where(np.arange(len(v)) == 5, 1e25, 1)[:, None], r"has length 1e\+25"),
        (lambda v: v * 1e-6, "has length 1e-06"),
        (lambda v: v * np.where(np.arange(len(v)) == 5, np.inf, 1)[:, None], "not finite"),
    ],
)
def test_equal_anchors_are_rejected(
    store_path: Path, anchors_path: Path, tmp_path: Path, change: Any, reason: str
) -> None:
    import safetensors.numpy

    anchors = load_anchors(anchors_path)
    vectors = change(anchors.vectors.astype(np.float64)).astype(np.float32)
    metadata = {**anchors.metadata, "format": "lg3d anchors 1", "names": json.dumps(list(anchors.names))}
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.numpy.save({"anchors": vectors}, metadata=metadata))
    with pytest.raises(DataError, match=reason):
        pretrain(PretrainSettings(store=store_path, anchors=path, runs=tmp_path / "runs", **SMALL), Progress())
    assert not (tmp_path / "runs").exists()


def test_runs_without_a_name_that_start_at_once_all_get_a_folder(tmp_path: Path) -> None:
    settings = FinetuneSettings(runs=tmp_path)
    made: list[Path] = []
    failed: list[Lg3dError] = []

    def create() -> None:
        try:
            made.append(Run.create(settings).folder)
        except Lg3dError as error:
            failed.append(error)

    threads = [threading.Thread(target=create) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(set(made)) == 40
    assert len(list(tmp_path.iterdir())) == 40


def test_a_read_only_store_has_its_budgets_and_banks_in_the_runs_folder(
    furnished_store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(furnished_store_path, tmp_path / "data", ignore=shutil.ignore_patterns("budgets", "instances"))
    for module in ("lg3d_core.store.budgets", "lg3d_core.sampling.instance_bank"):
        monkeypatch.setattr(f"{module}.is_writable", lambda folder: tmp_path / "data" not in folder.parents)
    settings = scratch(tmp_path / "data", tmp_path / "runs", limited=0.5, instances=1, augment=True)
    notes = Notes()
    finetune(settings, notes)
    assert sum("is read-only" in line for line in notes.notes) == 2
    assert not (tmp_path / "data/budgets").exists()
    assert not (tmp_path / "data/instances").exists()
    assert [len(list((tmp_path / "runs" / name).glob("*.h5"))) for name in ("budgets", "instances")] == [1, 1]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.h5")}
    finetune(dataclasses.replace(settings, name="again"), Progress())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.h5")} == before
