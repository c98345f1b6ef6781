"""The records that fill TensorBoard's HParams tab, as the bytes of event files.

The tab loses columns or values unless a log folder has one experiment record, each axis has one type, and each session
has one end. `summary_v2` and the `_pb2` modules work without TensorFlow.
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
"""The tags and titles of the columns of costs."""


class TypedAxes:
    """Swept axes with one type for all values of an axis, as TensorBoard requires.

    If all values of an axis are numbers, or all are booleans, they keep their type. Otherwise all become text, such as
    the windows `128` and `null`.

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
        """One arm's values, each converted to the type of its axis."""
        return {axis: _convert(value, self._types[axis]) for axis, value in axes.items()}

    def infos(self) -> list[api_pb2.HParamInfo]:
        """The axes with all their values, for the experiment record."""
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


def experiment(axes: TypedAxes, metrics: Sequence[str]) -> summary_pb2.Summary:
    """The record that declares the columns: the swept axes, and the metrics and costs with their titles.

    Args:
        axes: the swept axes.
        metrics: the tags of the metrics.
    """
    columns = {metric: title(metric) for metric in metrics} | _COSTS
    infos = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=name) for tag, name in columns.items()]
    declared = api_pb2.Experiment(hparam_infos=axes.infos(), metric_infos=infos)
    return _record(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=declared))


def session_start(group: str, axes: Mapping[str, Value], costs: Mapping[str, float], created: float) -> bytes:
    """An event file that makes its folder a session of a group. The tab shows one line for each group.

    Args:
        group: the arm, whose seeds are the group's sessions.
        axes: axis → the arm's value.
        costs: the costs that are known before the run starts, by their names in a plan.
        created: when the run was created, in unix seconds.
    """
    start = summary_v2.hparams_pb(dict(axes), trial_id=group, start_time_secs=created)
    return event_file(created, [EventRecord(0, start), *_scalars(0, _columns(costs))])


def session_end(
    succeeded: bool, metrics: Mapping[str, float], costs: Mapping[str, float], step: int, ended: float
) -> bytes:
    """An event file that ends a session with its status and the final values of its metrics.

    Args:
        succeeded: whether the run has finished.
        metrics: tag → value; NaN if the run has no result, so that TensorBoard doesn't show an earlier value as final.
        costs: the costs that the run measured, by their names in its summary.
        step: the last optimizer step. TensorBoard drops points with larger steps.
        ended: when the run ended, in unix seconds.
    """
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=ended)
    end = _record(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=info))
    return event_file(ended, [EventRecord(step, end), *_scalars(step, {**metrics, **_columns(costs)})])


def _columns(costs: Mapping[str, float]) -> dict[str, float]:
    """Tag → value of the costs that have a column."""
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
    # Written as in the sweep's file: null, true, [128, 256].
    return value if isinstance(value, str) else json.dumps(value)


def _proto(value: Value) -> struct_pb2.Value:
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    return struct_pb2.Value(string_value=value) if isinstance(value, str) else struct_pb2.Value(number_value=value)
