"""Language-grounded sparse 3D networks: raw scans to a store, text anchors, training, scores, pictures."""

__version__ = "0.1.0"
