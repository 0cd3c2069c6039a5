"""The compiled kernels against the reference, for every width of vectors that the compiler can make here."""

import ctypes
import errno
import math
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lg3d_core.errors import MissingDependencyError, SettingsError
from lg3d_core.sparse import SparseTensor, backends, resolve_backend, trains_faster_in_bf16
from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.native import NativeBackend, backend, build, plans
from lg3d_core.sparse.reference import ReferenceBackend
from tests.test_sparse_convolution import draw, scatter_voxels

COMPILER = build.find_compiler()
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")

# Flags, and the lanes of the vectors that follow; AVX2 runs on every x86-64 processor of the last ten years.
VARIANTS = {"native": ("-march=native", None), "plain": ("", 4)}
if platform.machine() == "x86_64" and "avx2" in Path("/proc/cpuinfo").read_text():
    VARIANTS["avx2"] = ("-march=x86-64-v3", 8)


@pytest.fixture(scope="module", params=VARIANTS)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    flags, lanes = VARIANTS[request.param]
    path = tmp_path_factory.mktemp("kernels") / f"{request.param}.so"
    assert COMPILER is not None
    build.compile_kernels(COMPILER, path, [flags])
    compiled = build.open_kernels(path)
    assert lanes in (None, compiled.lg3d_lanes())
    return compiled


def map_of(layer: str, num_voxels: int) -> KernelMap:
    cache = SparseTensor(draw(num_voxels, 1), scatter_voxels(num_voxels, extent=12)).cache
    match layer:
        case "3^3":
            return cache.submanifold_map(1, 3)
        case "5^3":
            return cache.submanifold_map(1, 5)
        case "2^3 down":
            return cache.downward_map(1)
        case _:
            cache.downward_map(1)
            return cache.upward_map(2)


def run(chosen: backends.Backend, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> tuple[Tensor, ...]:
    """Give the output, and the gradients of a fixed weighting of its values."""
    leaves = (features.detach().requires_grad_(), weight.detach().requires_grad_())
    output = chosen.convolve(*leaves, kernel_map)
    weighting = draw(*output.shape, seed=5).to(output.dtype)
    return (output.detach(), *torch.autograd.grad((output * weighting).sum(), leaves))


def relative_error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-30)) if exact.numel() else 0.0


@pytest.mark.parametrize("layer", ["3^3", "5^3", "2^3 down", "2^3 up"])
@pytest.mark.parametrize("num_voxels", [0, 1, 63, 130, 1100])
@pytest.mark.parametrize("channels", [(3, 32), (32, 96), (200, 17)])
def test_values_and_gradients_equal_the_reference(
    kernels: ctypes.CDLL, layer: str, num_voxels: int, channels: tuple[int, int]
):
    kernel_map = map_of(layer, num_voxels)
    features = draw(kernel_map.num_inputs, channels[0])
    weight = draw(kernel_map.num_offsets, *channels) / math.sqrt(channels[0])
    expected = run(ReferenceBackend(), features, weight, kernel_map)
    ours = run(NativeBackend(kernels), features.float(), weight.float(), kernel_map)
    for value, exact in zip(ours, expected, strict=True):
        assert value.shape == exact.shape
        assert value.dtype == torch.float32
        assert relative_error(value, exact) < 5e-6  # 2^-24 a rounding, over sums of up to 27 * 200 products


@pytest.mark.parametrize("channels", [(16, 16), (256, 64), (96, 192), (130, 400)])
def test_every_width_of_panel_and_depth_of_block_is_right(kernels: ctypes.CDLL, channels: tuple[int, int]):
    kernel_map = map_of("3^3", 150)
    features, weight = draw(150, channels[0]), draw(27, *channels)
    expected = run(ReferenceBackend(), features, weight, kernel_map)
    for value, exact in zip(
        run(NativeBackend(kernels), features.float(), weight.float(), kernel_map), expected, strict=True
    ):
        assert relative_error(value, exact) < 5e-6


@pytest.mark.parametrize("layer", ["3^3", "2^3 down", "2^3 up"])
@pytest.mark.parametrize("channels", [(3, 32), (32, 64), (75, 130), (256, 96)])
def test_bfloat16_is_rounded_once_on_the_way_in_and_once_on_the_way_out(
    kernels: ctypes.CDLL, layer: str, channels: tuple[int, int]
):
    kernel_map = map_of(layer, 300)
    features = draw(kernel_map.num_inputs, channels[0]).bfloat16()
    weight = (draw(kernel_map.num_offsets, *channels) / math.sqrt(channels[0])).bfloat16()
    expected = run(ReferenceBackend(), features.double(), weight.double(), kernel_map)
    for value, exact in zip(run(NativeBackend(kernels), features, weight, kernel_map), expected, strict=True):
        assert value.dtype == torch.bfloat16
        # One rounding is 2^-9 of a value; the weighting of the outputs in `run` is rounded as well.
        assert relative_error(value, exact) < 2**-7


@pytest.mark.parametrize("layer", ["3^3", "5^3", "2^3 down", "2^3 up"])
@pytest.mark.parametrize("num_voxels", [0, 1, 63, 131, 1100])
@pytest.mark.parametrize("channels", [(3, 32), (34, 48), (200, 17), (16, 112)])
def test_bfloat16_with_weights_in_float32_equals_the_reference_on_rounded_values(
    layer: str, num_voxels: int, channels: tuple[int, int]
):
    native = NativeBackend()
    if not native.computes(torch.bfloat16):
        pytest.skip("this processor does not multiply bfloat16")
    kernel_map = map_of(layer, num_voxels)
    features = draw(kernel_map.num_inputs, channels[0]).bfloat16()
    weight = (draw(kernel_map.num_offsets, *channels) / math.sqrt(channels[0])).float()
    leaves = (features.clone().requires_grad_(), weight.clone().requires_grad_())
    output = native.convolve(*leaves, kernel_map)
    upstream = draw(*output.shape, seed=5).bfloat16()
    grad_features, grad_weight = torch.autograd.grad(output, leaves, upstream)
    exact_leaves = (features.double().requires_grad_(), weight.bfloat16().double().requires_grad_())
    exact = ReferenceBackend().convolve(*exact_leaves, kernel_map)
    exact_features, exact_weight = torch.autograd.grad(exact, exact_leaves, upstream.double())
    # Products of two values of 8 bits are exact in float32, and so the sums are good to float32; outputs and gradients
    # of features are then rounded to 8 bits, by 2^-9 of a value at most. Gradients of weights stay in float32.
    assert relative_error(output.detach(), exact.detach()) < 2**-8
    assert relative_error(grad_features, exact_features) < 2**-8
    assert grad_weight.dtype == torch.float32
    assert relative_error(grad_weight, exact_weight) < 5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_gradient_does_not_depend_on_the_content_of_scratch_memory(dtype: torch.dtype):
    kernel_map = map_of("3^3", 131)
    features, weight = draw(131, 34).to(dtype), draw(27, 34, 48).float()
    weight = weight.to(dtype)
    first = run(NativeBackend(), features, weight, kernel_map)
    backend._scratch.pointer(1)
    backend._scratch.buffer.fill_(math.nan)
    second = run(NativeBackend(), features, weight, kernel_map)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_bit_equal_on_one_thread_and_on_two(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend, "MIN_SHARED_WORK", 0)
    features, weight = draw(1000, 32).to(dtype), draw(27, 32, 48).to(dtype)
    before = torch.get_num_threads()
    runs = []
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            runs.append(run(NativeBackend(), features, weight, map_of("3^3", 1000)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


def test_bf16_is_chosen_for_training_only_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch):
    cpu = torch.device("cpu")
    native = resolve_backend("native", cpu)
    assert trains_faster_in_bf16("native", cpu) == native.computes(torch.bfloat16)
    assert not trains_faster_in_bf16("torch", cpu)
    monkeypatch.setattr(native, "_dtypes", {torch.float32})
    assert not trains_faster_in_bf16("auto", cpu)


def test_results_are_bit_equal_whatever_the_chunks_and_the_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend, "MIN_SHARED_WORK", 0)
    features, weight = draw(1000, 16).float(), draw(27, 16, 48).float()
    before = torch.get_num_threads()
    outputs, weight_gradients = [], []
    try:
        for rows in (100, 400):
            monkeypatch.setattr(plans, "MAX_CHUNK_ROWS", rows)
            for num_threads in (1, 2, 3):
                torch.set_num_threads(num_threads)
                output, gradient, weight_gradient = run(NativeBackend(), features, weight, map_of("3^3", 1000))
                outputs.append(torch.cat([output, gradient], dim=1))
                weight_gradients.append(weight_gradient)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    for of_one_size in (weight_gradients[:3], weight_gradients[3:]):  # sums over voxels follow the chunks
        assert all(torch.equal(gradient, of_one_size[0]) for gradient in of_one_size)


def test_other_dtypes_are_computed_by_plain_pytorch():
    kernel_map = map_of("3^3", 63)
    features, weight = draw(63, 3), draw(27, 3, 5)
    expected = run(ReferenceBackend(), features, weight, kernel_map)
    for value, exact in zip(run(NativeBackend(), features, weight, kernel_map), expected, strict=True):
        torch.testing.assert_close(value, exact, atol=1e-12, rtol=0)


def test_only_the_wanted_gradients_are_computed():
    kernel_map = map_of("3^3", 63)
    features, weight = draw(63, 3).float(), draw(27, 3, 5).float().requires_grad_()
    NativeBackend().convolve(features, weight, kernel_map).sum().backward()
    assert weight.grad is not None
    features.requires_grad_()
    NativeBackend().convolve(features, weight.detach(), kernel_map).sum().backward()
    assert features.grad is not None


def test_values_that_are_not_numbers_stay_so():
    kernel_map = map_of("3^3", 63)
    features = draw(63, 16).float()
    features[5, 3] = math.nan
    output = NativeBackend().convolve(features, draw(27, 16, 16).float(), kernel_map)
    assert output[5].isnan().all()


def test_kernels_are_compiled_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.load_kernels.cache_clear()
    build.load_kernels()
    assert len(list((tmp_path / "lg3d" / "native").iterdir())) == 1
    build.load_kernels.cache_clear()
    monkeypatch.setattr(build, "compile_kernels", pytest.fail)
    build.load_kernels()
    build.load_kernels.cache_clear()


def test_a_damaged_library_is_named(tmp_path: Path):
    path = tmp_path / "kernels.so"
    path.write_bytes(b"not a library")
    with pytest.raises(MissingDependencyError, match=r"kernels.so.*delete it and run again"):
        build.open_kernels(path)


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No kernels are loaded yet; those of the test are forgotten afterwards."""
    monkeypatch.setattr(backends, "_instances", {})
    for cache in (build.load_kernels, backends._can_compile):
        cache.cache_clear()
    yield
    for cache in (build.load_kernels, backends._can_compile):
        cache.cache_clear()


@pytest.mark.usefixtures("no_kernels")
def test_a_machine_without_a_compiler_falls_back_to_plain_pytorch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match=r"C compiler.*apt install gcc.*--backend torch"):
        resolve_backend("native", torch.device("cpu"))
    assert resolve_backend("auto", torch.device("cpu")).name == "torch"


def test_a_compiler_that_fails_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'no such target' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(
        MissingDependencyError, match=r"cannot compile kernels.c .no such target.: pass --backend torch"
    ):
        build.compile_kernels(str(broken), tmp_path / "kernels.so")
    assert not (tmp_path / "kernels.so").exists()
    with pytest.raises(MissingDependencyError, match="XDG_CACHE_HOME"):
        build.compile_kernels(str(broken), broken / "kernels.so")

    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("cc", 1)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(MissingDependencyError, match="did not run"):
        build.compile_kernels(str(broken), tmp_path / "kernels.so")


@pytest.mark.usefixtures("no_kernels")
def test_a_compiler_that_is_no_program_falls_back_to_plain_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cc").write_text("not a program")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    with pytest.raises(MissingDependencyError, match=r"cc did not run .*: pass --backend torch"):
        resolve_backend("native", torch.device("cpu"))
    assert resolve_backend("auto", torch.device("cpu")).name == "torch"


@pytest.mark.usefixtures("no_kernels")
def test_a_user_without_a_home_folder_falls_back_to_plain_pytorch(monkeypatch: pytest.MonkeyPatch):
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(MissingDependencyError, match=r"no home folder.*set XDG_CACHE_HOME .*--backend torch"):
        resolve_backend("native", torch.device("cpu"))
    assert resolve_backend("auto", torch.device("cpu")).name == "torch"


@pytest.mark.usefixtures("no_kernels")
def test_a_cache_folder_of_another_user_falls_back_to_plain_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As with `sudo -u` or in a container, where HOME may be that of root."""
    real, real_mkdir = os.stat, os.mkdir

    def stat(path: Any, *arguments: Any, **choices: Any) -> os.stat_result:
        refuse(path)
        return real(path, *arguments, **choices)

    def mkdir(path: Any, *arguments: Any, **choices: Any) -> None:
        refuse(path)
        real_mkdir(path, *arguments, **choices)

    def refuse(path: Any) -> None:
        if str(path).startswith(str(tmp_path)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(MissingDependencyError, match=r"Permission denied.*XDG_CACHE_HOME sets the folder"):
        resolve_backend("native", torch.device("cpu"))
    assert resolve_backend("auto", torch.device("cpu")).name == "torch"


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(SettingsError, match=r"auto or one of .*native"):
        resolve_backend("cuda", torch.device("cpu"))


@pytest.mark.parametrize("channels", [(32, 96), (75, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("has_residual", [True, False])
def test_operations_after_a_convolution_are_computed_in_the_same_pass(
    kernels: ctypes.CDLL, channels: tuple[int, int], dtype: torch.dtype, has_residual: bool
):
    kernel_map = map_of("3^3", 130)
    features, residual = draw(130, channels[0]).to(dtype), draw(130, channels[1], seed=2).to(dtype)
    weight = draw(27, *channels, seed=3).to(dtype) / 16
    scale, shift = draw(channels[1], seed=4).float(), draw(channels[1], seed=6).float()
    exact = ReferenceBackend().convolve(features.double(), weight.double(), kernel_map)
    exact = exact * scale.double() + shift.double() + (residual.double() if has_residual else 0)
    follows = {"scale": scale, "shift": shift, "residual": residual if has_residual else None}
    for relu in (False, True):
        ours = NativeBackend(kernels).convolve_fused(features, weight, kernel_map, **follows, relu=relu)
        assert ours.dtype == dtype
        expected = exact.clamp_min(0) if relu else exact
        assert relative_error(ours, expected) < {torch.float32: 5e-6, torch.bfloat16: 2**-7, torch.float64: 1e-6}[dtype]


def test_weights_in_float32_beside_features_in_bfloat16_are_rounded_as_they_are_read():
    kernel_map = map_of("3^3", 130)
    features, weight = draw(130, 32).bfloat16(), draw(27, 32, 48).float()
    native = NativeBackend()
    rounded = run(native, features, weight.bfloat16(), kernel_map)
    read = run(native, features, weight, kernel_map)
    assert read[2].dtype == torch.float32
    if torch.bfloat16 in native._dtypes:
        assert torch.equal(read[0], rounded[0])
        assert torch.equal(read[1], rounded[1])
        assert torch.equal(read[2].bfloat16(), rounded[2])
