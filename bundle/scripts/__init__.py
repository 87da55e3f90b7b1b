# SPDX-License-Identifier: Apache-2.0
"""Code of the bundle; the configs name it as ``scripts.…``."""
