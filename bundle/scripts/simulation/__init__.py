# SPDX-License-Identifier: Apache-2.0
"""Simulated CT: phantoms, renderings around real masks, and simulated fractures."""
