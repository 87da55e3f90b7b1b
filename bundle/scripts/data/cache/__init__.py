# SPDX-License-Identifier: Apache-2.0
"""Preprocessed volumes kept on disk."""
