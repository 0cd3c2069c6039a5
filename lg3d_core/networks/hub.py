"""Checkpoints on Hugging Face by name: `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`.

A repository holds `checkpoint.safetensors`, for a language-grounded model `anchors.safetensors`, and a card. Only these
two files are downloaded. The library huggingface_hub caches them and resumes interrupted downloads.
"""

import hashlib
import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from lg3d_core.download import answers, is_offline
from lg3d_core.errors import CheckpointError, MissingDependencyError, UsageError, first_line
from lg3d_core.progress import Progress

PREFIX = "hf:"
CHECKPOINT_FILE = "checkpoint.safetensors"
ANCHORS_FILE = "anchors.safetensors"
SITE = "https://huggingface.co"
PROBE_SECONDS = 3.0
"""A site that has not answered by then counts as unreachable; the library itself retries for a minute."""
SHOWN_DIGITS = 12
PART = r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?"
NAME = re.compile(rf"hf:(?P<repository>{PART}/{PART})(@(?P<revision>[^@\s]+))?")
MAX_NAME = 96
DIGEST = re.compile(r"[0-9a-f]{64}")


class HubName(NamedTuple):
    """Name of a model.

    Attributes:
        repository: `OWNER/NAME`.
        revision: Branch, tag or commit; None for the main branch.
    """

    repository: str
    revision: str | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_hub_name(name: Path | str) -> bool:
    """Return whether a name refers to a model on the hub."""
    return str(name).startswith(PREFIX)


def parse_hub_name(name: Path | str) -> HubName:
    """Return the parts of a name.

    Raises:
        UsageError: The name is not `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`.
    """
    match = NAME.fullmatch(str(name))
    if match is None or len(match["repository"]) > MAX_NAME or re.search(r"--|\.\.", match["repository"]):
        raise UsageError(f"{name}: expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    return HubName(match["repository"], match["revision"])


def site_of_hub() -> str:
    """Return the address of the hub, from `HF_ENDPOINT` if it is set."""
    return os.environ.get("HF_ENDPOINT") or SITE


def download_checkpoint(name: Path | str, progress: Progress) -> Path:
    """Return the local path of a model, which is downloaded if it is not cached or has changed.

    Its anchors are beside it. The digest of the file is compared with that of the hub.

    Args:
        name: Name, `hf:OWNER/NAME[@REVISION]`.
        progress: Receives the path, revision and SHA-256 of the checkpoint.

    Raises:
        UsageError: The name is invalid.
        CheckpointError: The model or revision does not exist, is not accessible, holds no checkpoint, or is damaged.
        MissingDependencyError: The model is not cached, and the hub cannot be reached.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    hub = parse_hub_name(name)
    site = site_of_hub()
    offline = is_offline() or not answers(site, seconds=PROBE_SECONDS)
    if offline and not isinstance(_cached(hub, CHECKPOINT_FILE), str):
        why = "HF_HUB_OFFLINE is set" if is_offline() else f"{site} does not answer"
        raise MissingDependencyError(
            f"{hub} is not in the cache and {why}: connect to the network, or pass --checkpoint with a file"
        )
    if not offline and not isinstance(_cached(hub, CHECKPOINT_FILE), str):
        progress.note(f"downloading {hub} from {site}")
    with hub_errors(hub, site), _without_bars():
        path = _fetch(hub, CHECKPOINT_FILE, site=site, offline=offline)
        with suppress(LocalEntryNotFoundError if offline else RemoteEntryNotFoundError):  # a model without anchors
            _fetch(hub, ANCHORS_FILE, site=site, offline=offline)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    expected = path.resolve().name  # the cache names large files by the digest that the hub reported
    if DIGEST.fullmatch(expected) and digest != expected:
        raise CheckpointError(
            f"{hub}: {path} is damaged (sha256 {digest[:SHOWN_DIGITS]}): delete it to download it again"
        )
    unchecked = ", not checked for a newer revision" if offline else ""
    progress.note(f"{hub}: revision {path.parent.name[:SHOWN_DIGITS]}, sha256 {digest}{unchecked}")
    return path


def _cached(hub: HubName, file: str) -> object:
    from huggingface_hub import constants, try_to_load_from_cache

    return try_to_load_from_cache(hub.repository, file, revision=hub.revision, cache_dir=constants.HF_HUB_CACHE)


def _fetch(hub: HubName, file: str, *, site: str, offline: bool) -> Path:
    from huggingface_hub import constants, hf_hub_download

    return Path(
        hf_hub_download(
            hub.repository,
            file,
            revision=hub.revision,
            cache_dir=constants.HF_HUB_CACHE,
            local_files_only=offline,
            endpoint=site,
        )
    )


@contextmanager
def hub_errors(hub: HubName, site: str) -> Iterator[None]:
    """Turn the errors of the hub into one line each."""
    from huggingface_hub import errors

    transport_error: type[Exception] = getattr(errors, "HTTPError", OSError)  # of the HTTP library in use
    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise MissingDependencyError(
            f"{hub}: there is no access token of Hugging Face: set HF_TOKEN, or run hf auth login"
        ) from None
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{hub}: the owner of the model restricts access: request it at {site}/{hub.repository}"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(
            f"{hub}: there is no revision {hub.revision}: omit it, or name a branch, tag or commit"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{hub}: {site} has no such model, or it is private: check the name, or set HF_TOKEN to a token with access"
        ) from None
    except errors.RemoteEntryNotFoundError:
        raise CheckpointError(f"{hub}: holds no {CHECKPOINT_FILE}: expected a model that lg3d push uploaded") from None
    except errors.HfHubHTTPError as error:
        raise CheckpointError(f"{hub}: {site} refuses the request ({first_line(error)}): try again later") from None
    except (OSError, transport_error) as error:  # also LocalEntryNotFoundError: the connection was lost
        raise CheckpointError(
            f"{hub}: the transfer failed ({first_line(error)}): run the command again to resume"
        ) from None


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the progress bars of huggingface_hub inside the block."""
    utils: Any = importlib.import_module("huggingface_hub.utils")
    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


class CachedModel(NamedTuple):
    """Model in the local cache.

    Attributes:
        name: Name, with the revision as far as it is shown.
        path: Checkpoint.
    """

    name: str
    path: Path


def cached_models() -> list[CachedModel]:
    """Return the models of the hub that are in the local cache and hold a checkpoint, by name."""
    from huggingface_hub import constants, scan_cache_dir

    folder = Path(constants.HF_HUB_CACHE)
    if not folder.is_dir():
        return []
    found = []
    for repository in scan_cache_dir(folder).repos:
        for revision in repository.revisions if repository.repo_type == "model" else ():
            path = revision.snapshot_path / CHECKPOINT_FILE
            if path.is_file():
                names = sorted(revision.refs) or [revision.commit_hash[:SHOWN_DIGITS]]
                at = "" if names[0] == "main" else f"@{names[0]}"
                found.append(CachedModel(f"{PREFIX}{repository.repo_id}{at}", path))
    return sorted(found)
