# SPDX-License-Identifier: Apache-2.0
"""Randomisation of whole batches on the training device: geometry, tissue, texture and acquisition of CT."""
