"""The explainers' numbers against NumPy, and what they say to numbers that cannot be."""

import re

import numpy as np
import pytest

from playground.errors import InvalidInput
from playground.training.spectrum import LayerSpectrum
from playground.ui.components import explain, spectrum

TABLE = re.compile(r'<table class="pg-heat" aria-label="(.*?)">(.*?)</table>', re.S)


def drawn(html):
    """The matrices of the picture by name."""
    found = {}
    for name, body in TABLE.findall(html):
        rows = re.findall(r"<tr>(.*?)</tr>", body)
        found[name] = np.array([[float(v) for v in re.findall(r">(-?[\d.e+-]+)<", row)] for row in rows])
    return found


@pytest.mark.parametrize("scale", [0, 0.5, -2])
def test_the_drawn_matrices_are_the_products(scale):
    found = drawn(explain.low_rank(explain.W0, explain.A, explain.B, scale))
    update = scale * np.array(explain.A) @ np.array(explain.B)
    np.testing.assert_allclose(found["λ · A · B"], update)
    np.testing.assert_allclose(found["W₀"], explain.W0)
    np.testing.assert_allclose(found["W"], np.array(explain.W0) + update)
    assert found["W"].shape == (4, 5)


def test_the_guides_case_has_its_shapes():
    assert np.array(explain.A).shape == (4, 2)
    assert np.array(explain.B).shape == (2, 5)
    assert "4 · 2 + 2 · 5 = 18 numbers, W₀ holds 20" in explain.low_rank(explain.W0, explain.A, explain.B, 1)


def test_the_colour_follows_sign_and_size():
    html = explain.low_rank([[4, 0, -2]], [[0]], [[0, 0, 0]], 1)
    assert '<td class="pg-above" style="--heat:100%">4</td>' in html
    assert '<td class="" style="--heat:0%">0</td>' in html
    assert '<td class="pg-below" style="--heat:50%">-2</td>' in html


@pytest.mark.parametrize("cell", [None, "", "x", "<b>", float("nan"), float("inf"), 1e9])
def test_a_cell_that_is_no_number_is_named(cell):
    a = [[1, 0], [0, 1], [1, cell], [0, 0]]
    with pytest.raises(InvalidInput, match="A, row 3, column 2"):
        explain.low_rank(explain.W0, a, explain.B, 1)


def test_cells_may_come_as_text():
    assert explain.numbers([["1", "-0.5"]], "B") == [[1.0, -0.5]]


def test_the_guides_count():
    html = explain.count(10_000, 10_000, 32)
    assert "100,000,000" in html
    assert "640,000" in html
    assert "99.36 % fewer: 1 number instead of 156" in html


def test_a_rank_that_saves_nothing_is_said():
    assert "no fewer: a rank of 5 or more" in explain.count(10, 10, 8)
    assert "20.00 % fewer: 1 number instead of 1.25" in explain.count(10, 10, 4)


def rectangles(html):
    """(width, height) of W, A and B as they are drawn."""
    return [
        tuple(map(float, size)) for size in re.findall(r'<rect .*?width="([\d.]+)" height="([\d.]+)"', html)
    ]


def test_the_matrices_are_drawn_to_scale():
    html = explain.count(400, 1_000, 100)
    assert rectangles(html) == [(150.0, 60.0), (15.0, 60.0), (150.0, 15.0)]
    assert "Drawn to scale." in html


def test_strips_too_thin_to_be_seen_are_drawn_thicker_and_it_is_said():
    html = explain.count(10_000, 10_000, 32)
    assert rectangles(html) == [(150.0, 150.0), (2.0, 150.0), (150.0, 2.0)]
    assert "but A and B up to 4.2 times too thick" in html


@pytest.mark.parametrize(
    ("size", "sides", "words"),
    [
        ((10, 10, 32), [(46.9, 46.9), (150.0, 46.9), (46.9, 150.0)], "Drawn to scale."),
        ((1, 1, 10**9), [(2.0, 2.0), (150.0, 2.0), (2.0, 150.0)], "ΔW, A and B up to 13,333,333 times"),
        ((1_000, 2, 500), [(2.0, 150.0), (75.0, 150.0), (2.0, 75.0)], "ΔW and B up to 6.7 times"),
    ],
)
def test_a_rank_above_the_sizes_and_a_thin_matrix_stay_in_the_picture(size, sides, words):
    html = explain.count(*size)
    assert rectangles(html) == sides
    assert words in html
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', html).groups())
    for left, top, wide, high in re.findall(
        r'<rect .*? x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', html
    ):
        assert float(left) >= 0 and float(left) + float(wide) <= width
        assert float(top) >= 0 and float(top) + float(high) <= height - 44  # the words are below


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((1_000, 1_000, 499), "0.20 % fewer: 1 number instead of 1.002"),
        ((10**9, 10**9, 1), "99.9999998 % fewer: 1 number instead of 500,000,000"),
        ((10**9, 10**9, 499_999_999), "0.0000002 % fewer: 1 number instead of 1.000000002"),
        ((10**9, 10**9, 500_000_000), "no fewer: a rank of 500,000,000 or more"),
    ],
)
def test_what_is_saved_is_told_with_the_digits_that_it_takes(size, words):
    html = explain.count(*size)
    assert words in html
    assert not re.search(r"\de\+", html)


@pytest.mark.parametrize("wrong", [None, 0, -1, 2.5, float("nan"), float("inf"), 1e12])
def test_a_size_that_cannot_be_is_refused(wrong):
    with pytest.raises(InvalidInput, match="k must be a whole number"):
        explain.count(100, 100, wrong)


def layers(rank):
    values = tuple(float(rank - at) for at in range(rank))
    return [LayerSpectrum(f"model.layers.{n}.self_attn.q_proj", 64, 64, values) for n in range(3)]


def test_the_spectrum_is_drawn_layer_by_rank():
    html = spectrum.picture(layers(4))
    assert html.count("<rect") == 12
    assert f"rank 1 holds {16 / 30 * 100:.1f} %" in html


def test_high_ranks_are_drawn_together():
    html = spectrum.picture(layers(40))
    assert html.count("<rect") == 3 * (spectrum.SHOWN + 1)
    whole = sum(n * n for n in range(41))
    rest = sum((40 - at) ** 2 for at in range(16, 40))
    assert f"rank 17–40 holds {rest / whole * 100:.1f} %" in html
