# SPDX-License-Identifier: Apache-2.0
"""``docs/images/monai_label.png``: a session with MONAI Label's server over REST, on a phantom, with the shipped weights.

python docs/make_label_picture.py --python .venv-label/bin/python       # `make label` builds that environment

The phantom is segmented, its truth submitted as the label, the network trained on that one label, and the phantom segmented again.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from pathlib import Path

import fire
import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "docs"), str(ROOT / "tests"), str(ROOT / "tests" / "label")]

import make_figures
from rest import Server
from scripts.simulation.datasets.phantom import phantom


def _dice(a: Path, b: Path) -> float:
    one, two = (np.asarray(nib.load(f).dataobj) == 1 for f in (a, b))
    return float(2 * np.count_nonzero(one & two) / max(np.count_nonzero(one) + np.count_nonzero(two), 1))


def main(python: str, seed: int = 4103, epochs: int = 20, out: str | None = None) -> None:
    """Run the session and draw it.

    Args:
        python: interpreter with MONAI Label.
        seed: of the phantom.
        epochs: of the training.
        out: PNG to write; docs/images/monai_label.png by default.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        phantom(str(folder / "data"), cases=3, seed=seed, regions=["cervical"], grades=[2, 3], healthy=0, spacing=[3.0, 1.0, 1.0])
        truth = min((folder / "data" / "labels").glob("*.nii.gz"))
        server = Server(str(Path(python).absolute()), folder / "data" / "images", folder / "app")
        try:
            study = truth.name.removesuffix(".nii.gz").removesuffix("_label")

            def segmented(name: str) -> Path:
                status, content = server.infer(study, "image")
                if status != 200:
                    raise SystemExit(f"{study}: the server returned {status}: {content.decode(errors='replace')[:300]}")
                file = folder / f"{name}.nii"
                file.write_bytes(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
                return file

            before = segmented("before")
            server.store(study, truth)
            status, lines = server.train(max_epochs=epochs)
            print(status, lines[-400:])
            after = segmented("after")
        finally:
            server.stop()
        print(f"DSC before {_dice(before, truth):.3f}, after {_dice(after, truth):.3f}")
        scan = min((folder / "data" / "images").glob("*.nii.gz"))
        masks = {"returned by the server": before, "submitted label": truth, "returned after training": after}
        make_figures.monai_label(str(scan), {title: str(file) for title, file in masks.items()}, out)


if __name__ == "__main__":
    fire.Fire(main)
