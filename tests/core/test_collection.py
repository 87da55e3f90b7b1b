# SPDX-License-Identifier: Apache-2.0
"""Imports are left out of garbage collection, and nothing else is."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
from scripts.core.collection import imports_kept
from scripts.core.paths import BUNDLE

CHILD = """
import gc
from scripts.core.collection import imports_kept
collections = []
gc.callbacks.append(lambda phase, info: collections.append(phase))
with imports_kept():
    import numpy, scipy.ndimage, json.tool
assert not collections, collections
assert gc.isenabled()
kept = gc.get_freeze_count()
assert kept > 10000, kept
with imports_kept():
    import numpy
    garbage = []
    garbage.append(garbage)
    del garbage
assert gc.get_freeze_count() == kept
assert gc.collect() > 0
gc.disable()
with imports_kept():
    pass
assert not gc.isenabled()
"""


def test_imports_are_neither_searched_nor_collected():
    subprocess.run([sys.executable, "-c", CHILD], check=True, cwd=BUNDLE)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_failed_import_leaves_collection_as_it_was(enabled):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ModuleNotFoundError), imports_kept():
            import no_such_module_of_ours  # noqa: F401
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
