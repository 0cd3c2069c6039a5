"""Write the hashes of requirements*.lock: those of the files that pip selects on Linux x86-64, for each Python.

Usage: python .ci/lock.py [PYTHON ...], by default python3.11 and python3.12. Change versions in the lock files first.
Hashes that are already there are kept. requirements-cpu.lock is edited by hand.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [ROOT / f"requirements{part}.lock" for part in ("", "-base", "-dev", "-docs")]
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)(?: \\\n(?: +--hash=\S+(?: \\\n)?)+)?", re.MULTILINE)


def canonical(name: str) -> str:
    """Return a package's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def selected_hashes(python: str, files: list[Path]) -> dict[str, str]:
    """Return the SHA-256 of the file that pip selects for each pinned package, by name."""
    pins = [f"{found[1]}=={found[2]}" for file in files for found in PIN.finditer(file.read_text())]
    with tempfile.TemporaryDirectory() as folder:
        wanted, report = Path(folder) / "pins.txt", Path(folder) / "report.json"
        wanted.write_text("\n".join(sorted(set(pins))))
        options = ["--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", str(report)]
        subprocess.run([python, "-m", "venv", f"{folder}/venv"], check=True)
        subprocess.run(
            [f"{folder}/venv/bin/pip", "install", "--quiet", "--upgrade", "pip"], check=True
        )  # reads metadata alone
        subprocess.run([f"{folder}/venv/bin/pip", "install", *options, "--requirement", str(wanted)], check=True)
        installed = json.loads(report.read_text())["install"]
    return {
        canonical(item["metadata"]["name"]): item["download_info"]["archive_info"]["hashes"]["sha256"]
        for item in installed
    }


def main(pythons: list[str]) -> None:
    """Rewrite the lock files."""
    hashes: dict[str, set[str]] = defaultdict(set)
    for python in pythons:
        for name, digest in selected_hashes(python, FILES).items():
            hashes[name].add(digest)

    def rewrite(found: re.Match[str]) -> str:
        digests = hashes[canonical(found[1])] | set(re.findall(r"sha256:(\w+)", found[0]))
        return " \\\n".join([f"{found[1]}=={found[2]}", *(f"    --hash=sha256:{digest}" for digest in sorted(digests))])

    for file in FILES:
        file.write_text(PIN.sub(rewrite, file.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:] or ["python3.11", "python3.12"])
