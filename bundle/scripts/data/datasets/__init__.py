# SPDX-License-Identifier: Apache-2.0
"""Converters of public data sets and of the user's own folders."""
