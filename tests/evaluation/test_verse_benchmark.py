# SPDX-License-Identifier: Apache-2.0
"""``verse-benchmark``: counts against an independent count, incomplete downloads, splits, resuming, and one line for bad input."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from scripts.core.errors import InputError
from scripts.core.files import write_table
from scripts.core.genant import weighted_kappa
from scripts.core.vertebrae import LABELS, LEVELS
from scripts.data.datasets.grades import read_splits, split_of
from scripts.evaluation import verse_run
from scripts.evaluation.statistics import Estimate, wilson
from scripts.evaluation.verse_benchmark import MASKS, NETWORK, verse_benchmark
from scripts.evaluation.verse_cases import data_hash, find_benchmark_cases
from scripts.evaluation.verse_rates import benchmark_cells, from_grade, quadratic_kappa
from scripts.evaluation.vertebra_decisions import VertebraDecision
from scripts.io.formats import stem
from scripts.io.label_maps import read_label_map
from vertebra_files import record, renumbered, save, spine

GRADED = [LEVELS[v] for v in range(8, 26)]
LUMBAR = (20, 21, 22, 23)
MAIN = "per vertebra: grade 2 or 3 (main analysis)"


def write_grades(path, rows: dict[int, dict[int, object]], dataset: str = "test secret") -> str:
    """Table like appendix E1: grades by label by subject."""
    columns = ["verse_ID", "subject_ID", "dataset", *(f"{v}_fx-{k}" for k in "gs" for v in GRADED)]
    table = []
    for subject, grades in rows.items():
        row = {"verse_ID": subject, "subject_ID": subject, "dataset": dataset}
        table.append(row | {f"{LEVELS[v]}_fx-g": g for v, g in grades.items()})
    write_table(path, table, columns)
    return str(path)


def write_scan(root, subject: int, vertebrae: np.ndarray, ct: bool = True, mask: bool = True) -> None:
    name = f"sub-verse{subject:03d}"
    if ct:
        save(root / "rawdata" / name / f"{name}_ct.nii.gz", np.where(vertebrae > 0, 300, 0).astype(np.int16))
    if mask:
        save(root / "derivatives" / name / f"{name}_seg-vert_msk.nii.gz", vertebrae)


class FakeSegment:
    """Inference that finds the reference vertebrae but those in ``missed``, with probabilities ``p``, and fails on ``broken``."""

    def __init__(self, root) -> None:
        self.root, self.p, self.missed, self.broken = root, {}, set(), set()
        self.heights: dict[tuple[int, int], int] = {}
        self.calls: list[bool] = []

    def __call__(self, path, *, out, section, **options) -> list[dict]:
        entries, results, problems = json.loads(Path(path).read_text())[section], [], []
        self.calls.append("vertebrae" in entries[0])
        for entry in entries:
            case, masked = stem(entry["image"]), "vertebrae" in entry
            subject = int(re.findall(r"\d+", case)[0])
            if subject in self.broken and not masked:
                problems.append({"case": case, "input": entry["image"], "problem": f"{entry['image']}: is damaged"})
                continue
            name = case.removesuffix("_ct")
            labels = np.asarray(read_label_map(self.root / "derivatives" / name / f"{name}_seg-vert_msk.nii.gz").dataobj)
            found = [v for v in np.unique(labels) if v and (masked or (subject, v) not in self.missed)]
            numbers = {v: int(v) if masked else k for k, v in enumerate(found, 1)}
            records = [
                record(
                    n,
                    self.p.get((subject, v), 0.1),
                    label=int(v) if masked else None,
                    measured_grade=self.heights.get((subject, v)),
                )
                for v, n in numbers.items()
            ]
            instances = renumbered(labels, numbers)
            save(Path(out) / f"{case}_vertebrae.nii.gz", instances)
            flagged = [r.vertebra for r in records if r.fractured]
            save(Path(out) / f"{case}_fracture.nii.gz", np.isin(instances, flagged).astype(np.uint8))
            rows = [{**r.row(), "case": case} for r in records]
            results.append({"input": entry["image"], "case": case, "case_path": case, "vertebrae": rows})
        if problems:
            write_table(Path(out) / "problems.csv", problems, ("case", "input", "problem"))
        return results


@pytest.fixture
def fake(tmp_path, monkeypatch) -> FakeSegment:
    segment = FakeSegment(tmp_path / "verse")
    monkeypatch.setattr(verse_run, "segment", segment)
    return segment


def summary(out) -> dict:
    return json.loads((out / "summary.json").read_text())


def test_counts_equal_an_independent_count(tmp_path, fake):
    rng, grades = np.random.default_rng(1), {}
    for subject in range(1, 13):
        grades[subject] = {v: str(rng.choice(["0", "0", "1", "2", "3", "x", ""])) for v in LUMBAR}
        write_scan(fake.root, subject, spine(*LUMBAR))
        fake.p |= {(subject, v): float(rng.uniform()) for v in LUMBAR}
        fake.missed |= {(subject, v) for v in LUMBAR if rng.uniform() < 0.2}
        fake.heights |= {(subject, v): int(rng.integers(4)) for v in LUMBAR if rng.uniform() < 0.8}
    table = write_grades(tmp_path / "grades.csv", grades)
    verse_benchmark(str(fake.root), grades=table, out=str(tmp_path / "out"), samples=20)

    def flagged(key) -> bool:
        return key not in fake.missed and fake.p[key] >= 0.5

    known = {(s, v): int(g) for s, row in grades.items() for v, g in row.items() if g in ("0", "1", "2", "3")}
    content = summary(tmp_path / "out")
    run = content["runs"][NETWORK]
    sections = run["summary"]
    by_grade = sections["flagged, by grade of the readers"]
    for k in range(4):
        of_grade = [flagged(key) for key, g in known.items() if g == k]
        row = by_grade[f"grade {k}: flagged"]
        assert (row["events"], row["n"]) == (sum(of_grade), len(of_grade))
    for threshold, section in ((2, MAIN), (1, "per vertebra: grade 1 to 3")):
        positive = [flagged(key) for key, g in known.items() if g >= threshold]
        negative = [not flagged(key) for key, g in known.items() if g < threshold]
        for name, values in (("sensitivity", positive), ("specificity", negative)):
            row = sections[section][name]
            assert (row["events"], row["n"]) == (sum(values), len(values))
            low, high = wilson(sum(values), len(values))
            assert row["low"] <= low + 1e-6
            assert row["high"] >= high - 1e-6
    ranks = {key: -1.0 if key in fake.missed else fake.p[key] for key in known}
    pairs = [(ranks[a], ranks[b]) for a in known for b in known if known[a] >= 2 > known[b]]
    area = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    assert sections[MAIN]["auc"]["value"] == pytest.approx(area, abs=1e-4)
    patients = {s for s, _ in known}
    ill = {s for s in patients if any(g >= 2 for (t, _), g in known.items() if t == s)}
    marked = {s for s in patients if any(flagged(key) for key in known if key[0] == s)}
    row = sections["per patient: grade 2 or 3 (main analysis)"]
    assert (row["sensitivity"]["events"], row["sensitivity"]["n"]) == (len(ill & marked), len(ill))
    assert (row["specificity"]["events"], row["specificity"]["n"]) == (len(patients - ill - marked), len(patients - ill))
    instances = sections["vertebra instances"]
    assert (instances["recall"]["events"], instances["recall"]["n"]) == (48 - len(fake.missed), 48)
    assert instances["DSC per matched vertebra"]["value"] == 1
    assert len(run["listed"]["not found (no matching instance)"]) == len(fake.missed)
    both = [(g, fake.heights[k]) for k, g in known.items() if k not in fake.missed and k in fake.heights]
    kappa = sections["measured grade against that of the readers"]["weighted kappa (quadratic)"]
    assert (kappa["value"], kappa["n"]) == (pytest.approx(weighted_kappa(*zip(*both, strict=True)), abs=1e-4), len(both))
    for row in run["grade_table"]:
        cells = list(row.values())
        assert sum(cells[1:7]) == cells[7] == sum(g == int(cells[0][-1]) for g in known.values())
    values = [g for row in grades.values() for g in row.values()]
    assert f"{len(known)} with a grade; {values.count('x')} with foreign material (x) and {values.count('')} without" in " ".join(
        content["account"]
    )
    rows = list(csv.DictReader((tmp_path / "out" / "network_tables" / "vertebrae.csv").open()))
    assert len(rows) == 48
    assert sum(r["missed"] == "1" for r in rows) == len(fake.missed)


def test_incomplete_scans_are_left_out_with_the_reason(tmp_path, fake):
    vertebrae = spine(*LUMBAR)
    write_scan(fake.root, 1, vertebrae)
    write_scan(fake.root, 2, vertebrae, ct=False)
    write_scan(fake.root, 3, vertebrae, mask=False)
    write_scan(fake.root, 4, vertebrae)  # without a row
    write_scan(fake.root, 5, vertebrae, mask=False)
    save(fake.root / "derivatives" / "sub-verse005" / "sub-verse005_seg-vert_msk.nii.gz", vertebrae[:, :, 1:])
    write_scan(fake.root, 6, vertebrae)
    (fake.root / "rawdata" / "sub-verse006" / "sub-verse006_ct.nii.gz").write_bytes(b"cut off")
    table = write_grades(tmp_path / "grades.csv", {k: dict.fromkeys((*LUMBAR, 19), 0) for k in (1, 2, 3, 5, 6, 7)})
    page = verse_benchmark(str(fake.root), grades=table, out=str(tmp_path / "out"), split="all", samples=20)
    rows = {r["case"]: r for r in csv.DictReader((tmp_path / "out" / "scans.csv").open())}
    assert [k for k, r in rows.items() if r["used"] == "1"] == ["sub-verse001"]
    expected = {2: "no CT", 3: "no mask of vertebrae", 4: "no row in the table of grades", 5: "shape", 7: "no file in the folder"}
    assert all(words in rows[f"sub-verse{k:03d}"]["reason"] for k, words in expected.items())
    assert "sub-verse006_ct.nii.gz" in rows["sub-verse006"]["reason"]
    assert rows["sub-verse001"]["graded_not_in_mask"] == "T12"
    text = Path(page).read_text(encoding="utf-8")
    assert "research use only" in text
    assert "n too small" in text
    assert re.search(r"<td>model\.pt \([0-9a-f]{12}\)</td>", text)
    assert re.search(r"Version</th><td>\d+\.\d+\.\d+\S*</td>", text)
    assert text.index('class="headline"') < text.index('<table class="runs')
    assert set(re.findall(r'(?:src|href)="([^,"]*)', text)) <= {"data:image/png;base64"}


def test_a_failed_scan_costs_that_scan_in_both_runs(tmp_path, fake):
    for subject in (1, 2, 3):
        write_scan(fake.root, subject, spine(*LUMBAR))
    fake.broken, fake.missed, fake.p = {2}, {(1, 21)}, {(1, 20): 0.9, (3, 21): 0.8}
    table = write_grades(tmp_path / "grades.csv", {1: {20: 3, 21: 2}, 2: {20: 0}, 3: {20: 0, 21: 1}})
    verse_benchmark(str(fake.root), grades=table, out=str(tmp_path / "out"), with_masks=True, samples=20)
    content = summary(tmp_path / "out")
    assert fake.calls == [False, True]
    assert "damaged" in content["left_out"]["sub-verse002"]
    assert {run["cases"] for run in content["runs"].values()} == {2}
    network, masks = (content["runs"][name]["summary"] for name in (NETWORK, MASKS))
    assert (network[MAIN]["sensitivity"]["events"], masks[MAIN]["sensitivity"]["events"]) == (1, 1)
    assert network["per vertebra: grade 1 to 3"]["missed vertebrae"]["events"] == 1
    assert masks["per vertebra: grade 1 to 3"]["missed vertebrae"]["events"] == 0
    assert "vertebra instances" not in masks


def test_flagged_instances_without_a_vertebra_are_listed(tmp_path, fake, monkeypatch):
    write_scan(fake.root, 1, spine(*LUMBAR))
    table = write_grades(tmp_path / "grades.csv", {1: dict.fromkeys(LUMBAR, 0)})
    wrong = renumbered(spine(*LUMBAR), {20: 1, 21: 2, 22: 2, 23: 3})  # two vertebrae in one instance

    def merged(path, *, out, section, **options) -> list[dict]:
        result = fake(path, out=out, section=section)[0]
        save(tmp_path / "out" / "network" / "sub-verse001_ct_vertebrae.nii.gz", wrong)
        rows = [{**record(n, 0.9 if n == 2 else 0.1).row(), "case": "sub-verse001_ct"} for n in (1, 2, 3)]
        return [{**result, "vertebrae": rows}]

    monkeypatch.setattr(verse_run, "segment", merged)
    verse_benchmark(str(fake.root), grades=table, out=str(tmp_path / "out"), samples=20)
    run = summary(tmp_path / "out")["runs"][NETWORK]
    listed = [(u["instance"], u["result"]) for u in run["flagged_without_vertebra"]]
    assert listed == [(2, "false positive")]
    assert run["summary"][MAIN]["specificity"]["events"] == 4


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("dataset-verse19test", "testing"),
        ("01_training", "training"),
        ("dataset-02validation", "validation"),
        ("validation public", "validation"),
        ("test secret", "testing"),
        ("Verse20", ""),
        ("latest", ""),
        ("rawdata", ""),
    ],
)
def test_split_of_a_name(name, split):
    assert split_of(name) == split


def test_split_by_folder_before_that_of_the_table(tmp_path):
    root = tmp_path / "verse"
    write_scan(root / "dataset-verse19training", 1, spine(*LUMBAR))
    write_scan(root / "dataset-verse19test", 2, spine(*LUMBAR))
    write_scan(root / "other", 3, spine(*LUMBAR))
    table = write_grades(tmp_path / "grades.csv", {k: {20: 0} for k in (1, 2, 3)}, "validation public")
    assert set(read_splits(table).values()) == {"validation"}
    for split, expected in {"training": [1], "testing": [2], "validation": [3], "all": [1, 2, 3]}.items():
        assert [c.name for c in find_benchmark_cases(str(root), table, split)] == [f"sub-verse{k:03d}" for k in expected]


def test_data_hash_follows_the_data_and_not_the_folder(tmp_path):
    write_scan(tmp_path / "a", 1, spine(*LUMBAR))
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "deeper")
    tables = [write_grades(tmp_path / f"{k}.csv", {1: {20: k}}) for k in (0, 1)]
    one, same = (data_hash(find_benchmark_cases(str(tmp_path / f), tables[0], "all")) for f in "ab")
    assert one == same
    assert one != data_hash(find_benchmark_cases(str(tmp_path / "a"), tables[1], "all"))


def test_bad_input_is_one_line(tmp_path, fake):
    out, root = str(tmp_path / "out"), fake.root
    table = write_grades(tmp_path / "grades.csv", {1: {20: 0}, 2: {20: 0}})
    with pytest.raises(InputError, match="no such folder"):
        verse_benchmark(str(root), grades=table, out=out)
    save(root / "verse004.nii.gz", np.zeros((4, 4, 4), np.int16))
    with pytest.raises(InputError, match="MICCAI challenges"):
        verse_benchmark(str(root), grades=table, out=out)
    (root / "verse004.nii.gz").unlink()
    with pytest.raises(InputError, match="contains no file like"):
        verse_benchmark(str(root), grades=table, out=out)
    write_scan(root, 2, spine(*LUMBAR), ct=False)
    with pytest.raises(InputError, match=r"none of 1 case\(s\) of split 'testing' has CT, mask and grades \(sub-verse002: no CT"):
        verse_benchmark(str(root), grades=table, out=out)
    write_scan(root, 2, spine(*LUMBAR))
    with pytest.raises(InputError, match="has no case of split 'training', but 1 testing"):
        verse_benchmark(str(root), grades=table, out=out, split="training")
    with pytest.raises(InputError, match="split='test': must be one of"):
        verse_benchmark(str(root), grades=table, out=out, split="test")
    with pytest.raises(InputError, match="no such checkpoint"):
        verse_benchmark(str(root), grades=table, out=out, checkpoint="none.pt")
    with pytest.raises(InputError, match="no such grading table"):
        verse_benchmark(str(root), grades=str(tmp_path / "none.xlsx"), out=out)
    with pytest.raises(InputError, match="samples=0"):
        verse_benchmark(str(root), grades=table, out=out, samples=0)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is it appendix E1"):
        verse_benchmark(str(root), grades=str(tmp_path / "other.csv"), out=out)
    assert not (tmp_path / "out" / "report.html").exists()


def test_intervals_that_need_more_patients_are_not_printed():
    nan = float("nan")
    assert benchmark_cells("brier", Estimate(0.5, nan, nan, 40, 9))[0] == "0.500 (n too small)"
    assert benchmark_cells("brier", Estimate(0.5, nan, nan, 40, 10))[0] == "0.500 (no spread)"
    assert benchmark_cells("brier", Estimate(0.5, 0.4, 0.6, 40, 10))[0] == "0.500 (0.400 to 0.600)"
    assert benchmark_cells("wedge: auc", Estimate(0.5, 0.4, 0.6, 40, 9))[0] == "0.500 (0.400 to 0.600)"
    assert benchmark_cells("x", Estimate(float("nan"), float("nan"), float("nan"), 0, 0))[0] == "-"


def test_kappa_of_equal_gradings_and_of_chance():
    def decisions(pairs) -> list[VertebraDecision]:
        return [
            VertebraDecision(str(k), str(k), 20, None, r, record=record(1, 0.5, measured_grade=m)) for k, (r, m) in enumerate(pairs)
        ]

    assert quadratic_kappa(decisions([(k, k) for k in range(4)] * 3), 50).value == pytest.approx(1)
    assert quadratic_kappa(decisions([(r, m) for r in range(4) for m in range(4)]), 50).value == pytest.approx(0)
    assert [d.fractured for d in from_grade(decisions([(0, 0), (1, 0), (2, 0)]), 2)] == [False, False, True]


def test_network_without_masks_and_resuming(tmp_path, phantom_set, monkeypatch):
    from scripts.data.vertebra_table import rows_by_case
    from scripts.inference import cohort

    root, masks, real = tmp_path / "dataset-verse19test", [], cohort.segment_case
    rows = rows_by_case(phantom_set / "vertebrae.csv")

    def counted(source, base, pipeline, outputs, vertebrae, *rest):
        masks.append((base.name, vertebrae))
        return real(source, base, pipeline, outputs, vertebrae, *rest)

    monkeypatch.setattr(cohort, "segment_case", counted)
    grades: dict[int, dict[int, object]] = {}
    for k, image in enumerate(sorted((phantom_set / "images").glob("*.nii.gz"))[:2], 1):
        grades[k] = {v: row.get("grade") or 0 for v, row in rows[stem(image)].items() if v != LABELS["S1"]}
    table, runs = write_grades(tmp_path / "grades.csv", grades), []
    for k, image in enumerate(sorted((phantom_set / "images").glob("*.nii.gz"))[:2], 1):
        name = f"sub-verse{k:03d}"
        (root / "rawdata").mkdir(parents=True, exist_ok=True)
        shutil.copy(image, root / "rawdata" / f"{name}_ct.nii.gz")
        shutil.copy(phantom_set / "vertebrae" / image.name, root / "rawdata" / f"{name}_seg-vert_msk.nii.gz")
        verse_benchmark(str(root), grades=table, out=str(tmp_path / "out"), samples=20, runtime="torch")
        runs.append(summary(tmp_path / "out"))
    # The finished scan is not segmented again, and no scan comes with its mask.
    assert masks == [("sub-verse001_ct", None), ("sub-verse002_ct", None)]
    assert [sum(row["all"] for row in run["runs"][NETWORK]["grade_table"]) for run in runs] == [
        len(grades[1]),
        len(grades[1]) + len(grades[2]),
    ]
    assert runs[0]["data_sha256"] != runs[1]["data_sha256"]
    assert runs[0]["weights_sha256"] == runs[1]["weights_sha256"]
    assert len(next(iter(runs[0]["weights_sha256"].values()))) == 64
    rows_first = [
        r for r in csv.DictReader((tmp_path / "out" / "network_tables" / "vertebrae.csv").open()) if r["case"].endswith("1")
    ]
    assert len(rows_first) == len(grades[1])


def test_real_scans_are_found_with_their_grades():
    root, table = SHARED / "data" / "verse19", SHARED / "data" / "grading" / "loeffler2020_appendixE1_VerSe_dataset.csv"
    if not (root.is_dir() and table.is_file()):
        pytest.skip(f"real scans and grades are not at {root}")
    used = [c for c in find_benchmark_cases(str(root), str(table), "training") if not c.reason]
    assert {c.name for c in used} >= {"sub-verse006", "sub-verse007"}
    grades = next(c.grades for c in used if c.name == "sub-verse007")
    assert grades is not None
    assert {LEVELS[v]: g.grade for v, g in grades.items() if g.grade} == {"T12": 2, "L1": 2}
    assert {read_splits(table)[c] for c in ("sub-verse012", "sub-verse006")} == {"testing", "training"}
