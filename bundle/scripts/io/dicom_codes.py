# SPDX-License-Identifier: Apache-2.0
"""Coded concepts of the DICOM objects: levels of vertebrae, properties of segments, names of measurements.

The levels are the context group CID 7603 "Vertebra" of DICOM PS3.16, which has no code of L6 and T13. Concepts of the private
scheme ``PRIVATE_SCHEME`` are those for which neither PS3.16 nor its context groups have a code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

PRIVATE_SCHEME = "99SPINEFRAC"
PRIVATE_SCHEME_NAME = "Measurements of vertebrae of spine_fracture_ct_segmentation, research use only"


class Concept(NamedTuple):
    """Code value, coding scheme and meaning."""

    value: str
    scheme: str
    meaning: str

    def code(self) -> Any:
        """Return the concept as pydicom's ``Code``."""
        from pydicom.sr.coding import Code

        return Code(self.value, self.scheme, self.meaning)


def _private(value: str, meaning: str) -> Concept:
    return Concept(value, PRIVATE_SCHEME, meaning)


_CID_7603 = {
    "C1": "14806007", "C2": "39976000", "C3": "113205007", "C4": "5329002", "C5": "36978003", "C6": "36054005", "C7": "87391001",
    "T1": "64864005", "T2": "53733008", "T3": "1626008", "T4": "73071006", "T5": "56401006", "T6": "45296009",
    "T7": "62487009", "T8": "11068009", "T9": "82687006", "T10": "7610001", "T11": "12989004", "T12": "23215003",
    "L1": "66794005", "L2": "14293000", "L3": "36470004", "L4": "11994002", "L5": "49668003",
}  # fmt: skip
VERTEBRA = Concept("51282000", "SCT", "Vertebra")
SACRUM = Concept("54735007", "SCT", "Sacrum")
LEVEL_CONCEPTS = {**{level: Concept(value, "SCT", f"{level} vertebra") for level, value in _CID_7603.items()}, "S1": SACRUM}

ANATOMICAL_STRUCTURE = Concept("91723000", "SCT", "Anatomical Structure")
ABNORMAL_STRUCTURE = Concept("49755003", "SCT", "Morphologically Abnormal Structure")
FRACTURE = Concept("72704001", "SCT", "Fracture")
ARTIFICIAL_INTELLIGENCE = Concept("123110", "DCM", "Artificial Intelligence")

CT = Concept("25045-6", "LN", "CT unspecified body region")
COMMENT = Concept("121106", "DCM", "Comment")
MEAN = Concept("373098007", "SCT", "Mean")
STANDARD_DEVIATION = Concept("386136009", "SCT", "Standard Deviation")
MINIMUM = Concept("255605001", "SCT", "Minimum")
MAXIMUM = Concept("56851009", "SCT", "Maximum")
ANTERIOR = Concept("255549009", "SCT", "Anterior")
MIDDLE = Concept("C25569", "NCIt", "Middle")
POSTERIOR = Concept("255551008", "SCT", "Posterior")
PRESENT = Concept("52101004", "SCT", "Present")
ABSENT = Concept("272519000", "SCT", "Absent")
YES = Concept("373066001", "SCT", "Yes")
NO = Concept("373067005", "SCT", "No")

MILLIMETER = Concept("mm", "UCUM", "mm")
CUBIC_CENTIMETER = Concept("cm3", "UCUM", "cubic centimeter")
HOUNSFIELD_UNIT = Concept("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Concept("%", "UCUM", "Percent")
NO_UNITS = Concept("1", "UCUM", "no units")

# Three heights named by one standard code, (121207, DCM, "Height"), differ by their finding sites alone, which most readers drop.
ANTERIOR_HEIGHT = _private("HEIGHT_ANTERIOR", "Anterior height of vertebral body")
MIDDLE_HEIGHT = _private("HEIGHT_MIDDLE", "Middle height of vertebral body")
POSTERIOR_HEIGHT = _private("HEIGHT_POSTERIOR", "Posterior height of vertebral body")
LOSS_FROM_NEIGHBOURS = _private("LOSS_NEIGHBOURS", "Loss of height against intact neighbours")
LOSS_FROM_POSTERIOR = _private("LOSS_POSTERIOR", "Loss of height against own posterior height")
LARGER_LOSS = _private("LOSS_LARGER", "Larger of the losses of height")
GENANT_GRADE = _private("GENANT_GRADE", "Genant grade by measured height")
FRACTURE_PROBABILITY = _private("PROBABILITY", "Fracture probability of the network")
NETWORK_DECISION = _private("DECISION", "Fracture by decision of the network")
TRABECULAR_ATTENUATION = _private("TRABECULAR_HU", "Attenuation of trabecular bone of vertebral body")
BODY_VOLUME = _private("BODY_VOLUME", "Volume of vertebral body")
VOLUME = Concept("118565006", "SCT", "Volume")
SHAPE = Concept("300842002", "SCT", "Shape")
LEVEL_SOURCE = _private("LEVEL_SOURCE", "Source of the vertebral level")
WHOLE = _private("WHOLE", "Whole vertebra is within the scan")

# Genant's names of the grades 0 to 3: normal, mild, moderate, severe (doi:10.1002/jbmr.5650080915).
GRADE_CONCEPTS = {
    0: Concept("17621005", "SCT", "Normal"),
    1: Concept("255604002", "SCT", "Mild"),
    2: Concept("6736007", "SCT", "Moderate"),
    3: Concept("24484000", "SCT", "Severe"),
}
SHAPE_CONCEPTS = {
    "wedge": Concept("20446002", "SCT", "Wedge-shaped"),
    "biconcave": _private("BICONCAVE", "Biconcave"),
    "crush": _private("CRUSH", "Crush"),
}
LEVEL_SOURCE_CONCEPTS = {
    "mask": _private("MASK", "Given mask of vertebrae"),
    "guess": _private("GUESS", "Guess, counted from the sacrum"),
}


def level_concept(level: str) -> Concept:
    """Concept of a level such as "T12": its own code, that of the sacrum for S1, and "Vertebra" for L6, T13 and unknown levels."""
    return LEVEL_CONCEPTS.get(level, VERTEBRA)
