"""A working directory of one's own: what its settings file is made of, checked before it is written."""

import json
from pathlib import Path
from typing import NamedTuple

from lg3d_core.errors import DataError, SettingsError, UsageError
from lg3d_core.files import write_text
from lg3d_core.processes import num_cores
from lg3d_core.progress import Progress
from lg3d_core.scans.audit import AuditReport, audit_scans
from lg3d_core.scans.scannet import SCANS_FOLDERS, find_scans
from lg3d_core.settings import (
    CONFIG_NAME,
    AnchorsSettings,
    Device,
    FinetuneSettings,
    PretrainSettings,
    read_recipe,
    recipe_names,
    recipe_summary,
)
from lg3d_core.settings.fields import fields_of
from lg3d_core.vocabulary import load_vocabulary

LIKELY_FOLDERS = (".", "scannet", "ScanNet", "raw", "rooms", "demo/rooms", "../scannet", "/data/scannet")
"""Where raw scans are looked for before anybody is asked, relative to the working directory."""


class Project(NamedTuple):
    """What a settings file says.

    Attributes:
        raw: Folder of the raw scans.
        store: Folder of the scene store.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        recipe: Name of a shipped recipe, or path of a TOML file.
    """

    raw: Path
    store: Path
    device: Device
    recipe: str


def propose_raw(folder: Path) -> Path | None:
    """The first likely folder that holds scans, as a path from `folder`; None where there is none."""
    for name in LIKELY_FOLDERS:
        if any((folder / name / scans).is_dir() for scans in SCANS_FOLDERS):
            return Path(name)
    return None


def propose_recipe(device: Device) -> str:
    """The paper's recipe where CUDA computes, the smallest one elsewhere: a CPU has weeks to do on the paper's."""
    return "paper-34d" if _computes_on_cuda(device) else "demo"


def describe_device() -> str:
    """What `auto` stands for on this machine, in a few words."""
    if _computes_on_cuda("auto"):
        return "CUDA"
    return f"the CPU ({num_cores()} cores): this PyTorch sees no CUDA device"


def describe_recipes() -> list[tuple[str, str]]:
    """Every shipped recipe with its first line, which says what it is for."""
    return [(name, recipe_summary(name)) for name in recipe_names()]


def check_raw(text: str, *, audit: bool, jobs: int, progress: Progress) -> tuple[Path, AuditReport | None]:
    """Look through a folder of raw scans.

    Args:
        text: The folder; `~` is the user's home.
        audit: Read every scan, rather than only see whether there are any.
        jobs: Processes; 0 takes one per core.
        progress: Told of each scene.

    Returns:
        The folder, and what the audit found.

    Raises:
        DataError: No scans, or none that could be prepared.
    """
    raw = Path(text).expanduser()
    if not audit:
        find_scans(raw)
        return raw, None
    report = audit_scans(raw, load_vocabulary(), jobs=jobs, progress=progress)
    lost = count_lost(report)
    progress.note(
        f"{report.num_scenes} scans, {report.num_vertices:,} vertices" + (f", {lost} of them damaged" if lost else "")
    )
    return raw, report


def check_device(text: str) -> Device:
    """Take a device that this machine has.

    Raises:
        SettingsError: No such name, or no such device here.
    """
    field = fields_of(PretrainSettings)["device"]
    if not field.is_choice(text):
        raise UsageError(f"--device must be one of {', '.join(field.expected)}, got {text!r}")
    _computes_on_cuda(text)
    return text


def check_recipe(text: str) -> str:
    """Take a recipe whose every key and value is one that encoding and training know.

    Raises:
        SettingsError: No such recipe, or something in it makes no sense.
    """
    read_recipe(text)
    for command in (AnchorsSettings, PretrainSettings, FinetuneSettings):
        command.resolve(recipe=text)
    return text


def require_free(path: Path, *, force: bool) -> None:
    """Refuse to replace a settings file.

    Raises:
        SettingsError: It is there, and `force` is not given; or a folder has its name.
    """
    if path.is_dir():
        raise SettingsError(f"{path} is a folder: the settings file needs that name")
    if path.exists() and not force:
        raise SettingsError(f"{path} exists: edit it, or replace it with --force")


def count_lost(report: AuditReport) -> int:
    """Scans that `prepare` would leave out.

    Raises:
        DataError: Nothing would be left, since every scan or the folder as a whole is damaged.
    """
    for problem in report.problems:
        if problem.fatal and problem.scene == "":
            raise DataError(problem.reason)
    lost = {problem.scene: problem for problem in report.problems if problem.fatal}
    if len(lost) >= report.num_scenes:
        scene, problem = next(iter(lost.items()))
        raise DataError(
            f"{report.raw}: none of the {report.num_scenes} scans can be prepared ({scene}: {problem.reason})"
        )
    return len(lost)


def settings_text(project: Project, report: AuditReport | None) -> str:
    """The settings file, as `Settings.resolve` reads it.

    Raises:
        SettingsError: A path that UTF-8 cannot spell.
    """
    found = "" if report is None else f"  # {report.num_scenes} scans, {report.num_vertices:,} vertices"
    return f"""\
# Settings of this working directory: every lg3d command that is started here reads them.
# An option beats a variable (LG3D_EPOCHS=10), a variable this file, this file the recipe.

raw = {_quote(str(project.raw))}{found}
store = {_quote(str(project.store))}
device = {_quote(project.device)}
recipe = {_quote(project.recipe)}  # of anchors, pretrain and finetune

# Any option of a command can stand here, for that command alone under its name:
# [finetune]
# epochs = 60
# limited = 0.05
"""


def init(project: Project, report: AuditReport | None, *, path: Path, force: bool) -> Path:
    """Write the settings file, whole or not at all, and return its path.

    Args:
        project: What it says.
        report: What the audit found, for a comment.
        path: File to write.
        force: Replace one that is there.

    Raises:
        SettingsError: A file is there, or a path cannot be spelled.
        DataError: The file system refused.
    """
    require_free(path, force=force)
    write_text(path, settings_text(project, report))
    return path


def next_commands(project: Project) -> list[tuple[str, str]]:
    """What to type next, in order, each with what it makes."""
    encoder = AnchorsSettings.resolve(recipe=project.recipe).encoder
    download = ", after a download" if encoder.startswith(("open_clip:", "hf:")) else ""
    return [
        ("lg3d prepare", f"scans to the store {project.store}/"),
        ("lg3d anchors", f"category names to anchors.safetensors{download}"),
        ("lg3d pretrain", "features that lie by the words for what they are"),
        ("lg3d finetune", "a classifier on them"),
        ("lg3d eval", "its scores on the validation scenes"),
    ]


def _computes_on_cuda(device: str) -> bool:
    if device == "cpu":
        return False
    from lg3d_core.devices import resolve_device  # torch, which takes seconds to load

    return resolve_device(device).type == "cuda"


def _quote(text: str) -> str:
    """A basic string of TOML: that of JSON, but for one control character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{text!r} is not UTF-8, so {CONFIG_NAME} cannot hold it: rename the folder") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
