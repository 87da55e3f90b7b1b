# SPDX-License-Identifier: Apache-2.0
"""MONAI Label: its server with this bundle, and its app."""
