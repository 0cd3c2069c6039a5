"""The direction of imports, and what may load on start-up."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "lg3d_core"

TABLE = ROOT / "docs" / "architecture.md"


def read_table() -> tuple[set[str], dict[str, set[str]]]:
    """Return the foundations, and what each other package may import, from the table in the documentation."""
    rows = [line.split("|")[1:4] for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    names = [(re.findall("`([a-z_]+)`", row[0]), set(re.findall("`([a-z_]+)`", row[2]))) for row in rows]
    (foundations, nothing), *packages = names
    assert not nothing
    assert all(len(own) == 1 for own, _ in packages)
    return {*foundations, "__version__"}, {own[0]: allowed for own, allowed in packages}


FOUNDATIONS, MAY_IMPORT = read_table()
TORCH_FREE = {
    "vocabulary",
    "scans",
    "synthetic",
    "processes",
    "errors",
    "progress",
    "settings",
    "files",
    "seal",
    "stopping",
}


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def package_of(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def test_every_package_is_in_the_table_of_the_documentation() -> None:
    present = {path.name.removesuffix(".py") for path in CORE.iterdir() if not path.name.startswith((".", "__"))}
    assert present - {"py.typed", "recipes"} == FOUNDATIONS - {"__version__"} | set(MAY_IMPORT)


MODULES = sorted(CORE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CORE)))
def test_a_module_imports_only_packages_below_its_own(path: Path) -> None:
    package = package_of(path)
    if package == "__init__":
        return
    used = {name.split(".")[1] for name in imported_modules(path) if name.startswith("lg3d_core.")} - {package}
    allowed = FOUNDATIONS if package in FOUNDATIONS else FOUNDATIONS | MAY_IMPORT[package]
    assert used <= allowed, f"{path.relative_to(ROOT)} imports {sorted(used - allowed)}"


@pytest.mark.parametrize("path", [p for p in MODULES if package_of(p) in TORCH_FREE], ids=str)
def test_packages_that_only_handle_files_never_import_torch(path: Path) -> None:
    heavy = {"torch", "open3d", "h5py", "open_clip"}
    if path == CORE / "synthetic" / "camera" / "raycasting.py":
        heavy -= {"open3d"}  # the simulated camera casts rays; this module loads open3d only when it scans
    assert not {name.split(".")[0] for name in imported_modules(path)} & heavy


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_never_prints_and_never_imports_the_command_line(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prints = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "print"]
    assert not prints, f"prints on lines {prints}"
    assert not {name for name in imported_modules(path) if name.startswith(("lg3d_cli", "typer", "rich"))}


def test_kernels_are_imported_by_the_dispatch_of_sparse_alone() -> None:
    kernels = ("torch_backend", "reference", "minkowski_backend", "native", "triton")
    for path in MODULES:
        inside = path.relative_to(CORE).parts
        if inside[0] == "sparse" and inside[1].removesuffix(".py") in ("backends", *kernels):
            continue
        used = {name for name in imported_modules(path) if name.startswith("lg3d_core.sparse.")}
        used = {name for name in used if name.split(".")[2] in kernels}
        assert not used, f"{path.relative_to(ROOT)} imports {used}"


def test_help_is_fast_and_loads_neither_torch_nor_open3d() -> None:
    code = (
        "import sys, lg3d_cli.__main__ as m\n"
        "heavy = {'torch', 'open3d', 'h5py', 'open_clip', 'numpy', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    seconds = []
    for _ in range(3):
        start = os.times()
        subprocess.run([sys.executable, "-m", "lg3d_cli", "--help"], check=True, capture_output=True, cwd=ROOT)
        end = os.times()  # of the processor: whatever else the machine is at
        seconds.append(end.children_user + end.children_system - start.children_user - start.children_system)
    assert min(seconds) < 0.5, f"lg3d --help took {min(seconds):.2f} s of the processor at best"


@pytest.mark.parametrize("path", sorted((ROOT / "lg3d_cli" / "commands").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_a_command_calls_a_module_and_a_function_of_its_name(path: Path) -> None:
    module = "eval" if path.stem == "evaluate" else path.stem
    called = [name.split(".")[1:] for name in imported_modules(path) if name.startswith("lg3d_core.")]
    files = {CORE.joinpath(*parts[:k]).with_suffix(".py") for parts in called for k in (len(parts) - 1, len(parts))}
    found = [file for file in files if file.stem == module and file.is_file()]
    assert len(found) == 1, f"{path.name} imports {sorted(found)}"
    defined = {node.name for node in ast.parse(found[0].read_text()).body if isinstance(node, ast.FunctionDef)}
    assert path.stem in defined


LONGEST_FUNCTION = 80
MOST_PARAMETERS = 10
LARGER_FUNCTIONS = {
    "objectives/language.py: language_contrastive_loss": "public, with one parameter for each choice of the equation",
    "sparse/triton/convolution.py: _store_rows": "part of a Triton kernel, which takes pointers and strides one by one",
    "sparse/triton/convolution.py: _convolve_tiles": "a Triton kernel",
    "sparse/triton/convolution.py: _add_parts": "a Triton kernel",
    "sparse/triton/normalization.py: _combine_rows": "a Triton kernel",
    "sparse/triton/weight_gradient.py: _multiply_pairs": "a Triton kernel",
}
"""Functions above the limits, and why."""


def is_too_large(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function has too many lines, with its decorators and docstring, or parameters, without `self`."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    assert function.end_lineno is not None
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    count = len(names) - (names[:1] in (["self"], ["cls"])) + bool(given.vararg) + bool(given.kwarg)
    return function.end_lineno - first + 1 > LONGEST_FUNCTION or count > MOST_PARAMETERS


def test_functions_are_short_and_take_few_parameters() -> None:
    large = {
        f"{path.relative_to(CORE)}: {node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_too_large(node)
    }
    assert large == set(LARGER_FUNCTIONS)  # an exception that is no longer one is removed from the list


@pytest.mark.parametrize(
    ("body", "too_large"),
    [
        ("def f(a, b, c, d, e, f, g, h, i, j): ...", False),
        ("def f(a, b, c, d, e, f, g, h, i, *, j, k): ...", True),
        ("def f(self, a, b, c, d, e, f, g, h, i, j): ...", False),
        ("def f(self, a, b, c, d, e, f, g, h, i, j, **k): ...", True),
        ("def f():\n" + "    a = 1\n" * 79, False),
        ("@property\ndef f():\n" + "    a = 1\n" * 79, True),
    ],
)
def test_lines_and_parameters_are_counted(body: str, too_large: bool) -> None:
    (function,) = ast.parse(body).body
    assert isinstance(function, ast.FunctionDef)
    assert is_too_large(function) == too_large
