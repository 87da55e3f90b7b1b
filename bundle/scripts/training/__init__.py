# SPDX-License-Identifier: Apache-2.0
"""What a training run needs beside MONAI's engines: checks before the start, weights, history."""
