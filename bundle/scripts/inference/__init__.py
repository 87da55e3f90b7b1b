# SPDX-License-Identifier: Apache-2.0
"""Inputs and pictures of inference."""
