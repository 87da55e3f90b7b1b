# SPDX-License-Identifier: Apache-2.0
"""Errors, files, paths, command lines and vertebra names: the base of all other packages."""
