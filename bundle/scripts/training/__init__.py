# SPDX-License-Identifier: Apache-2.0
"""Losses, sampling, resume, checkpoints, history and tracking of a training run."""
