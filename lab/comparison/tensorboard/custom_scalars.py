"""The page of TensorBoard's Custom Scalars tab: the arms' means with their bands over seeds, and their differences from
the baseline, for each metric over tokens and over FLOPs.

Each chart has a single series: if a run has some of a chart's series but not all, TensorBoard shows an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from lab.comparison.metrics import title
from lab.comparison.tensorboard.event_files import string


class Margin(NamedTuple):
    """The tags of one chart; their points have the same steps."""

    value: str
    lower: str
    upper: str


def margin(kind: str, axis: str, metric: str) -> Margin:
    """The tags of a metric's `mean` or `difference` over an axis such as `tokens` or `GFLOPs`."""
    chart = f"{kind} over {axis}"
    return Margin(f"{chart}/{metric}", f"{chart}, band/{metric} low", f"{chart}, band/{metric} high")


def page(metrics: Sequence[str], axes: Sequence[str], baseline: str) -> summary_pb2.Summary:
    """The record that lays the page out; `baseline` names what the differences are from."""
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
