"""Networks as programs of `torch.export`, which run with PyTorch alone."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from lg3d_core.files import write_bytes
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.networks.plain import COLORS, PlainNetwork
from lg3d_core.networks.tables import STRIDES, build_tables

METADATA_NAME = "lg3d.json"
EXAMPLE_CELLS = 48
"""Edge length in voxels of the diagonal plane from which the program is traced; all levels have several cells."""


def build_program(network: MinkUNet) -> torch.export.ExportedProgram:
    """Return the program of a network, whose input is one dict of the colours and the tables."""
    plain = PlainNetwork(network).eval()
    steps = np.arange(EXAMPLE_CELLS)
    cells = np.stack(
        [np.repeat(steps, EXAMPLE_CELLS), np.tile(steps, EXAMPLE_CELLS), np.repeat(steps, EXAMPLE_CELLS)], 1
    )
    tables = build_tables(cells, stem_size=network.stem_size)
    inputs = {COLORS: torch.zeros(len(cells), network.in_channels)}
    inputs |= {name: torch.from_numpy(tables[name]) for name in plain.shape.tables}
    voxels = {stride: torch.export.Dim(f"voxels{stride}") for stride in STRIDES}
    dynamic = {name: {0: voxels[_stride_of(name)]} for name in inputs}
    with torch.no_grad():
        return torch.export.export(plain, (inputs,), dynamic_shapes=(dynamic,))


def _stride_of(name: str) -> int:
    digits = name.lstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits or 1)


def write_program(path: Path, network: MinkUNet, metadata: Mapping[str, str]) -> None:
    """Write a network as a `.pt2` file, atomically; the metadata is its extra file `lg3d.json`.

    Raises:
        DataError: The file cannot be written.
    """
    buffer = io.BytesIO()
    torch.export.save(build_program(network), buffer, extra_files={METADATA_NAME: json.dumps(dict(metadata))})
    write_bytes(path, buffer.getvalue())
