"""Write the model of the package from a training run: python examples/ship_model.py RUN --test TITLE STORE SPLIT ...

Writes shipped.safetensors (half precision), shipped-anchors.safetensors and MODEL_CARD.md, with the scores of the
written file. Run it in the folder where the run was trained, so that the paths in its settings are found.
"""

import argparse
from pathlib import Path

from lg3d_cli import console
from lg3d_core.models import FOLDER
from lg3d_core.reporting.shipping import ship_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--test", nargs=3, action="append", default=[], metavar=("TITLE", "STORE", "SPLIT"))
    parser.add_argument("--data", type=Path, required=True, help="Markdown file about the training data")
    parser.add_argument("--attribution", type=Path, required=True, help="Markdown file: licence and attribution")
    parser.add_argument("--votes", type=int, default=8)
    parser.add_argument("--adapt", type=float, default=0.0, help="share of a scan's own statistics to record")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    path = ship_model(
        options.run,
        options.out,
        tests=[(title, Path(store), split) for title, store, split in options.test],
        data=options.data.read_text(encoding="utf-8"),
        attribution=options.attribution.read_text(encoding="utf-8"),
        votes=options.votes,
        adapt=options.adapt,
        progress=console.progress(),
    )
    print(path)


if __name__ == "__main__":
    main()
