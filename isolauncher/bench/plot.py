# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of what `whole` measured, by matplotlib, which is an optional extra.

Drawn from the data that --json writes, so that old figures can be drawn again.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ..errors import HostError
from . import contenders

KINDS = ("png", "svg", "pdf")
_MEMORY = (("Pss", "PSS"), ("Uss", "USS"), ("Private_Dirty", "private dirty"))


def need() -> None:
    """HostError when there is nothing to draw with."""
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise HostError(
            f"the pictures are drawn by matplotlib, which cannot be imported: {error}",
            code="bench-no-matplotlib",
            hint="pip install isolauncher[plot], or leave --plot away",
        ) from None


def draw(data: Mapping[str, Any], file: str) -> None:
    """The panels there are figures for; the kind of file by its name."""
    figures = importlib.import_module("matplotlib.figure")
    lists = [(n, one) for n, one in data["latency"].items() if one["contenders"]]
    phases = [(n, one["phases_us"]) for n, one in lists if one["phases_us"]]
    memory = data["memory"]
    rows = len(lists) + bool(phases) + (2 if memory else 0)
    if not rows:
        raise HostError("there is nothing to draw", code="bench-nothing")
    figure = figures.Figure(figsize=(9, 3.6 * rows), layout="constrained")
    axes = list(figure.subplots(rows, 1, squeeze=False)[:, 0])
    for name, one in lists:
        _distribution(axes.pop(0), name, one)
    if phases:
        _breakdown(axes.pop(0), phases)
    if memory:
        _memory(axes.pop(0), memory["levels"])
        _growth(axes.pop(0), memory["levels"])
    machine = data["machine"]
    figure.suptitle(
        f"isolauncher bench: {machine['cpus']} cpus, {machine['cpu']}, Linux "
        f"{machine['kernel']}, load {machine['load'][0]} before",
        fontsize=9,
    )
    figure.savefig(file, dpi=110)


def _distribution(axes: Any, name: str, one: Mapping[str, Any]) -> None:
    found = sorted(one["contenders"].items(), key=lambda kv: -kv[1]["median"])
    axes.boxplot(
        [spread["samples"] for _, spread in found],
        vert=False,
        whis=(1, 99),
        widths=0.6,
        flierprops={"marker": ".", "markersize": 3},
    )
    axes.set_yticks(
        range(1, len(found) + 1),
        [f"{contenders.WORDS[n]}  {s['median']:.1f}" for n, s in found],
    )
    _by_tenfold(axes.xaxis, axes.set_xscale)
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.set_xlabel("ms (box: quartiles, whiskers: p1 and p99; number: p50)")
    axes.set_title(f"first line of a script with the imports of {name}")


def _breakdown(axes: Any, found: list[tuple[str, Mapping[str, Any]]]) -> None:
    bars = [
        (f"{name}, {way}", phases)
        for name, ways in found
        for way, phases in ways.items()
    ]
    labels = [label for label, _ in bars]
    left = [0.0] * len(bars)
    spans = dict.fromkeys(n for _, phases in bars for n in phases if n != "total")
    for span in spans:
        widths = [phases.get(span, 0) / 1000 for _, phases in bars]
        axes.barh(labels, widths, left=left, label=span)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("ms (medians of the reports' spans)")
    axes.set_title("where the time goes until the program runs")
    axes.legend(ncols=len(spans), fontsize=8)


def _memory(axes: Any, levels: list[Mapping[str, Any]]) -> None:
    width = 0.8 / len(_MEMORY)
    for number, (key, label) in enumerate(_MEMORY):
        axes.bar(
            [place + number * width for place in range(len(levels))],
            [level["activity_kb"][key] / 1024 for level in levels],
            width,
            label=label,
        )
    middle = width * (len(_MEMORY) - 1) / 2
    axes.set_xticks(
        [place + middle for place in range(len(levels))],
        [str(level["alive"]) for level in levels],
    )
    axes.set_xlabel("alive")
    axes.set_ylabel("MB of each (median)")
    axes.set_title("memory of an activity")
    axes.legend(fontsize=8)


def _growth(axes: Any, levels: list[Mapping[str, Any]]) -> None:
    alive = [level["alive"] for level in levels]
    for key, label in (("median", "p50"), ("p90", "p90"), ("p99", "p99")):
        values = [level["launch_ms"].get(key) for level in levels]
        # Of few launches there is no 99th percentile.
        if None not in values:
            axes.plot(alive, values, marker="o", label=label)
    axes.set_xscale("log")
    axes.set_xticks(alive, [str(n) for n in alive])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("alive")
    axes.set_ylabel("ms")
    axes.set_title("a launch beside those that are alive")
    axes.legend(fontsize=8)


def _by_tenfold(axis: Any, set_scale: Any) -> None:
    """Logarithmic, and written as plain numbers."""
    ticker = importlib.import_module("matplotlib.ticker")
    set_scale("log")
    axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.set_minor_formatter(ticker.NullFormatter())
