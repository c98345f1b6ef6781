"""The layout of TensorBoard's Custom Scalars tab.

It shows, for each metric, the arms' means over seeds and their differences from the baseline, with bands, over tokens
and over FLOPs. Each chart has a single series: TensorBoard shows an error for a run that has only some of a chart's
series.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from lab.comparison.metrics import title
from lab.comparison.tensorboard.event_files import string


class Margin(NamedTuple):
    """The tags of one chart: a curve and the edges of its band, at the same steps."""

    value: str
    lower: str
    upper: str


def margin(kind: str, axis: str, metric: str) -> Margin:
    """The tags of a metric's `mean` or `difference` over an axis such as `tokens` or `GFLOPs`."""
    chart = f"{kind} over {axis}"
    return Margin(f"{chart}/{metric}", f"{chart}, band/{metric} low", f"{chart}, band/{metric} high")


def chart_layout(metrics: Sequence[str], axes: Sequence[str], baseline: str) -> summary_pb2.Summary:
    """The record that declares the tab's charts.

    Args:
        metrics: the metrics that have curves.
        axes: the axes' names in tags.
        baseline: the name of the baseline, for headings.
    """
    categories = []
    for metric in metrics:
        for kind, heading in (
            ("mean", f"{title(metric)}: mean over seeds"),
            ("difference", f"{title(metric)}: difference from {baseline}, paired by seed"),
        ):
            # TensorBoard shows a group's charts from the last to the first.
            charts = [_chart(f"over {axis}", margin(kind, axis, metric)) for axis in reversed(axes)]
            categories.append(layout_pb2.Category(title=f"{heading}, with 95% t intervals", chart=charts))
    layout = layout_pb2.Layout(category=categories).SerializeToString()
    summary_metadata = metadata.create_summary_metadata()
    summary_metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
    return summary_pb2.Summary(value=[string(metadata.CONFIG_SUMMARY_TAG, layout, summary_metadata)])


def _chart(name: str, tags: Margin) -> layout_pb2.Chart:
    series = layout_pb2.MarginChartContent.Series(value=tags.value, lower=tags.lower, upper=tags.upper)
    return layout_pb2.Chart(title=name, margin=layout_pb2.MarginChartContent(series=[series]))
