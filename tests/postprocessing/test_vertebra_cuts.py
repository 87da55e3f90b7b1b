# SPDX-License-Identifier: Apache-2.0
"""Cuts of a profile: one segment per body, whatever the discs look like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as profile_settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from scripts.postprocessing.vertebra_cuts import MAX_LENGTH_MM, MIN_LENGTH_MM, Segment, _valleys, cut_profile


def profile_of(heights, gap: float = 6.0, disc: float = 0.0, blur: float = 1.0, margin: int = 12) -> tuple[np.ndarray, list[float]]:
    """Profile in steps of 1 mm, and the positions of the discs."""
    pieces, discs, at = [np.zeros(margin)], [], float(margin)
    for n, height in enumerate(heights):
        pieces.append(np.ones(round(height)))
        at += round(height)
        if n < len(heights) - 1:
            pieces.append(np.full(round(gap), disc))
            discs.append(at + round(gap) / 2)
            at += round(gap)
    profile = np.concatenate([*pieces, np.zeros(margin)])
    return gaussian_filter1d(profile, blur) if blur else profile, discs


def inner_cuts(segments: list[Segment]) -> list[int]:
    return [s.stop for s in segments[:-1]]


@profile_settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(18, 32), min_size=1, max_size=8), st.floats(2, 10), st.floats(0, 0.3), st.sampled_from([0.0, 0.6, 1.2]))
def test_one_segment_per_body_with_visible_discs(heights, gap, disc, blur):
    profile, discs = profile_of(heights, gap, disc, blur)
    # A blur can fill a disc of two samples above the probability of a body: then the bodies are one.
    assume(round(gap) > 2 or all(profile[int(at) - 1 : int(at) + 2].min() < 0.5 for at in discs))
    segments = cut_profile(profile)
    assert len(segments) == len(heights)
    assert np.abs(np.array(inner_cuts(segments)) - discs).max(initial=0) <= gap / 2 + 1.5


@profile_settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=0, max_size=120), st.booleans())
def test_segments_of_any_profile_are_in_order_and_in_bounds(values, widths):
    profile = np.array(values, float)
    segments = cut_profile(profile, np.full(len(profile), 30.0) if widths else None)
    stops = [0]
    for segment in segments:
        assert segment.start >= stops[-1]
        assert segment.stop <= len(profile) - 1
        if len(profile) > MIN_LENGTH_MM:
            assert MIN_LENGTH_MM <= segment.stop - segment.start <= MAX_LENGTH_MM
        stops.append(segment.stop)


@pytest.mark.parametrize("length", [50, 60, 75, 90])
def test_solid_column_is_divided_by_the_width_of_the_body(length):
    profile = np.concatenate([np.zeros(10), np.ones(length), np.zeros(10)])
    segments = cut_profile(profile, np.full(len(profile), 27.0))
    lengths = np.diff([10, *inner_cuts(segments), 10 + length])
    assert len(segments) >= length / MAX_LENGTH_MM
    assert lengths.max() <= MAX_LENGTH_MM
    assert lengths.max() / lengths.min() < 1.5


def test_fused_pair_between_normal_ones_is_divided():
    profile, _ = profile_of([25, 56, 25], 6)  # two bodies and their bony disc
    segments = cut_profile(profile, np.full(len(profile), 30.0))
    assert len(segments) == 4
    assert segments[1].stop == pytest.approx(12 + 25 + 6 + 28, abs=4)


@pytest.mark.parametrize("gap", [3.0, 4.0, 6.0])
@pytest.mark.parametrize("heights", [[25, 25, 10, 25, 25], [25, 25, 10, 10, 25, 25], [10, 25, 25], [25, 25, 10]], ids=str)
def test_collapsed_bodies_between_clear_discs_stay_separate(heights, gap):
    profile, _ = profile_of(heights, gap, blur=0.6)
    assert len(cut_profile(profile, np.full(len(profile), 30.0))) == len(heights)


def test_undetected_vertebra_leaves_a_gap():
    profile, _ = profile_of([25, 25, 25, 25, 25])
    profile[12 + 62 : 12 + 87] = 0
    segments = cut_profile(profile, np.full(len(profile), 29.0))
    assert len(segments) == 4
    assert not any(s.start <= 12 + 74 <= s.stop for s in segments)


def test_shallow_valley_in_one_body_does_not_divide_it():
    """A hole of the network's map in a body, such as by cement."""
    profile, discs = profile_of([25, 25, 25])
    centre = 12 + 25 + 6 + 12
    profile[centre - 3 : centre + 3] *= 0.4
    segments = cut_profile(profile, np.full(len(profile), 29.0))
    assert len(segments) == 3
    np.testing.assert_allclose(inner_cuts(segments), discs, atol=4)


def test_reversed_profile_has_reversed_cuts():
    profile, _ = profile_of([20, 28, 24, 12, 30], 5, 0.2)
    forth, back = cut_profile(profile), cut_profile(profile[::-1])
    last = len(profile) - 1
    mirrored = [(last - s.stop, last - s.start) for s in reversed(back)]
    np.testing.assert_allclose([(s.start, s.stop) for s in forth], mirrored, atol=1)


@pytest.mark.parametrize("step_mm", [0.5, 1.0, 2.0])
def test_cuts_do_not_depend_on_the_step(step_mm):
    profile, discs = profile_of([24, 26, 25, 24])
    at = np.arange(0, len(profile) - 1, step_mm)
    segments = cut_profile(np.interp(at, np.arange(len(profile)), profile), step_mm=step_mm)
    np.testing.assert_allclose(np.array(inner_cuts(segments)) * step_mm, discs, atol=3.5)


@pytest.mark.parametrize("profile", [[], [0.0], [1.0], np.zeros(50), np.full(50, 0.3), np.ones(5)], ids=len)
def test_profile_without_a_body_or_shorter_than_one(profile):
    profile = np.array(profile, float)
    expected = [Segment(0, len(profile) - 1)] if len(profile) and profile.max() >= 0.4 else []
    assert cut_profile(profile) == expected


@pytest.mark.parametrize("length", [6, 10, 14])
def test_a_slow_rise_belongs_to_its_body(length):
    """An oblique endplate under a disc raises the profile slowly; a part without a body must not end in it."""
    profile = np.concatenate([np.zeros(12), np.ones(30), np.zeros(5), np.linspace(0.02, 0.45, length), np.ones(26), np.zeros(12)])
    segments = cut_profile(profile, np.full(len(profile), 36.0))
    assert len(segments) == 2
    assert profile[segments[1].start] < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_valleys_are_the_deepest_inside_every_length(seed):
    profile = np.random.default_rng(seed).random(40)
    depth = _valleys(profile, 5, 20)
    for length in range(2, 21):
        part = profile[5 : 5 + length + 1]
        expected = max(min(part[: k + 1].max(), part[k:].max()) - part[k] for k in range(len(part)))
        assert depth[length] == pytest.approx(expected)
    assert depth[:2].tolist() == [0.0, 0.0]
