"""The values that options of a fixed set take. Each set is written here alone; help, completion and checks read it."""

from typing import Annotated, Literal

from lg3d_core.settings.fields import Words

NetworkName = Literal["34D", "34C", "18C", "18A", "14A"]
DEVICES = Words(("auto", "cpu", "cuda"), pattern="cuda:[0-9]{1,3}", shown="cuda:N")
Device = Annotated[str, DEVICES]
BackendName = Literal["native", "torch", "triton", "minkowski", "reference"]
Backend = Literal["auto", BackendName]
BenchBackend = Literal["all", BackendName]
PeerName = Literal["minkowski", "spconv", "spconv-triton"]
BenchPeer = Literal["all", "none", PeerName]
Precision = Literal["auto", "fp32", "bf16"]
CheckpointForm = Literal["auto", "lg3d", "minkowski"]
Method = Literal["language", "supcon", "csc"]
Distance = Literal["cosine", "l1", "l2", "mse"]
Contrast = Literal["margin", "softmax"]
Hinge = Literal["per-negative", "mean-first"]
Pooling = Literal["mean", "end-of-text"]
Order = Literal["likeness", "groups"]
Loss = Literal["cross-entropy", "weighted-cross-entropy", "focal", "class-balanced-focal"]
Alpha = Literal["inverse-log", "paper"]
Partition = Literal["directions", "fast"]
Classifier = Literal["fresh", "anchors", "fixed-anchors"]
Task = Literal["semantic", "instance"]
Schedule = Literal["step", "cosine"]
RawFormat = Literal["auto", "scannet", "pointcept", "labelled", "s3dis", "scannetpp", "replica", "arkitscenes"]
Split = Literal["train", "val", "test"]
ClassTexts = Literal["names", "descriptions", "both"]
VocabularyAction = Literal["show", "check", "from-store"]
PredictionTask = Literal["auto", "semantic", "instance"]
ScoredClasses = Literal["present", "all"]
Optimiser = Literal["sgd", "adamw"]
Up = Literal["auto", "x", "-x", "y", "-y", "z", "-z"]
PredictionFormat = Literal["ply", "npz", "txt", "html"]
HeatFormat = Literal["ply", "npz"]
Benchmark = Literal["maps", "layers", "layers-train", "forward", "train"]
