"""The HDF5 scene store: what it holds, how it is written, read and prepared, and label budgets."""
