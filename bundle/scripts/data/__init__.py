# SPDX-License-Identifier: Apache-2.0
"""Data: phantom, fracture simulation, datalists and their checks. Knows nothing of networks."""
