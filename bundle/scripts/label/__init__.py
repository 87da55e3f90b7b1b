# SPDX-License-Identifier: Apache-2.0
"""What MONAI Label needs: a study read and segmented as ``inference`` does it, and a server to start."""
