"""Pictures of what evaluators found, as PNG: the same bytes for the same numbers."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lab.evaluation.spikes import largest_stable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lab.training.evaluator import Findings

DPI = 100
LONGEST = 40
"""Characters of a name in a picture; of a longer one the middle is left out."""


def maps(weights: Mapping[tuple[int, int], Sequence[Sequence[float]]], context: int) -> bytes:
    """A grid of attention maps, (layer, head) → weights, rows of queries: a row of it a layer, a column a head."""
    layers, heads = sorted({layer for layer, _ in weights}), sorted({head for _, head in weights})
    figure, axes = _grid(len(layers), len(heads), 1.7, 1.7)
    for row, layer in enumerate(layers):
        for column, head in enumerate(heads):
            axis = axes[row][column]
            if (layer, head) not in weights:
                axis.set_axis_off()
                continue
            # The root, or all but the largest weights would look like none.
            shown = [[math.sqrt(weight) for weight in query] for query in weights[layer, head]]
            edges = (0, context, context, 0)
            axis.imshow(shown, vmin=0, vmax=1, cmap="magma", extent=edges, interpolation="nearest", aspect="auto")
            axis.tick_params(labelsize=6, labelbottom=row == len(layers) - 1, labelleft=column == 0)
            axis.set_title(f"layer {layer}, head {head}", fontsize=7, pad=3)
    figure.supxlabel("key", fontsize=8)
    figure.supylabel("query", fontsize=8)
    return _png(figure)


def statistics(runs: Sequence[tuple[str, Mapping[str, Any]]], titles: Mapping[str, str]) -> bytes:
    """Heat maps of layers × heads: a row a statistic, in one colour scale, and a column a run.

    Args:
        runs: name and details of each: `layers`, the layers' numbers, and `heads`, statistic → layer → head → value.
        titles: of the statistics.
    """
    names = [name for name in titles if any(name in details["heads"] for _, details in runs)]
    figure, axes = _grid(len(names), len(runs), 3.2, 2.2)
    for row, name in enumerate(names):
        tables = [details["heads"].get(name) for _, details in runs]
        values = [value for table in tables if table is not None for line in table for value in line]
        for column, (table, (run, details)) in enumerate(zip(tables, runs, strict=True)):
            axis = axes[row][column]
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
    return _png(figure)


def side_by_side(pictures: Sequence[tuple[str, bytes]]) -> bytes:
    """PNG images in a row, pixel by pixel, each under its name."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    images = [imread(io.BytesIO(picture), format="png") for _, picture in pictures]
    top = 24
    height, width = max(image.shape[0] for image in images) + top, sum(image.shape[1] for image in images)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    left = 0
    for (name, _), image in zip(pictures, images, strict=True):
        figure.figimage(image, xo=left, yo=height - top - image.shape[0])
        middle = left + image.shape[1] / 2
        figure.text(middle / width, 1 - top / 2 / height, _short(name), ha="center", va="center", fontsize=8)
        left += image.shape[1]
    return _png(figure)


def learning_rates(found: Sequence[Findings]) -> bytes:
    """Training loss at the end against the learning rate, an arm a line; filled where the rate was stable."""
    figure, ((axis,),) = _grid(1, 1, 6.0, 4.0)
    arms: dict[str, list[tuple[float, float, bool]]] = {}
    for each in found:
        details = each.details
        if details["lr"] is not None and details["end"] is not None:
            run = (details["lr"], details["end"], each.metrics["stable_lr"] > 0)
            arms.setdefault(details["arm"] or "one arm", []).append(run)
    for arm, runs in arms.items():
        largest = largest_stable([(rate, stable) for rate, _, stable in runs])
        rates = sorted({rate for rate, _, _ in runs})
        means = [fmean(loss for rate, loss, _ in runs if rate == each) for each in rates]
        said = "never stable" if largest is None else f"stable up to {largest:g}"
        (line,) = axis.plot(rates, means, label=f"{_short(arm)}: {said}")
        for rate, loss, stable in runs:
            colour = line.get_color()
            axis.plot([rate], [loss], "o", color=colour, markerfacecolor=colour if stable else "none")
    axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss at the end (nats a token)")
    if arms:
        axis.legend(fontsize=7)
    return _png(figure)


def _short(name: str) -> str:
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half + 1 :]}"


def _grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    """A figure of rows × columns axes, each so many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + columns * width, 0.6 + rows * height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return out.getvalue()
