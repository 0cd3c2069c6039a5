"""The MinkUNet family on the sparse engine, and its checkpoints."""

from lg3d_core.networks.minkunet import NETWORK_PLANS, MinkUNet, NetworkPlan

__all__ = ["NETWORK_PLANS", "MinkUNet", "NetworkPlan"]
