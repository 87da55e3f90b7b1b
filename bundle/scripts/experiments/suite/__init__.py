# SPDX-License-Identifier: Apache-2.0
"""Suites: YAML files of runs that belong to one table; running, recording, comparing and reproducing them."""
