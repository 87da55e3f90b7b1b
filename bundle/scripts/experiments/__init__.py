# SPDX-License-Identifier: Apache-2.0
"""Suites of bundle runs, their tables, and the search for hyper-parameters. Drives configs; knows no network."""
