# SPDX-License-Identifier: Apache-2.0
"""Simulated vertebral fractures in any CT with vertebra masks."""
