# SPDX-License-Identifier: Apache-2.0
"""Provenance of results: hashes of files, versions of packages, revision of the code."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from .paths import BUNDLE

PACKAGES = ("torch", "monai", "numpy", "scipy", "nibabel", "pytorch-ignite")


def file_hash(path: str | Path, files: Iterable[Path] | None = None) -> str:
    """SHA-256 of a file, or of the names and files of a folder, in hexadecimal.

    Args:
        path: file or folder.
        files: files of the folder that count; all by default.
    """
    path, digest = Path(path), hashlib.sha256()
    counted = [f for f in path.rglob("*") if f.is_file()] if files is None else files
    for file in sorted(counted) if path.is_dir() else [path]:
        digest.update(file.relative_to(path).as_posix().encode() if path.is_dir() else b"")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def version() -> str:
    """Version of the bundle, from its metadata."""
    return str(json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"])


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    packages = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return packages


def revision() -> dict[str, object]:
    """SHA-256 of the scripts and configs of the bundle, and its git revision with a flag for uncommitted changes."""
    facts: dict[str, object] = {}
    digest = hashlib.sha256()
    for folder in ("scripts", "configs"):
        for file in sorted(f for f in (BUNDLE / folder).rglob("*") if f.suffix in (".py", ".yaml", ".json", ".conf")):
            digest.update(file.relative_to(BUNDLE).as_posix().encode())
            digest.update(file.read_bytes())
    facts["bundle_sha256"] = digest.hexdigest()
    try:
        git = ["git", "-C", str(BUNDLE)]
        # An installed package may lie in an environment inside another project's repository.
        subprocess.run([*git, "ls-files", "--error-unmatch", "configs/metadata.json"], capture_output=True, check=True)
        facts["git"] = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=True, text=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, check=True, text=True).stdout
        facts["git_changed"] = bool(changed.strip())
    except (OSError, subprocess.CalledProcessError):
        facts["git"] = "no git repository"
    return facts
