"""What a dashboard shows of the logged values: TensorBoard's charts, and the latest values in words."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_nc.functional.table import MEASURES, Measure
from lightning_nc.values.history import History, Logged
from lightning_nc.values.key import Key, keys_in
from lightning_nc.values.stage import in_order

_TREND_OVER = 5
_STEADY = 0.05


def layout(keys: Iterable[str], prefix: str = "") -> dict[str, dict[str, list[object]]]:
    """A layout for ``SummaryWriter.add_custom_scalars``: a chart per measure, stages and layers in it.

    Args:
        keys: Keys of measures, less stage and prefix.
        prefix: What the callback puts before every key.

    Returns:
        Charts by title by category: first the four headlines and the accuracy, then everything.

    Example:
        >>> layout(["nc1/cdnv", "nc1/within_between_pinv"])["Neural collapse"]
        {'NC1 within_between_pinv': ['Multiline', ['.*nc1/within_between_pinv/.*']]}
    """
    wanted = set(keys)
    measures = [measure for measure in MEASURES.values() if measure.key in wanted]
    charts: dict[str, dict[str, list[object]]] = {"Neural collapse": {}}
    for measure in measures:
        if measure.headline or measure.key == "nc0/accuracy":
            title = f"{measure.headline} {Key(measure.key).name}".strip()
            charts["Neural collapse"][title] = _chart(measure.key, prefix)
    # the terminal phase begins where the accuracy is 1: it comes last among the headlines
    if "accuracy" in charts["Neural collapse"]:
        charts["Neural collapse"]["accuracy"] = charts["Neural collapse"].pop("accuracy")
    for measure in measures:
        key = Key(measure.key)
        category = charts.setdefault(f"Neural collapse: all of {key.group.upper()}", {})
        category[key.name] = _chart(measure.key, prefix)
    return charts


def _chart(key: str, prefix: str) -> list[object]:
    # TensorBoard matches from the start of a tag, before which a logger may put a prefix of its own
    return ["Multiline", [f".*{re.escape(prefix)}{Key(key, stage='.*')}"]]


def card(history: History, prefix: str = "", findings: Iterable[str] = ()) -> str:
    """The latest values as a Markdown table: measure, value and trend by stage, value at collapse.

    Args:
        history: The logged values.
        prefix: What the callback puts before every key.
        findings: Sentences that stand below.

    Returns:
        Markdown; empty where nothing was logged.

    Example:
        >>> history = History().extended(0, 9, {"nc1/cdnv/val": 0.5})
        >>> history = history.extended(1, 19, {"nc1/cdnv/val": 0.2})
        >>> print(card(history))
        **Neural collapse after epoch 1.** Arrows: its latest trend.
        <BLANKLINE>
        | measure | what | val | at collapse |
        |---|---|---|---|
        | nc1/cdnv | mean pairwise class-distance normalized variance | 0.2 ↓ | 0 |
    """
    found = stages_of(history, prefix)
    by_measure = {
        measure: {s: history.get(str(Key(measure.key, s, prefix=prefix)), ()) for s in found}
        for measure in MEASURES.values()
    }
    rows = {measure: values for measure, values in by_measure.items() if any(values.values())}
    if not rows:
        return ""
    stages = [stage for stage in found if any(values[stage] for values in rows.values())]
    epoch = max(entries[-1].epoch for values in rows.values() for entries in values.values() if entries)
    lines = [
        f"**Neural collapse after epoch {epoch}.** Arrows: its latest trend.",
        "",
        f"| measure | what | {' | '.join(stages)} | at collapse |",
        "|---" * (3 + len(stages)) + "|",
    ]
    lines += [_row(measure, [values[stage] for stage in stages]) for measure, values in rows.items()]
    return "\n".join([*lines, *(f"\n{text}" for text in findings)])


def headlines(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values that stand for NC1 to NC4, by a name short enough for a progress bar.

    Args:
        values: Logged values of one stage, by key.
        prefix: What the callback puts before every key.

    Returns:
        Values by name.

    Example:
        >>> headlines({"nc1/within_between_pinv/val": 0.25, "nc1/cdnv/val": 0.5})
        {'NC1 val': 0.25}
    """
    short = {}
    for text, key in keys_in(values, prefix):
        headline = MEASURES[key.measure].headline if key.measure in MEASURES else ""
        if headline and not key.layer:
            short[f"{prefix}{headline} {key.stage}"] = values[text]
    return short


def stages_of(history: History, prefix: str = "") -> list[str]:
    """The stages of a history, the usual ones first.

    Example:
        >>> stages_of(History().extended(0, 0, {"nc1/cdnv/val_1": 1.0, "nc1/cdnv/train/neck": 1.0}))
        ['train', 'val_1']
    """
    return in_order(key.stage for _, key in keys_in(history, prefix))


def _row(measure: Measure, values: list[tuple[Logged, ...]]) -> str:
    cells = " | ".join(_cell(entries) for entries in values)
    what = measure.summary.replace("|", "\\|")
    return f"| {measure.key} | {what} | {cells} | {measure.at_collapse} |"


def _cell(entries: tuple[Logged, ...]) -> str:
    if not entries:
        return ""
    last = entries[-1].value
    shown = f"{int(last):,}" if last == last // 1 and abs(last) < 1e15 else f"{last:.3g}"
    if len(entries) == 1:
        return shown
    before = entries[-min(len(entries), _TREND_OVER)].value
    steady = abs(last - before) <= _STEADY * max(abs(last), abs(before))
    arrow = "→" if steady else "↑" if last > before else "↓"
    return f"{shown} {arrow}" if last == last and before == before else shown
