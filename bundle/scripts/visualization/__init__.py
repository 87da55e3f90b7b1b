# SPDX-License-Identifier: Apache-2.0
"""Pictures of scans, masks and findings."""
