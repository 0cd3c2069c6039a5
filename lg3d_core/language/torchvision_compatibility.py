"""Workaround to import `open_clip` and `transformers` if torchvision's compiled operators cannot be loaded.

Both import torchvision for their image side. The package index only offers torchvision built for CUDA; with a CPU build
of PyTorch its compiled library fails to load, torchvision suppresses that error, and its registration of fake kernels
then stops with `RuntimeError: operator torchvision::nms does not exist` (pytorch/vision issues 9077 and 9085). Text
encoding needs none of these operators: declaring the two that the registration looks up makes the import succeed. They
have no implementation, and a torchvision whose operators load is not changed.
"""

import sys
from types import ModuleType

import torch

from lg3d_core.errors import MissingDependencyError
from lg3d_core.language.encoder_names import FALLBACK

_UNREGISTERED = "operator torchvision::nms does not exist"
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# A declaration lives as long as the object that created it.
_declared: list[torch.library.Library] = []


def import_open_clip(*, fallback: str = FALLBACK) -> ModuleType:
    """Import `open_clip`; declare torchvision's operators first if they cannot be loaded.

    Args:
        fallback: End of the message about a missing package.

    Raises:
        MissingDependencyError: `open_clip_torch` is not installed, or cannot be imported.
    """
    try:
        import_torchvision()
        import open_clip
    except ImportError as error:
        raise MissingDependencyError(
            f"text encoders need open_clip ({error}): pip install open_clip_torch{fallback}"
        ) from None
    module: ModuleType = open_clip
    return module


def import_torchvision() -> None:
    """Import torchvision; declare its operators first if they cannot be loaded.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if _UNREGISTERED not in str(error):
            raise
        for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
            del sys.modules[name]
        if not _declared:
            library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            library.define(f"nms{_SIGNATURE}")  # type: ignore[no-untyped-call]
            library.define(f"qnms{_SIGNATURE}")  # type: ignore[no-untyped-call]
            _declared.append(library)
        import torchvision  # noqa: F401
