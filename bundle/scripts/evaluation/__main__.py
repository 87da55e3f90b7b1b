# SPDX-License-Identifier: Apache-2.0
"""Entry point of ``python -m scripts.evaluation``, run inside the bundle's folder."""

from ..commands import main

if __name__ == "__main__":
    main("evaluation")
