# SPDX-License-Identifier: Apache-2.0
"""nnU-Net v2's 2D training of this bundle's network, a pipeline of ``benchmarks/training.py``.

It runs in another Python. All that is measured are nnU-Net's classes: ``nnUNetDatasetBlosc2``, ``nnUNetDataLoader``, augmentation
and its processes as in ``nnUNetTrainer``, loss, optimizer and ``train_step``. The network and the plans are replaced: patch size,
batch size and fraction of slices through a fracture are those of this bundle, and scans are resampled beforehand.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import fire
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
NAME = "Dataset001_spine"
DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "fracture": 1}, "numTraining": 0, "file_ending": ".nii.gz"}


def _settings(overrides: Any) -> dict[str, Any]:
    """Ids of train.yaml from JSON, which Fire may have parsed already."""
    return overrides if isinstance(overrides, dict) else json.loads(overrides)


def plans(patch: list[int], batch: int) -> dict[str, Any]:
    """nnU-Net's plans of a 2D configuration; entries for its planner and preprocessor are placeholders."""
    resample = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "plans_2d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch,
        "patch_size": patch,
        "median_image_size_in_voxels": patch,
        "spacing": [1.0, 1.0],
        "normalization_schemes": ["NoNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resample,
        "resampling_fn_seg_kwargs": {**resample, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resample,
        "architecture": {"network_class_name": "replaced", "arch_kwargs": {}, "_kw_requires_import": []},
        "batch_dice": True,
    }
    return {
        "dataset_name": NAME,
        "plans_name": "plans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [100, *patch],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"2d": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
        "continue_training": False,
    }


def preprocess(arrays: Path, folder: Path, patch: list[int]) -> None:
    """Write scans as nnU-Net's preprocessor: chunks for the patch size, and coordinates of the foreground."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    folder.mkdir(parents=True)
    for path in sorted(arrays.glob("*.npz")):
        with np.load(path) as case:
            image, label = case["image"].astype(np.float32), (case["label"] == 1).astype(np.int8)
        locations = DefaultPreprocessor._sample_foreground_locations(label, [1])
        blocks, chunks = comp_blosc2_params(image.shape, patch, image.itemsize)
        blocks_label, chunks_label = comp_blosc2_params(label.shape, patch, label.itemsize)
        properties = {"class_locations": locations, "spacing": [1.0, 1.0, 1.0]}
        nnUNetDatasetBlosc2.save_case(image, label, properties, str(folder / path.stem), chunks, blocks, chunks_label, blocks_label)


def measure(work: str, steps: int, warm_up: int, overrides: Any = "{}") -> None:
    """Train and print a line of JSON with seconds of waiting, seconds of computing and slices of every step.

    Args:
        work: folder with ``arrays`` from ``benchmarks/training.py export``.
        steps: measured steps.
        warm_up: steps before those.
        overrides: ids of train.yaml.
    """
    work = str(Path(work).resolve())
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = f"{work}/{name}"
    os.chdir(ROOT / "bundle")
    sys.path.insert(0, ".")
    import torch
    from monai.bundle import ConfigParser
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    parser = ConfigParser()
    parser.read_config("configs/train.yaml")
    for key, value in {"bundle_root": ".", **_settings(overrides)}.items():
        parser[key] = value
    patch = list(parser.get_parsed_content("patch_size"))

    class Trainer(nnUNetTrainer):
        """nnU-Net's trainer with the network of train.yaml."""

        @staticmethod
        def build_network_architecture(*args: Any, **kwargs: Any) -> torch.nn.Module:
            """Network of train.yaml."""
            return parser.get_parsed_content("network_def")

        def do_split(self) -> tuple[list[str], list[str]]:
            """Train on all cases; nnU-Net requires a validation case, which is not used here."""
            names = sorted(p.stem for p in Path(work, "arrays").glob("*.npz"))
            return names, names[:1]

    folder = Path(work, "preprocessed", NAME, "plans_2d")
    if not folder.is_dir():
        preprocess(Path(work, "arrays"), folder, patch)
    Path(work, "preprocessed", NAME, "dataset.json").write_text(json.dumps(DATASET))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stdout, sys.stdout = sys.stdout, sys.stderr  # lines of nnU-Net
    trainer = Trainer(plans(patch, parser.get_parsed_content("batch_size")), "2d", 0, DATASET, device)
    trainer.enable_deep_supervision = False  # one output
    trainer.oversample_foreground_percent = 0.5
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.dataloader_val._finish()
    trainer.on_train_epoch_start()
    rows = []
    for _ in range(steps + warm_up):
        begin = time.perf_counter()
        batch = next(trainer.dataloader_train)
        ready = time.perf_counter()
        trainer.train_step(batch)  # reads the loss, which synchronises the device
        rows.append([ready - begin, time.perf_counter() - ready, len(batch["data"])])
    trainer.dataloader_train._finish()
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    stdout.write(json.dumps({"rows": rows[warm_up:], "gpu_mib": gpu}) + "\n")
    stdout.flush()
    os._exit(0)  # the augmentation threads deadlock at exit


if __name__ == "__main__":
    fire.Fire(measure)
