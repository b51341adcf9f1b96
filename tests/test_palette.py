"""Colours of the methods stay apart for eyes that lack one kind of cone (simulation by Machado, Oliveira and
Fernandes 2009).
"""

from itertools import combinations

import matplotlib.colors
import numpy as np
import pytest

from mcl.plots import METHOD_STYLES, PALETTE

LINEAR_RGB = {
    'all cones': np.eye(3),
    'protanopia': [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    'deuteranopia': [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    'tritanopia': [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = TO_XYZ.sum(1)
BARELY_SEEN = 2.3  # difference in CIELAB that an eye just notices (Mahy et al. 1994)


def linear(colour):
    value = np.array(matplotlib.colors.to_rgb(colour))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    t = TO_XYZ @ np.clip(rgb, 0, 1) / WHITE
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colours, eyes):
    "Smallest difference between two of the colours, and which two."
    seen = {name: lab(np.array(LINEAR_RGB[eyes]) @ linear(colour)) for name, colour in colours.items()}
    return min((float(np.linalg.norm(seen[a] - seen[b])), a, b) for a, b in combinations(seen, 2))


def test_the_simulation_knows_red_from_green_only_with_all_cones():
    colours = dict(red='#b05000', green='#6c7000')
    assert nearest(colours, 'all cones')[0] > 3 * nearest(colours, 'deuteranopia')[0]
    assert lab(linear('white')) == pytest.approx([100, 0, 0], abs=0.01) and lab(
        linear('black')
    ) == pytest.approx([0, 0, 0], abs=0.01)


@pytest.mark.parametrize('eyes', LINEAR_RGB)
def test_methods_have_colours_apart(eyes):
    difference, one, other = nearest({name: style['color'] for name, style in METHOD_STYLES.items()}, eyes)
    assert difference > 5 * BARELY_SEEN, f'{one} and {other} look alike with {eyes}: {difference:.1f}'


@pytest.mark.parametrize('eyes', LINEAR_RGB)
def test_the_first_colours_of_the_palette_are_far_apart(eyes):
    difference, one, other = nearest(dict(enumerate(PALETTE[:4])), eyes)
    assert difference > 5 * BARELY_SEEN, f'colours {one} and {other} look alike with {eyes}: {difference:.1f}'
