# SPDX-License-Identifier: Apache-2.0
"""Parts of ``benchmarks/gpu.py``: each measures one aspect of a device in a process of its own and reports rows of tables."""
