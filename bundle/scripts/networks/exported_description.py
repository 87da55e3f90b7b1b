# SPDX-License-Identifier: Apache-2.0
"""Description of weights inside exported models: TorchScript, ONNX and OpenVINO IR each have a place for texts."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..core.errors import InputError
from .weights_checksum import KEY, UNSEALED, seal
from .weights_description import ATTRIBUTE, WeightsDescription, parse_description

EXTRA_FILE = f"{ATTRIBUTE}.json"  # of a TorchScript archive


def add_to_onnx(path: Path, text: str | None) -> None:
    """Add the text, if there is one, and a checksum to the metadata of an ONNX file."""
    import onnx

    model = onnx.load(str(path))
    for key, value in ((ATTRIBUTE, text), (KEY, UNSEALED)):
        if value is not None:
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
    onnx.save(model, str(path))
    seal(path)


def _of_torchscript(file: Path) -> str | None:
    with zipfile.ZipFile(file) as archive:
        names = [n for n in archive.namelist() if n.endswith(f"/extra/{EXTRA_FILE}")]
        return archive.read(names[0]).decode("utf-8") if names else None


def _of_onnx(file: Path) -> str | None:
    """Text in an ONNX file, where a library that reads it is installed."""
    try:
        from onnxruntime import InferenceSession

        meta = InferenceSession(str(file), providers=["CPUExecutionProvider"]).get_modelmeta()
        return meta.custom_metadata_map.get(ATTRIBUTE)
    except ImportError:
        import onnx

        model: Any = onnx.load(str(file), load_external_data=False)
        return next((p.value for p in model.metadata_props if p.key == ATTRIBUTE), None)


def _of_openvino(file: Path) -> str | None:
    entry = ElementTree.parse(file).getroot().find(f"rt_info/{ATTRIBUTE}")
    return None if entry is None else entry.get("value")


READERS = {".ts": _of_torchscript, ".onnx": _of_onnx, ".xml": _of_openvino}


def exported_description(file: Path) -> WeightsDescription | None:
    """Description in an exported model; None where it has none, or cannot be read, which its runtime reports.

    Raises:
        InputError: for a description that is damaged, and for an ONNX file where no library reads it.
    """
    try:
        text = READERS[file.suffix.lower()](file)
    except ImportError:  # the file may run by OpenVINO alone, but on the wrong grid
        raise InputError(f"{file}: its description cannot be read without onnx or onnxruntime; pip install onnx") from None
    except Exception:  # of the reading libraries
        return None
    return None if text is None else parse_description(text, file)
