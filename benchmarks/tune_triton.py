"""Measure the blocks of lg3d's kernels on this GPU for the layers of a network, and keep the quickest.

python benchmarks/tune_triton.py --network 34D --voxels 100000 --batch 8 --budget 500

Every later run on this kind of GPU takes them from the file that is printed at the end. Each set of blocks is compiled
first, about a second: a network takes half an hour. The file is written after every group of layers, those with most
work first; when the budget is spent, the same command goes on.
"""

import argparse
import math
import sys

import torch

from lg3d_core.errors import Lg3dError
from lg3d_core.networks.minkunet import NETWORK_PLANS, MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.sparse import KernelMap, SparseTensor, backends, use_backend
from lg3d_core.sparse.triton.backend import TritonBackend
from lg3d_core.sparse.triton.tuning import LayerCall, tune

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "tf32": torch.float32}


class Listing(Progress):
    """Writes every note to stderr."""

    def note(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


class Recording(TritonBackend):
    """Notes every convolution that a network asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[KernelMap, int, int]] = []

    def convolve(self, features: torch.Tensor, weight: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
        self.calls.append((kernel_map, weight.shape[1], weight.shape[2]))
        return super().convolve(features, weight, kernel_map)


def make_rooms(num_voxels: int, batch: int) -> torch.Tensor:
    """Voxels of rooms: floor, walls and boxes, with surfaces two voxels thick as in a scan; about so many a room."""
    edge = max(8, round((num_voxels / 10) ** 0.5))
    room = torch.zeros(edge, edge, edge // 2, dtype=torch.bool)
    room[:, :, :2] = room[:2] = room[:, :2] = True
    generator = torch.Generator().manual_seed(0)
    while int(room.sum()) < num_voxels:
        x, y = (int(torch.randint(2, edge - 4, (), generator=generator)) for _ in range(2))
        width, height = (int(torch.randint(3, max(4, edge // 8), (), generator=generator)) for _ in range(2))
        room[x : x + width, y : y + width, height : height + 2] = True
        room[x : x + 2, y : y + width, :height] = True
    cells = room.nonzero().to(torch.int32)
    return torch.cat([torch.cat([torch.full_like(cells[:, :1], index), cells], dim=1) for index in range(batch)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORK_PLANS, default="34C")
    parser.add_argument("--voxels", type=int, default=100_000, help="of one room")
    parser.add_argument("--batch", type=int, default=8, help="rooms")
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds to spend")
    parser.add_argument("--again", action="store_true", help="measure groups that the file already has")
    choices = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: expected a CUDA device, but PyTorch finds none; kernels are tuned on the GPU that runs them")
    device = torch.device("cuda", torch.cuda.current_device())
    dtype = DTYPES[choices.precision]
    coordinates = make_rooms(choices.voxels, choices.batch).to(device)
    recording = Recording()
    backends._instances["triton"] = recording
    network = MinkUNet(choices.network).to(device, dtype).train()
    with use_backend("triton"):
        network(SparseTensor(torch.rand(len(coordinates), 3, device=device, dtype=dtype), coordinates))
    calls = [LayerCall(*call, dtype, tf32=choices.precision == "tf32") for call in dict.fromkeys(recording.calls)]
    print(f"{len(coordinates)} voxels, {len(calls)} kinds of layers", file=sys.stderr)
    print(tune(calls, device, Listing(), budget=choices.budget, again=choices.again))


if __name__ == "__main__":
    try:
        main()
    except Lg3dError as error:
        sys.exit(f"error: {error}")
