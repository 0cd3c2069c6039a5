"""One raw scan: the files of ScanNet, read strictly and audited."""
