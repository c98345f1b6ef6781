"""Pictures of evaluation outputs, as PNG: equal numbers give equal bytes."""

from __future__ import annotations

import io
import math
import os.path
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lab.evaluation.measure.spikes import largest_stable
from lab.records import EvaluationCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lab.evaluation.base import EvaluationOutput, Evaluator

DPI = 100
MAX_NAME = 40
"""Longest name in a picture, in characters; the middle of a longer one is left out."""
MAX_COLUMNS = 4
"""The most runs beside each other in a picture of statistics."""
MAX_RUNS = 24
"""The most runs in a picture of statistics."""
MAX_WIDTH, MAX_HEIGHT = 3000, 6000
"""The largest picture of several runs' pictures, in pixels."""
MAX_DOTS = 32
"""A curve with at most this many points has a dot at each."""


def compare(evaluator: Evaluator, runs: Sequence[tuple[str, EvaluationOutput]]) -> dict[str, bytes]:
    """Pictures that compare several runs, by name: the evaluator's own, or one per curve, or one of the metrics.

    Args:
        runs: the name and the output of at least one run.
    """
    images = dict(evaluator.comparison_images(runs))
    if images:
        return images
    names = list(dict.fromkeys(name for _, output in runs for name in output.curves))
    if names:
        return {
            name: curves([(run, output.curves[name]) for run, output in runs if name in output.curves])
            for name in names
        }
    return {"metrics": metrics([(run, output.metrics) for run, output in runs])}


def maps(weights: Mapping[tuple[int, int], Sequence[Sequence[float]]], context: int) -> bytes:
    """A grid of attention maps: one row per layer, one column per head.

    Args:
        weights: (layer, head) → attention weights, one row per query.
        context: length of the text in tokens.
    """
    layers, heads = sorted({layer for layer, _ in weights}), sorted({head for _, head in weights})
    figure, axes = _grid(len(layers), len(heads), 1.7, 1.7)
    for row, layer in enumerate(layers):
        for column, head in enumerate(heads):
            axis = axes[row][column]
            if (layer, head) not in weights:
                axis.set_axis_off()
                continue
            # The square root, because small weights would otherwise be invisible.
            roots = [[math.sqrt(weight) for weight in query] for query in weights[layer, head]]
            edges = (0, context, context, 0)
            axis.imshow(roots, vmin=0, vmax=1, cmap="magma", extent=edges, interpolation="nearest", aspect="auto")
            axis.tick_params(labelsize=6, labelbottom=row == len(layers) - 1, labelleft=column == 0)
            axis.set_title(f"layer {layer}, head {head}", fontsize=7, pad=3)
    figure.supxlabel("key", fontsize=8)
    figure.supylabel("query", fontsize=8)
    return _png(figure)


def statistics(runs: Sequence[tuple[str, Mapping[str, Any]]], titles: Mapping[str, str]) -> bytes:
    """Heat maps of layers × heads: one row per statistic, with a common colour scale, and one column per run.

    With more than `MAX_COLUMNS` runs, further runs continue below, in the same order. At most `MAX_RUNS` are shown.

    Args:
        runs: name and details of each run: `layers` are the numbers of the layers, `heads` is statistic → layer →
            head → value.
        titles: statistic → title.
    """
    names = [name for name in titles if any(name in details["heads"] for _, details in runs)]
    omitted, runs = len(runs) - MAX_RUNS, runs[:MAX_RUNS]
    blocks = [runs[first : first + MAX_COLUMNS] for first in range(0, len(runs), MAX_COLUMNS)]
    figure, axes = _grid(len(names) * len(blocks), len(blocks[0]), 3.2, 2.2)
    for row, name in enumerate(names):
        tables = [details["heads"].get(name) for _, details in runs]
        values = [value for table in tables if table is not None for line in table for value in line]
        for number, (table, (run, details)) in enumerate(zip(tables, runs, strict=True)):
            block, column = divmod(number, MAX_COLUMNS)
            axis = axes[block * len(names) + row][column]
            axis.set_title(f"{_short(run)}\n{titles[name]}" if row == 0 else titles[name], fontsize=7)
            if table is None:
                axis.set_axis_off()
                continue
            heads = max(map(len, table))
            padded = [[*line, *[math.nan] * (heads - len(line))] for line in table]
            image = axis.imshow(padded, vmin=min(values), vmax=max(values), cmap="viridis", aspect="auto")
            axis.set_yticks(range(len(padded)), [f"{layer}" for layer in details["layers"]], fontsize=6)
            axis.set_xticks(range(heads), [f"{head}" for head in range(heads)], fontsize=6)
            axis.set_ylabel("layer", fontsize=6)
            if row == len(names) - 1:
                axis.set_xlabel("head", fontsize=6)
            figure.colorbar(image, ax=axis).ax.tick_params(labelsize=6)
    for row in range(len(names)):  # the last block may have fewer runs
        for axis in axes[(len(blocks) - 1) * len(names) + row][len(blocks[-1]) :]:
            axis.set_axis_off()
    if omitted > 0:
        figure.supxlabel(f"and {omitted:,} more runs", fontsize=8)
    return _png(figure)


def side_by_side(pictures: Sequence[tuple[str, bytes]]) -> bytes:
    """PNG images pixel for pixel, each under its name, in a grid of at most `MAX_WIDTH` × `MAX_HEIGHT` pixels.

    Pictures that don't fit are left out, and a line at the end counts them. A single picture is always shown.
    """
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    images = [imread(io.BytesIO(picture), format="png") for _, picture in pictures]
    top = 24
    cell_height, cell_width = max(image.shape[0] for image in images) + top, max(image.shape[1] for image in images)
    columns = min(max(1, MAX_WIDTH // cell_width), len(images))
    if columns < len(images):  # about as wide as high
        columns = min(columns, math.ceil(math.sqrt(len(images) * cell_height / cell_width)))
    rows = min(math.ceil(len(images) / columns), max(1, (MAX_HEIGHT - top) // cell_height))
    shown = min(len(images), rows * columns)
    omitted = len(images) - shown
    height, width = rows * cell_height + (top if omitted else 0), columns * cell_width
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    for number, ((name, _), image) in enumerate(zip(pictures[:shown], images[:shown], strict=True)):
        row, column = divmod(number, columns)
        left, above = column * cell_width, row * cell_height
        figure.figimage(image, xo=left, yo=height - above - top - image.shape[0])
        middle = left + image.shape[1] / 2
        place = middle / width, 1 - (above + top / 2) / height
        figure.text(*place, _short(name), ha="center", va="center", fontsize=8)
    if omitted:
        figure.text(0.5, top / 2 / height, f"and {omitted:,} more runs", ha="center", va="center", fontsize=8)
    return _png(figure)


def learning_rates(outputs: Sequence[EvaluationOutput]) -> bytes:
    """Final training loss by learning rate, one line per arm; a dot is filled if the rate was stable.

    Args:
        outputs: outputs of the evaluator `stability`, one per run.
    """
    figure, ((axis,),) = _grid(1, 1, 6.0, 4.0)
    arms: dict[str, list[tuple[float, float, bool]]] = {}
    for output in outputs:
        details = output.details
        if details["lr"] is not None and details["end"] is not None:
            run = (details["lr"], details["end"], output.metrics["stable_lr"] > 0)
            arms.setdefault(details["arm"] or "one arm", []).append(run)
    for arm, runs in arms.items():
        largest = largest_stable([(rate, stable) for rate, _, stable in runs])
        rates = sorted({rate for rate, _, _ in runs})
        means = [fmean(loss for run_rate, loss, _ in runs if run_rate == rate) for rate in rates]
        label = "never stable" if largest is None else f"stable up to {largest:g}"
        (line,) = axis.plot(rates, means, label=f"{_short(arm)}: {label}")
        for rate, loss, stable in runs:
            colour = line.get_color()
            axis.plot([rate], [loss], "o", color=colour, markerfacecolor=colour if stable else "none")
    axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss at the end (nats a token)")
    if arms:
        axis.legend(fontsize=7)
    return _png(figure)


def curves(runs: Sequence[tuple[str, EvaluationCurve]]) -> bytes:
    """The same curve of several runs, one line each. The seeds of an arm have one colour."""
    figure, ((axis,),) = _grid(1, 1, 6.0, 4.0)
    first = runs[0][1]
    for (_, curve), colour, label in zip(runs, *_arms([name for name, _ in runs]), strict=True):
        x, y = zip(*curve.points, strict=True) if curve.points else ((), ())
        marker = "o" if len(x) <= MAX_DOTS else ""
        axis.plot(x, y, marker, linestyle="-", color=colour, label=label, linewidth=1.2, markersize=3.5)
    all_x = [x for _, curve in runs for x, _ in curve.points]
    if all_x and min(all_x) > 0 and max(all_x) >= 16 * min(all_x):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel(first.x)
    axis.set_ylabel(first.y)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7)
    return _png(figure)


def metrics(runs: Sequence[tuple[str, Mapping[str, float]]]) -> bytes:
    """Metrics of several runs, one dot per run. Metrics with the same last part (code/loss, prose/loss) share a panel.

    <metric>_stderr is the standard error of a metric and is drawn as its error bar.
    """
    panels: dict[str, list[str]] = {}
    for _, values in runs:
        for name in values:
            if name.endswith("_stderr") and name.removesuffix("_stderr") in values:
                continue
            group = panels.setdefault(name.rpartition("/")[2], [])
            group.extend([name] if name not in group else [])
    columns = min(3, len(panels))
    figure, axes = _grid(math.ceil(len(panels) / columns), columns, 3.4, 2.6)
    colours, labels = _arms([name for name, _ in runs])
    flat = [axis for row in axes for axis in row]
    for axis, (ending, names) in zip(flat, panels.items(), strict=False):
        for number, (_, values) in enumerate(runs):
            offset = 0.5 * (number / max(1, len(runs) - 1) - 0.5)  # so that equal values don't hide each other
            points = [
                (place + offset, values[name], values.get(f"{name}_stderr", 0.0))
                for place, name in enumerate(names)
                if name in values
            ]
            if points:
                x, y, error = zip(*points, strict=True)
                axis.errorbar(x, y, error, fmt="o", color=colours[number], label=labels[number], markersize=4)
        axis.set_xticks(range(len(names)), [_short(name.rpartition("/")[0]) for name in names], fontsize=7)
        axis.set_xlim(-0.6, len(names) - 0.4)
        axis.set_title(ending.replace("_", " "), fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    for axis in flat[len(panels) :]:
        axis.set_axis_off()
    figure.legend(*flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    return _png(figure)


def _arms(names: Sequence[str]) -> tuple[list[str], list[str | None]]:
    """Colour and label of each run. The runs of an arm share a colour, and only the first has a label."""
    common = os.path.commonpath(names) if len(names) > 1 else ""
    parts = [os.path.relpath(name, common or ".") for name in names]
    arms = [re.sub(r"/?seed-\d+$", "", part) for part in parts]
    if len(set(arms)) == 1:  # one arm: distinguish its seeds
        arms = parts
    order = list(dict.fromkeys(arms))
    labels = [_short(arm) if arms.index(arm) == number else None for number, arm in enumerate(arms)]
    return [f"C{order.index(arm)}" for arm in arms], labels


def _short(name: str) -> str:
    half = MAX_NAME // 2
    return name if len(name) <= MAX_NAME else f"{name[:half]}…{name[-half + 1 :]}"


def _grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    """A figure and its [rows, columns] axes, each `width` × `height` inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + columns * width, 0.6 + rows * height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return out.getvalue()
