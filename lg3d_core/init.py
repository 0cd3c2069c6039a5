"""Settings file of a working directory: its values are checked before it is written."""

import json
import shlex
from pathlib import Path
from typing import NamedTuple

from lg3d_core.errors import DataError, SettingsError, UsageError
from lg3d_core.files import write_text
from lg3d_core.processes import num_cores
from lg3d_core.progress import Progress
from lg3d_core.scans.audit import AuditReport, audit_folder
from lg3d_core.scans.formats.names import NAME_FILES, find_names
from lg3d_core.scans.formats.open_folder import FORMATS, open_folder, recognise_format
from lg3d_core.scans.formats.raw_folder import RawFolder
from lg3d_core.settings import (
    CONFIG_NAME,
    AnchorsSettings,
    Device,
    FinetuneSettings,
    PrepareSettings,
    PretrainSettings,
    VocabularySettings,
    read_recipe,
    recipe_names,
    recipe_summary,
)
from lg3d_core.settings.fields import fields_of
from lg3d_core.vocabulary import load_vocabulary
from lg3d_core.vocabulary.vocabulary_file import SHIPPED

LIKELY_FOLDERS = (".", *FORMATS, "ScanNet", "raw", "scans", "rooms", "demo/rooms", "../scannet", "/data/scannet")
"""Folders that are searched for raw scans, relative to the working directory."""
LOOSE_FORMATS = ("pointcept", "labelled")
"""Formats that a folder of other files may resemble; such a folder is proposed only if it has class names."""
DEFAULT_VOCABULARY = AnchorsSettings.vocabulary
STORED_VOCABULARY = str(VocabularySettings.out)
"""File that `lg3d vocabulary from-store` writes by default."""
VOCABULARY_TABLE = """
[anchors]
vocabulary = {}
"""


class Project(NamedTuple):
    """Values of a settings file.

    Attributes:
        raw: Folder of the raw scans.
        store: Folder of the scene store.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        recipe: Name of a shipped recipe, or path of a TOML file.
        vocabulary: Vocabulary of the scans: the name of a shipped one, or a file.
    """

    raw: Path
    store: Path
    device: Device
    recipe: str
    vocabulary: str = DEFAULT_VOCABULARY


class RawScans(NamedTuple):
    """Checked folder of raw scans.

    Attributes:
        raw: Folder.
        vocabulary: Vocabulary of the folder, as in `Project`.
        report: Result of the audit; None without one.
    """

    raw: Path
    vocabulary: str
    report: AuditReport | None


def propose_raw(folder: Path) -> Path | None:
    """Return the first of `LIKELY_FOLDERS` that contains scans, relative to `folder`; None if there is none."""
    for name in LIKELY_FOLDERS:
        found, _ = recognise_format(folder / name)
        if found and (found not in LOOSE_FORMATS or find_names(folder / name) is not None):
            return Path(name)
    return None


def propose_recipe(device: Device) -> str:
    """Return the paper's recipe for CUDA, else the smallest one: the paper's takes weeks on a CPU."""
    return "paper-34d" if _computes_on_cuda(device) else "demo"


def describe_device() -> str:
    """Return the device that `auto` selects on this machine, in a few words."""
    if _computes_on_cuda("auto"):
        return "CUDA"
    return f"the CPU ({num_cores()} cores): PyTorch finds no CUDA device"


def describe_recipes() -> list[tuple[str, str]]:
    """Return the name and the purpose of every shipped recipe."""
    return [(name, recipe_summary(name)) for name in recipe_names()]


def check_raw(text: str, *, audit: bool, jobs: int, progress: Progress) -> RawScans:
    """Recognise and check a folder of raw scans.

    Args:
        text: Folder; `~` is the user's home.
        audit: Whether to read every scan.
        jobs: Number of processes; 0 uses one per core.
        progress: Receives notes, warnings and one step per scene.

    Raises:
        DataError: The folder has no scans, no class names, or no scan that can be prepared.
    """
    raw = Path(text).expanduser()
    folder = open_folder(PrepareSettings(raw=raw))
    if folder.note:
        progress.note(folder.note)
    for warning in folder.warnings:
        progress.warn(warning)
    if not audit:
        return RawScans(raw, _find_vocabulary(folder), None)
    report = audit_folder(folder, jobs=jobs, progress=progress)
    lost = count_lost(report)
    progress.note(
        f"{report.num_scenes} scans, {report.num_vertices:,} vertices" + (f", {lost} of them damaged" if lost else "")
    )
    return RawScans(raw, _find_vocabulary(folder), report)


def _find_vocabulary(folder: RawFolder) -> str:
    """Return a shipped vocabulary or file with the classes of a folder; `STORED_VOCABULARY` if there is none."""
    own = str(folder.path / NAME_FILES[0])
    candidates = (*SHIPPED, own) if Path(own).is_file() else tuple(SHIPPED)
    digest = folder.vocabularies[0].digest
    return next((name for name in candidates if load_vocabulary(name).digest == digest), STORED_VOCABULARY)


def check_device(text: str) -> Device:
    """Check the name of a device and return it.

    Raises:
        UsageError: The name is invalid.
        SettingsError: This machine does not have the device.
    """
    field = fields_of(PretrainSettings)["device"]
    if not field.is_choice(text):
        raise UsageError(f"--device must be one of {', '.join(field.expected)}, got {text!r}")
    _computes_on_cuda(text)
    return text


def check_recipe(text: str) -> str:
    """Check all keys and values of a recipe and return its name.

    Raises:
        SettingsError: The recipe does not exist, or a key or value is invalid.
    """
    read_recipe(text)
    for command in (AnchorsSettings, PretrainSettings, FinetuneSettings):
        command.resolve(recipe=text)
    return text


def require_free(path: Path, *, force: bool) -> None:
    """Check that a settings file can be written without replacing another one.

    Raises:
        SettingsError: The file exists and `force` is not set, or a folder has its name.
    """
    if path.is_dir():
        raise SettingsError(f"{path} is a folder, expected the settings file or nothing: rename the folder")
    if path.exists() and not force:
        raise SettingsError(f"{path} exists: edit it, or pass --force to replace it")


def count_lost(report: AuditReport) -> int:
    """Return the number of scans that `prepare` would skip.

    Raises:
        DataError: All scans, or the folder as a whole, are damaged.
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
    """Return the text of the settings file, as `Settings.resolve` reads it.

    Raises:
        SettingsError: A path is not UTF-8.
    """
    found = "" if report is None else f"  # {report.num_scenes} scans, {report.num_vertices:,} vertices"
    vocabulary = "" if project.vocabulary == DEFAULT_VOCABULARY else VOCABULARY_TABLE.format(_quote(project.vocabulary))
    return f"""\
# Settings of this working directory: all lg3d commands that are started here read this file.
# Options precede variables (LG3D_EPOCHS=10), variables precede this file, and this file precedes the recipe.

raw = {_quote(str(project.raw))}{found}
store = {_quote(str(project.store))}
device = {_quote(project.device)}
recipe = {_quote(project.recipe)}  # of anchors, pretrain and finetune

# Any option of a command can be set here; a table with the command's name is for that command only:
# [finetune]
# epochs = 60
# limited = 0.05
{vocabulary}"""


def init(project: Project, report: AuditReport | None, *, path: Path, force: bool) -> Path:
    """Write the settings file atomically and return its path.

    Args:
        project: Values of the file.
        report: Result of the audit, for a comment.
        path: File to write.
        force: Whether to replace an existing file.

    Raises:
        SettingsError: The file exists, or a path is not UTF-8.
        DataError: The file cannot be written.
    """
    require_free(path, force=force)
    write_text(path, settings_text(project, report))
    return path


def next_commands(project: Project) -> list[tuple[str, str]]:
    """Return the next commands in order, each with its output."""
    encoder = AnchorsSettings.resolve(recipe=project.recipe).encoder
    download = ", after a download" if encoder.startswith(("open_clip:", "hf:")) else ""
    store = shlex.quote(str(project.store))
    from_store = (f"lg3d vocabulary from-store {store}", f"class names of the store to {STORED_VOCABULARY}")
    return [
        ("lg3d prepare", f"scans to the store {project.store}/"),
        *([from_store] if project.vocabulary == STORED_VOCABULARY else []),
        ("lg3d anchors", f"class names to anchors.safetensors{download}"),
        ("lg3d pretrain", "features near the text anchors of their classes"),
        ("lg3d finetune", "a classifier that starts from these features"),
        ("lg3d eval", "scores on the validation scenes"),
    ]


def _computes_on_cuda(device: str) -> bool:
    if device == "cpu":
        return False
    from lg3d_core.devices import resolve_device  # torch, which takes seconds to load

    return resolve_device(device).type == "cuda"


def _quote(text: str) -> str:
    """Return a basic string of TOML, which is a JSON string except for one control character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{text!r} is not UTF-8, so {CONFIG_NAME} cannot contain it: rename the folder") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
