# SPDX-License-Identifier: Apache-2.0
"""Data set of CTs rendered around spines of vertebra surfaces, with simulated fractures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ..anatomy.ribs import draw_ribs
from ..anatomy.spine import REGIONS, available_regions, make_spine
from ..anatomy.surfaces import folder_hash
from ..anatomy.templates import Template, read_templates
from ..bone_surface import CORTICES, sample_surface
from ..fracture.labels import training_label
from ..fracture.sampling import add_fractures
from ..phantom.shapes import Array
from ..phantom.vertebra import Grid
from ..rendering import render_ct
from ..spine_scan import SpineScan
from ..style import wide_style
from .phantom import ORIENTATIONS, uncertain_fractures
from .writer import GRADES, LabelledScan, SimulationCase, as_list, check_options, is_intact, write_dataset

GENERATOR = 3  # raised with every change of the scan of a seed, so that folders of two generators are not mixed
MIN_WIDTH_MM = 60.0  # of a scan that is cropped to the spine
FINE_MM = 1.4  # slices are rendered at most this thick, and averaged to those of the style


def _average_slices(scan: SpineScan, axis: int, count: int) -> SpineScan:
    """Scan with the mean of ``count`` slices along an axis, as a thick slice of a scanner, and the label of the middle one."""
    if count == 1:
        return scan
    size = scan.image.shape[axis] // count
    slices = np.moveaxis(scan.image, axis, 0)[: size * count]
    image = np.round(slices.reshape(size, count, *slices.shape[1:]).mean(axis=1)).astype(np.int16)
    labels = np.moveaxis(scan.labels, axis, 0)[count // 2 : size * count : count]
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, axis] * (count - 1) / 2
    affine[:3, axis] *= count
    return SpineScan(np.ascontiguousarray(np.moveaxis(image, 0, axis)), np.ascontiguousarray(np.moveaxis(labels, 0, axis)), affine)


def _crop(scan: SpineScan, centre: NDArray[np.float64], extent: Sequence[float]) -> SpineScan:
    """Scan cropped to at most ``extent`` mm along R and A around a world position."""
    region = []
    for axis in (0, 1):
        spacing, size = scan.affine[axis, axis], scan.image.shape[axis]
        keep = min(round(extent[axis] / spacing), size)
        start = round((centre[axis] - scan.affine[axis, 3]) / spacing - keep / 2)
        start = min(max(start, 0), size - keep)
        region.append(slice(start, start + keep))
    affine = scan.affine.copy()
    affine[:2, 3] += [r.start * affine[a, a] for a, r in enumerate(region)]
    box = tuple(region)
    return SpineScan(scan.image[box].copy(), scan.labels[box].copy(), affine)


def _mesh_case(
    templates: Mapping[str, Sequence[Template]],
    region: str,
    seed: Sequence[int],
    intact: bool,
    max_fractures: int,
    grades: Sequence[int],
    min_grade: int,
    noise: float | None,
    cortex: str = CORTICES[0],
) -> LabelledScan:
    """Scan of a spine of templates, with up to ``max_fractures`` simulated fractures."""
    rng = np.random.default_rng([*seed, 31])
    style = wide_style(rng, region)
    if noise is not None:
        style = replace(style, noise=float(noise))
    axis = int(np.argmax(style.spacing))
    count = int(np.ceil(style.spacing[axis] / FINE_MM)) | 1  # odd: labels are those of the middle slice
    spacing = [s / count if a == axis else s for a, s in enumerate(style.spacing)]
    spine = make_spine(rng, templates, region, style, spacing)

    def ribs(ribs_rng: np.random.Generator, grid: Grid, image: Array) -> None:
        draw_ribs(ribs_rng, grid, spine.poses, spine.sizes, style, image)

    # The mean of slices has less noise than each of them.
    fine = replace(style, noise=style.noise * float(np.sqrt(count)))
    scan_seed = int(rng.integers(2**31))
    scan = render_ct(spine.labels, spine.affine, fine, scan_seed, ribs, sample_surface(cortex, scan_seed))
    scan = _average_slices(scan, axis, count)
    # Cropped after the rendering, so that the border cuts tissue and bone as it does in scans.
    width, depth = max(style.field_of_view[0], MIN_WIDTH_MM), style.field_of_view[1]
    offset = np.array([0.0, 0.04 * depth]) + rng.normal(0, 5, 2)
    centre = np.mean([p.centre[:2] for p in spine.poses.values()], axis=0) + offset
    scan = _crop(scan, centre, (width, depth))
    fractures = 0 if intact else int(rng.integers(1, max_fractures + 1))
    scan = add_fractures(scan, rng, fractures, grades=grades)
    label = training_label(scan, ignored=uncertain_fractures(scan, min_grade))
    return LabelledScan(scan, label, orientation=str(rng.choice(ORIENTATIONS)))


def meshes(
    folder: str,
    out: str,
    cases: int = 24,
    seed: int = 0,
    regions: Sequence[str] | str | None = None,
    grades: Sequence[int] | int = GRADES,
    fractures: int = 3,
    healthy: float = 0.25,
    min_grade: int = 1,
    noise: float | None = None,
    cortex: str = CORTICES[0],
    workers: int = 1,
) -> str:
    """Render CTs around spines of real vertebra surfaces: true pedicles, facets and processes, random tissue.

    Reads STL and OBJ surfaces, or label maps, of T1 to S1 below FOLDER, one folder per person, morphs and articulates them, and
    writes images/, labels/, vertebrae/, vertebrae.csv and datalist.json into OUT, split 70/10/20. Finished cases are kept; rerun
    the same command to resume. Licences of the surfaces are those of their sources.

    Args:
        folder: folder with the surfaces, such as L3.stl or thoracic12.obj in mm or metres.
        out: folder to write to.
        cases: number of scans, each of a different spine; can be increased later; the split is then another one.
        seed: seed of the set, which does not depend on the number of workers.
        regions: regions in turn, thoracic, thoracolumbar, lumbar; those that the surfaces allow when not given.
        grades: Genant grades of the simulated fractures to sample from.
        fractures: maximum number of simulated fractures in a scan.
        healthy: fraction of scans without a fracture.
        min_grade: simulated fractures below this grade have the ignore index 255.
        noise: standard deviation of the noise in HU, 0 for data whose training adds noise; that of the style when not given.
        cortex: thin, a thin cortex at the surface of the masks; thick, as measured in real CT.
        workers: number of threads.

    Returns:
        Path of the datalist.
    """
    grades = as_list(grades)
    chosen = [str(r) for r in as_list(regions)] if regions is not None else []
    settings = {"grades": grades, "fractures": fractures, "healthy": healthy, "min_grade": min_grade, "noise": noise}
    check_options(
        {**settings, "cases": cases, "regions": chosen, "cortex": cortex, "seed": seed},
        {
            "cortex": (cortex in CORTICES, f"one of {', '.join(CORTICES)}"),
            "grades": (bool(grades) and set(grades) <= set(GRADES), "among 1, 2, 3"),
            "fractures": (fractures >= 1, "1 or more"),
            "healthy": (0 <= healthy <= 1, "a fraction from 0 to 1"),
            "min_grade": (min_grade in GRADES, "1, 2 or 3"),
            "noise": (noise is None or noise >= 0, "0 or more HU"),
            "seed": (seed >= 0, "0 or more"),
            "cases": (cases >= 3, "at least 3, one for each of training, validation and testing"),
            "regions": (set(chosen) <= set(REGIONS), f"among {', '.join(REGIONS)}"),
        },
    )
    templates = read_templates(str(folder))
    possible = available_regions(templates)
    for region in chosen or list(REGIONS)[:1]:
        if not possible or (chosen and region not in possible):
            raise InputError(
                f"{folder}: has no three adjacent vertebrae of the {region} spine; add surfaces, or pass other regions"
            )
    chosen = chosen or possible

    def case(k: int) -> SimulationCase:
        intact = is_intact(k, healthy, len(chosen))
        name, region = f"mesh-{seed}-{k:04d}", chosen[k % len(chosen)]
        make = partial(_mesh_case, templates, region, [seed, k], intact, fractures, grades, min_grade, noise, cortex)
        return SimulationCase(name, name, make)

    settings |= {"surfaces": folder_hash(folder), "regions": chosen, "seed": seed, "generator": GENERATOR}
    settings["cortex"] = None if cortex == CORTICES[0] else cortex  # None: also folders made before it
    description = "CTs rendered around spines of vertebra surfaces, with simulated fractures."
    return write_dataset([case(k) for k in range(cases)], out, settings, description, seed, workers, "spines of surfaces")
