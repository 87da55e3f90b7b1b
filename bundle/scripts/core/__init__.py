# SPDX-License-Identifier: Apache-2.0
"""Errors, files, paths, command lines and vertebra names: what every other room stands on."""
