# SPDX-License-Identifier: Apache-2.0
"""Suites of bundle runs with their tables, and the search for hyper-parameters: processes that run configs, no networks."""
