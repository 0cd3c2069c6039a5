"""Readers of scans: ScanNet's files, read strictly and audited, and single files in the common formats."""

from lg3d_core.scans.audit import AuditReport, audit_folder
from lg3d_core.scans.formats.raw_folder import Problem
from lg3d_core.scans.ply import Mesh, read_ply, write_ply
from lg3d_core.scans.scannet import Scan, ScanFiles, find_scans, read_scan

__all__ = [
    "AuditReport",
    "Mesh",
    "Problem",
    "Scan",
    "ScanFiles",
    "audit_folder",
    "find_scans",
    "read_ply",
    "read_scan",
    "write_ply",
]
