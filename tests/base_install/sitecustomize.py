# SPDX-License-Identifier: Apache-2.0
"""MONAI as in the base installation, without packages of extras and of tests, in the processes that tests start.

MONAI imports them where they are installed, which takes ten of the twenty seconds of a start. Python imports this module at the
start of every process that has its folder on PYTHONPATH. The packages themselves can be imported as everywhere.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "bundle"))
from scripts.core.optional_packages import import_monai_lean

sys.path.pop()
for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
    del sys.modules[name]  # a process may have another copy of the code
import_monai_lean(("IPython", "mlflow", "onnx", "onnxruntime", "optuna", "pandas", "sklearn", "tifffile", "transformers"))
