"""MinkUNet networks on the sparse convolution engine, and their checkpoints."""

from lg3d_core.networks.minkunet import NETWORK_PLANS, MinkUNet, NetworkPlan

__all__ = ["NETWORK_PLANS", "MinkUNet", "NetworkPlan"]
