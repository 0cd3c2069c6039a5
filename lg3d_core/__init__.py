"""Language-grounded sparse 3D networks: raw scans to a store, text anchors, training, scores, pictures.

`load_model` is the entry point of the Python API:

    import lg3d_core as lg3d

    model = lg3d.load_model("shipped")
    result = model.predict("scan.ply")
    model.ask("somewhere to sit")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lg3d_core.inference.model import Model, Result, SceneObject, TextMatch, load_model

__version__ = "0.1.0"
__all__ = ["Model", "Result", "SceneObject", "TextMatch", "load_model"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, because `import lg3d_core` must not load torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lg3d_core.inference import model

    return getattr(model, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
