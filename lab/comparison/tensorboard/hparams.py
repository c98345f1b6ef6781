"""The records that fill TensorBoard's HParams tab, as the bytes of event files.

The tab has rules, and loses columns or values if one is broken: one experiment record in a log folder, one type for
each axis, one end for each session. `summary_v2` and the `_pb2` modules work without TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from google.protobuf import struct_pb2  # type: ignore[import-untyped]
from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2

from lab.comparison.metrics import COST_TITLES, title
from lab.comparison.read.results import COSTS
from lab.comparison.tensorboard.event_files import EventRecord, event_file, scalars
from lab.records import is_number

Value = bool | float | str

_COSTS = {f"costs/{name}": COST_TITLES[name] for name in (*COSTS, "tokens_per_second")}
"""The tags of the columns of costs, and their titles."""


class Axes:
    """Swept axes, with all values of an axis in one type, as TensorBoard needs it.

    If all values of an axis are numbers, or all are booleans, they stay so. Other axes become text, such as a window
    of `128` or `null`.

    Args:
        arms: axis → value, for each arm.
    """

    def __init__(self, arms: Iterable[Mapping[str, object]]) -> None:
        self._values: dict[str, list[object]] = {}
        for axes in arms:
            for axis, value in axes.items():
                self._values.setdefault(axis, []).append(value)
        self._types = {axis: _type(values) for axis, values in self._values.items()}

    def typed(self, axes: Mapping[str, object]) -> dict[str, Value]:
        """One arm's values, each in the type of its axis."""
        return {axis: _convert(value, self._types[axis]) for axis, value in axes.items()}

    def infos(self) -> list[api_pb2.HParamInfo]:
        """The axes as the experiment record declares them, with all their values."""
        return [
            api_pb2.HParamInfo(
                name=axis,
                display_name=axis,
                type=_DATA_TYPES[self._types[axis]],
                domain_discrete=struct_pb2.ListValue(values=[_proto(value) for value in self._domain(axis)]),
                # Without it the tab may leave the column out.
                differs=True,
            )
            for axis in self._values
        ]

    def _domain(self, axis: str) -> list[Value]:
        return list(dict.fromkeys(_convert(value, self._types[axis]) for value in self._values[axis]))


def experiment(axes: Axes, metrics: Sequence[str]) -> summary_pb2.Summary:
    """The record that declares the columns: the swept axes, and the metrics and costs with their titles.

    Args:
        metrics: scalar tags.
    """
    columns = {metric: title(metric) for metric in metrics} | _COSTS
    infos = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=name) for tag, name in columns.items()]
    declared = api_pb2.Experiment(hparam_infos=axes.infos(), metric_infos=infos)
    return _record(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=declared))


def session_start(group: str, axes: Mapping[str, Value], costs: Mapping[str, float], created: float) -> bytes:
    """An event file that makes its folder a session of a group, the arm. The seeds of a group share one line.

    Args:
        costs: the costs that are known before the run begins, by their names in a plan.
        created: unix seconds.
    """
    start = summary_v2.hparams_pb(dict(axes), trial_id=group, start_time_secs=created)
    return event_file(created, [EventRecord(0, start), *_scalars(0, _columns(costs))])


def session_end(
    succeeded: bool, metrics: Mapping[str, float], costs: Mapping[str, float], step: int, ended: float
) -> bytes:
    """An event file that ends a session with its true status and the final values of its metrics.

    Args:
        metrics: scalar tag → value; NaN if the run has no result, so that no earlier value is taken for one.
        costs: the costs that the run measured, by their names in its summary.
        step: the last optimizer step. With a smaller one, TensorBoard would drop the points after it.
        ended: unix seconds.
    """
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=ended)
    end = _record(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=info))
    return event_file(ended, [EventRecord(step, end), *_scalars(step, {**metrics, **_columns(costs)})])


def _columns(costs: Mapping[str, float]) -> dict[str, float]:
    """The costs that have a column, by the column's tag."""
    return {f"costs/{name}": value for name, value in costs.items() if f"costs/{name}" in _COSTS}


def _scalars(step: int, values: Mapping[str, float]) -> list[EventRecord]:
    return [EventRecord(step, scalars(values))] if values else []


def _record(tag: str, data: plugin_data_pb2.HParamsPluginData) -> summary_pb2.Summary:
    value = summary_pb2.Summary.Value(
        tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR
    )
    return summary_pb2.Summary(value=[value])


_DATA_TYPES = {bool: api_pb2.DATA_TYPE_BOOL, float: api_pb2.DATA_TYPE_FLOAT64, str: api_pb2.DATA_TYPE_STRING}


def _type(values: list[object]) -> type[Value]:
    if all(isinstance(value, bool) for value in values):
        return bool
    if all(is_number(value) for value in values):
        return float
    return str


def _convert(value: object, kind: type[Value]) -> Value:
    if kind is bool and isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float):
        return float(value)
    # As YAML and JSON write it, so that it reads like the sweep's file: null, true, [128, 256].
    return value if isinstance(value, str) else json.dumps(value)


def _proto(value: Value) -> struct_pb2.Value:
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    return struct_pb2.Value(string_value=value) if isinstance(value, str) else struct_pb2.Value(number_value=value)
