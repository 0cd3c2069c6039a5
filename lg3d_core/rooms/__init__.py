"""Procedural furnished rooms, written exactly as raw scans come."""
