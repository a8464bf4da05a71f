"""Frames that become an animation."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from support.drawings import (
    picture,
    stage,
)

from lightning_nc.figures import (
    animate,
    collapse_animation,
    frame,
)


def plates(count):
    """Figures that are told apart by how much of them is black."""
    made = []
    for i in range(count):
        figure = Figure(figsize=(2, 1))
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set_axis_off()
        axis.axvspan(0, (i + 1) / count, color="black")
        axis.set_xlim(0, 1)
        made.append(figure)
    return made


def decoded(data):
    with Image.open(io.BytesIO(data)) as image:
        shots, durations = [], []
        for i in range(image.n_frames):
            image.seek(i)
            shots.append(np.asarray(image.convert("L"), dtype=float))
            durations.append(image.info["duration"])
        return shots, durations, image.info.get("loop"), image.format


def test_the_animation_decodes_to_its_frames_and_loops():
    shots, durations, loop, kind = decoded(collapse_animation(plates(5), duration_ms=120))
    assert (kind, loop) == ("GIF", 0)
    assert durations == [120] * 4 + [480]
    assert {shot.shape for shot in shots} == {(240, 480)}
    dark = [(shot < 128).mean() for shot in shots]
    np.testing.assert_allclose(dark, [0.2, 0.4, 0.6, 0.8, 1.0], atol=0.01)


@pytest.mark.parametrize(
    ("count", "most", "kept"), [(9, 5, [1, 3, 5, 7, 9]), (4, 2, [1, 4]), (3, 1, [3])]
)
def test_a_long_animation_is_thinned_evenly_with_both_ends(count, most, kept):
    shots, *_ = decoded(collapse_animation(plates(count), max_frames=most))
    np.testing.assert_allclose([(s < 128).mean() for s in shots], np.array(kept) / count, atol=0.01)


def test_the_default_keeps_sixty_frames():
    images = [Image.new("RGB", (8, 8), (3 * i, 0, 0)) for i in range(80)]
    shots, *_ = decoded(animate(images))
    assert len(shots) <= 60


def test_the_animation_shows_the_colors_of_the_picture():
    given, statistics = stage()
    figure, _ = picture(given, statistics, limit=1.8)
    [shot] = [np.asarray(frame(figure), dtype=int)]
    with Image.open(io.BytesIO(collapse_animation([figure]))) as image:
        again = np.asarray(image.convert("RGB"), dtype=int)
    assert again.shape == shot.shape == (480, 480, 3)
    assert np.abs(again - shot).mean() < 3
    for color in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0, 0x9E, 0x73)):
        assert (np.abs(again - color).sum(2) < 30).sum() > 50


def test_an_animation_needs_frames_of_one_size():
    for nothing in ([], ()):
        with pytest.raises(ValueError, match="at least one frame, but got 0"):
            collapse_animation(nothing)
    with pytest.raises(ValueError, match="at least one frame"):
        collapse_animation(plates(2), max_frames=0)
    with pytest.raises(ValueError, match="frames of one size"):
        collapse_animation([Figure(figsize=(1, 1)), Figure(figsize=(1, 2))])
