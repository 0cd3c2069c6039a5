"""Simulation of a hand-held depth camera in a synthetic room: path, frames, and fusion into a mesh."""
