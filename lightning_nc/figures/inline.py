"""Pictures in a notebook: shown below the cell that asks for them, and no others."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar

import matplotlib
from matplotlib.figure import Figure

_Given = ParamSpec("_Given")
_Axes = TypeVar("_Axes")


class Drawn(tuple[Figure, _Axes], Generic[_Axes]):
    """A figure and its axes. As the last line of a notebook's cell it is the picture itself.

    Example:
        >>> figure, axes = Drawn((Figure(), []))
        >>> axes
        []
    """

    __slots__ = ()

    def _ipython_display_(self) -> None:
        if not _in_notebook():
            raise NotImplementedError  # so that IPython prints the text, as of any tuple
        shown(self)


def showable(
    draw: Callable[_Given, tuple[Figure, _Axes]],
) -> Callable[_Given, tuple[Figure, _Axes]]:
    """What a function draws is shown where it is the last line of a notebook's cell, or its figure is.

    A call alone shows nothing: the pictures of a run go to loggers, and frames into an animation.

    Args:
        draw: Returns a figure and its axes.

    Returns:
        The same function, whose tuples are :class:`Drawn`.

    Example:
        >>> showable(lambda: (Figure(), None))()[1] is None
        True
    """

    @wraps(draw)
    def drawn(*args: _Given.args, **kwargs: _Given.kwargs) -> Drawn[_Axes]:
        _let_notebooks_show_figures()
        return Drawn(draw(*args, **kwargs))

    return drawn


def shown(drawn: tuple[Figure, _Axes]) -> Drawn[_Axes]:
    """Show a picture once, when the notebook's cell that is running has ended; elsewhere do nothing.

    For methods such as :meth:`torchmetrics.Metric.plot`, which show what they draw whether their result
    is used or not. As pyplot does it, the picture is shown with all that the cell has changed in it.
    Do not call it for axes that somebody gave: they are shown by whoever made them.

    Args:
        drawn: A figure and its axes, as the functions of :mod:`lightning_nc.figures` return them.

    Returns:
        The same figure and axes.

    Example:
        >>> figure, axes = shown((Figure(), []))
    """
    if _in_notebook():
        _hand_to_pyplot(drawn[0])
    return Drawn(drawn)


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code; IPython in a terminal has a shell without a kernel."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def _let_notebooks_show_figures() -> None:
    """Have figures shown as pictures from the first one on, not only once pyplot has drawn another."""
    if _in_notebook() and "inline" in str(matplotlib.get_backend(auto_select=False)):
        from matplotlib import pyplot

        pyplot.draw_if_interactive()  # draws nothing, but loads the backend, which sets up the notebook


def _hand_to_pyplot(figure: Figure) -> None:
    """As if pyplot had made the figure: its backend shows it at the end of the cell and closes it."""
    from matplotlib import pyplot

    number: Any = getattr(figure, "number", None)
    # a closed figure keeps its number, which pyplot may have given to another one since
    if number in pyplot.get_fignums() and pyplot.figure(number) is figure:
        return
    pyplot.figure(FigureClass=lambda **_: figure)  # type: ignore[arg-type]
