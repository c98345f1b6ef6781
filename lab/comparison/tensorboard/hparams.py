"""The records that fill TensorBoard's HParams tab, as the bytes of event files.

Its rules, each of which loses columns or values when broken: one experiment record under a log folder; one type an
axis; a session ends once. `summary_v2` and the `_pb2` modules are the ones that work without TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2  # type: ignore[import-untyped]
from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2

from lab.comparison.metrics import title
from lab.comparison.read.labels import is_number
from lab.comparison.tensorboard.event_files import Record, event_file, scalars

Value = bool | float | str

COSTS = {
    "costs/parameters": "parameters",
    "costs/flops_per_token": "FLOPs per token",
    "costs/kv_bytes_per_token": "KV bytes per token",
    "costs/tokens_per_second": "tokens/s",
}
"""The tags of the columns of costs, and their names."""


class Axes:
    """Swept axes with their values in the one type that each axis has for TensorBoard.

    Numbers stay numbers and booleans booleans where all of an axis's values are; anything else, such as a window of 128
    or none, becomes text: `128`, `null`.

    Args:
        arms: axis → value, for each arm.
    """

    def __init__(self, arms: Iterable[Mapping[str, Any]]) -> None:
        self._values: dict[str, list[Any]] = {}
        for axes in arms:
            for axis, value in axes.items():
                self._values.setdefault(axis, []).append(value)
        self._types = {axis: _type(values) for axis, values in self._values.items()}

    def typed(self, axes: Mapping[str, Any]) -> dict[str, Value]:
        """One arm's values, each in its axis's type."""
        return {axis: _convert(value, self._types[axis]) for axis, value in axes.items()}

    def infos(self) -> list[api_pb2.HParamInfo]:
        """The axes as the experiment record declares them, in their order, with all values that they take."""
        return [
            api_pb2.HParamInfo(
                name=axis,
                display_name=axis,
                type=_DATA_TYPES[self._types[axis]],
                domain_discrete=struct_pb2.ListValue(values=[_proto(value) for value in self._domain(axis)]),
                # What every arm shares is no axis. Unset, the tab may leave the column out.
                differs=True,
            )
            for axis in self._values
        ]

    def _domain(self, axis: str) -> list[Value]:
        return list(dict.fromkeys(_convert(value, self._types[axis]) for value in self._values[axis]))


def experiment(axes: Axes, metrics: Sequence[str]) -> summary_pb2.Summary:
    """The record that declares the columns: the swept axes, and the metrics and costs by readable names.

    Args:
        metrics: scalar tags.
    """
    columns = {metric: title(metric) for metric in metrics} | COSTS
    infos = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=name) for tag, name in columns.items()]
    declared = api_pb2.Experiment(hparam_infos=axes.infos(), metric_infos=infos)
    return _record(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=declared))


def session_start(group: str, axes: Mapping[str, Value], costs: Mapping[str, float], created: float) -> bytes:
    """An event file that makes its folder a session of the group (the arm): the group's seeds share one line.

    Args:
        costs: those that are known before the run begins, by their names in a plan.
        created: unix seconds.
    """
    start = summary_v2.hparams_pb(dict(axes), trial_id=group, start_time_secs=created)
    return event_file(created, [Record(0, start), *_scalars(0, _columns(costs))])


def session_end(
    succeeded: bool, metrics: Mapping[str, float], costs: Mapping[str, float], step: int, ended: float
) -> bytes:
    """An event file that ends a session with its true status and the last value of its metrics.

    Args:
        metrics: scalar tag → value; NaN where the run came to none, so that no earlier value passes for its result.
        costs: those that the run measured, by their names in its summary.
        step: the last optimizer step; a smaller one would make TensorBoard forget the points after it.
        ended: unix seconds.
    """
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=ended)
    end = _record(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=info))
    return event_file(ended, [Record(step, end), *_scalars(step, {**metrics, **_columns(costs)})])


def _columns(costs: Mapping[str, float]) -> dict[str, float]:
    """The costs that have a column, by its tag."""
    return {f"costs/{name}": value for name, value in costs.items() if f"costs/{name}" in COSTS}


def _scalars(step: int, values: Mapping[str, float]) -> list[Record]:
    return [Record(step, scalars(values))] if values else []


def _record(tag: str, data: plugin_data_pb2.HParamsPluginData) -> summary_pb2.Summary:
    value = summary_pb2.Summary.Value(
        tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR
    )
    return summary_pb2.Summary(value=[value])


_DATA_TYPES = {bool: api_pb2.DATA_TYPE_BOOL, float: api_pb2.DATA_TYPE_FLOAT64, str: api_pb2.DATA_TYPE_STRING}


def _type(values: list[Any]) -> type:
    if all(isinstance(value, bool) for value in values):
        return bool
    if all(is_number(value) for value in values):
        return float
    return str


def _convert(value: Any, kind: type) -> Value:
    if kind is str:
        # As YAML and JSON write it, so that it reads like the sweep's file: null, true, [128, 256].
        return value if isinstance(value, str) else json.dumps(value)
    return kind(value)  # type: ignore[no-any-return]


def _proto(value: Value) -> struct_pb2.Value:
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    return struct_pb2.Value(string_value=value) if isinstance(value, str) else struct_pb2.Value(number_value=value)
