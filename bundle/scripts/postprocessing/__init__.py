# SPDX-License-Identifier: Apache-2.0
"""From probabilities to findings: the one post-processing of training, evaluation, inference, tuning and MONAI Label."""
