"""Names of devices, and what is said about those that a machine lacks."""

from types import SimpleNamespace

import pytest
import torch

from lg3d_core import devices
from lg3d_core.devices import resolve_device, resolve_precision
from lg3d_core.errors import SettingsError
from lg3d_core.progress import Progress
from lg3d_core.settings import EvalSettings
from lg3d_core.settings.fields import fields_of
from lg3d_core.sparse import backends, resolve_backend, trains_faster_in_bf16
from lg3d_core.training.distributed import Launch, _choose_device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Let PyTorch see two GPUs; gives the list of those that became the current one."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_a_numbered_gpu_becomes_the_current_one(two_gpus: list[torch.device]) -> None:
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert two_gpus == [torch.device("cuda", 1)]
    assert resolve_device("cuda") == resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cpu") == torch.device("cpu")
    assert len(two_gpus) == 1


def test_the_error_on_a_gpu_that_is_missing_lists_those_that_exist(
    two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match=r"^--device cuda:2: this machine has 2 GPUs, cuda:0 to cuda:1$"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match=r"^--device cuda:1: this machine has 1 GPU, only cuda:0$"):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"^--device cuda:1: PyTorch finds no CUDA device; use --device cpu"):
        resolve_device("cuda:1")
    assert two_gpus == []


@pytest.mark.parametrize(
    ("capability", "precision", "backend"),
    [((7, 5), "fp32", "torch"), ((8, 0), "bf16", "triton"), ((12, 0), "bf16", "triton")],
)
def test_gpus_without_bfloat16_run_in_fp32_and_without_triton(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str, backend: str
) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(devices, "_capability", lambda _: capability)
    monkeypatch.setattr(backends, "BACKENDS", backends.BACKENDS | {"triton": lambda: SimpleNamespace(name="triton")})
    monkeypatch.setattr(backends, "_instances", {})
    monkeypatch.setattr(backends, "find_spec", lambda _: object())
    assert resolve_precision("auto", gpu) == precision
    assert trains_faster_in_bf16("auto", gpu) == (precision == "bf16")
    assert resolve_backend("auto", gpu).name == backend


@pytest.mark.parametrize("name", ["cuda:", "cuda:-1", "cuda:x", "cuda:1234", "gpu", "cuda:١", "mps", "cuda:1 "])
def test_other_names_are_refused_with_the_forms_that_are_known(name: str) -> None:
    with pytest.raises(SettingsError, match="--device must be one of auto, cpu, cuda, cuda:N, got"):
        EvalSettings.resolve(device=name)


def test_help_and_completion_know_the_numbered_form() -> None:
    field = fields_of(EvalSettings)["device"]
    assert field.type_name == "auto|cpu|cuda|cuda:N"
    assert EvalSettings.resolve(device="cuda:12").device == "cuda:12"


@pytest.mark.usefixtures("two_gpus")
def test_under_torchrun_one_process_may_be_given_a_gpu_and_several_take_their_own() -> None:
    launch = Launch(rank=1, size=2, local_rank=1, local_size=2, run_id=None, max_restarts=0)
    assert _choose_device("cuda", launch, Progress()) == torch.device("cuda", 1)
    with pytest.raises(SettingsError, match=r"--device cuda:1: torchrun started 2 processes here.*--device cuda,"):
        _choose_device("cuda:1", launch, Progress())
    alone = launch._replace(local_rank=0, local_size=1)
    assert _choose_device("cuda:1", alone, Progress()) == torch.device("cuda", 1)
