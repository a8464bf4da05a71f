"""Figures as an animated GIF."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

_PIXELS = 480  # of the longer side
_COLORS = 96
_HOLD = 4  # the last frame stays for as many durations


def collapse_animation(frames: Sequence[Figure], duration_ms: int = 400, max_frames: int = 60) -> bytes:
    """Figures, one after the other, as an animated GIF that repeats without end.

    Args:
        frames: Figures of one size, such as :func:`collapse_picture` with a ``limit`` draws them.
        duration_ms: How long a frame is shown, in milliseconds.
        max_frames: Of more frames than this an even selection is shown, first and last included.

    Returns:
        The bytes of a GIF whose longer side has 480 pixels, see :func:`animate`.

    Raises:
        ValueError: If there is no frame, or the figures differ in size.

    Example:
        >>> collapse_animation([Figure(figsize=(1, 1))])[:6]
        b'GIF89a'
    """
    chosen = _thinned(len(frames), max_frames)
    return animate([frame(frames[i]) for i in chosen], duration_ms, max_frames)


def frame(figure: Figure) -> Image.Image:
    """A figure as pixels, 480 on the longer side: what an animation keeps of it.

    Args:
        figure: Any figure; it is left as it was.

    Returns:
        An image without transparency.

    Example:
        >>> frame(Figure(figsize=(2, 1))).size
        (480, 240)
    """
    file = io.BytesIO()
    dpi = _PIXELS / max(figure.get_size_inches())
    figure.savefig(file, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    return Image.open(file).convert("RGB")


def animate(frames: Sequence[Image.Image], duration_ms: int = 400, max_frames: int = 60) -> bytes:
    """Images, one after the other, as an animated GIF that repeats without end.

    All frames share one palette, so that colors do not flicker. Neighbors that look the same become
    one frame that lasts longer. The last frame is held four times as long as the others.

    Args:
        frames: Images of one size.
        duration_ms: How long a frame is shown, in milliseconds.
        max_frames: Of more frames than this an even selection is shown, first and last included.

    Returns:
        The bytes of a GIF.

    Raises:
        ValueError: If there is no frame, or the images differ in size.

    Example:
        >>> animate([Image.new("RGB", (4, 4), color) for color in ("red", "blue")])[:6]
        b'GIF89a'
    """
    images = [frames[i] for i in _thinned(len(frames), max_frames)]
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise ValueError(f"Expected frames of one size, but got {sizes}.")
    palette = _palette([images[0], images[len(images) // 2], images[-1]])
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    file = io.BytesIO()
    first.save(
        file, format="GIF", save_all=True, append_images=rest, loop=0, optimize=False,
        duration=[duration_ms] * len(rest) + [duration_ms * _HOLD],
    )  # fmt: skip
    return file.getvalue()


def _thinned(count: int, max_frames: int) -> list[int]:
    """Indices of so many frames at most, first and last included; of one, the last."""
    if count < 1 or max_frames < 1:
        raise ValueError(f"Expected at least one frame, but got {count} (of {max_frames} at most).")
    kept = min(count, max_frames)
    return [count - 1] if kept == 1 else np.linspace(0, count - 1, kept).round().astype(int).tolist()


def _palette(images: list[Image.Image]) -> Image.Image:
    """The colors of some frames, as the palette of an image."""
    width, height = images[0].size
    sheet = Image.new("RGB", (width, height * len(images)))
    for i, image in enumerate(images):
        sheet.paste(image, (0, i * height))
    return sheet.quantize(_COLORS, method=Image.Quantize.MEDIANCUT)
