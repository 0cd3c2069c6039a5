"""How strongly each loss pulls at a fresh network: gradients on one batch of a store's training rooms, as JSON.

    python benchmarks/loss_gradients.py STORE --network 14A --voxel-size 0.1

Per loss: its value; the mean length of the gradient that reaches a voxel's feature, times the voxels; and the length of
the gradient of all weights before the classifier. Beside them, what the language loss gives to features that all point
in the anchors' mean direction, with the anchors as they are and centred: what can be gained without telling any
category from another.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from lg3d_core.language import load_bundled_anchors, project_anchors
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.objectives import inverse_log_alpha, language_contrastive_loss
from lg3d_core.progress import Progress
from lg3d_core.settings import FinetuneSettings
from lg3d_core.sparse import SparseTensor
from lg3d_core.training.batches import SceneBatches
from lg3d_core.training.learners import Classification, LanguageGrounding, SupervisedContrast
from lg3d_core.training.scenes import open_training_data

MARGINS = {"positive_margin": 0.0, "negative_margin": 0.6, "negative_weight": 1.0}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--network", default="14A")
    parser.add_argument("--voxel-size", type=float, default=0.1)
    parser.add_argument("--scenes", type=int, default=2)
    options = parser.parse_args()
    settings = FinetuneSettings(
        store=options.store, network=options.network, voxel_size=options.voxel_size, start="scratch", instances=0
    )
    data = open_training_data(settings, Progress())
    batch = SceneBatches(data.dataset).load(range(min(options.scenes, len(data.dataset))), epoch=0, rng=None)
    torch.manual_seed(0)
    network = MinkUNet(options.network, num_classes=len(data.store.vocabulary))
    bundled = load_bundled_anchors(data.store.vocabulary).vectors
    anchors = torch.from_numpy(project_anchors(bundled, network.num_features))
    alpha = inverse_log_alpha(data.store.class_counts("train"))
    learners: dict[str, Any] = {
        f"language, {distance}": LanguageGrounding(network, anchors, distance=distance, negatives=3, **MARGINS)
        for distance in ("cosine", "l2", "l1")
    }
    learners["supcon"] = SupervisedContrast(network, sources=4096, positives=5, negatives=5, temperature=0.1)
    learners["cross-entropy"] = Classification(network, loss="cross-entropy", gamma=2.0, alpha=None)
    learners["class-balanced-focal"] = Classification(network, loss="class-balanced-focal", gamma=2.0, alpha=alpha)
    backbone = [weight for name, weight in network.named_parameters() if not name.startswith("final.")]

    report: dict[str, Any] = {"network": options.network, "voxel_size": options.voxel_size, "losses": {}}
    report["voxels"] = len(batch.labels)
    report["weights"] = length(backbone)
    for name, learner in learners.items():
        network.zero_grad()
        features = network(SparseTensor(batch.features, batch.coordinates))
        features.retain_grad()
        (loss,) = learner.loss(features, batch, seeds=range(len(batch.scene_sizes)))
        loss.total.backward()
        report["feature_length"] = float(features.detach().norm(dim=1).mean())
        report["losses"][name] = {
            "loss": float(loss.total.detach()),
            **{part: float(value.detach()) for part, value in loss.parts.items()},
            "gradient_at_a_feature": float(features.grad.norm(dim=1).mean()) * len(features),
            "gradient_of_the_backbone": length([weight.grad for weight in backbone]),
        }
    labels = torch.arange(len(bundled))
    report["at_the_anchors_mean"] = {}
    for centred in (False, True):
        vectors = torch.from_numpy(project_anchors(bundled, network.num_features, centred=centred))
        everywhere = vectors.mean(dim=0).expand(len(labels), -1)
        value = language_contrastive_loss(everywhere, labels, vectors, num_negatives=len(labels) - 1)
        report["at_the_anchors_mean"]["centred" if centred else "as they are"] = {
            part: float(number) for part, number in value._asdict().items()
        }
    print(json.dumps(report, indent=2))


def length(tensors: list[torch.Tensor]) -> float:
    """The length of all entries together."""
    return math.sqrt(sum(float(tensor.detach().square().sum()) for tensor in tensors))


if __name__ == "__main__":
    main()
