# SPDX-License-Identifier: Apache-2.0
"""Training data resident on the device: volumes of 16 or 8 bits, from which whole batches of crops are gathered."""
