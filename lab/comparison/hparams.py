"""The records that fill TensorBoard's HParams tab, as the bytes of event files.

Its rules, each of which loses columns or values when broken: one experiment record under a log folder; one type an
axis; a session ends once. `summary_v2` and the `_pb2` modules are the ones that work without TensorFlow. Bytes rather
than a writer: the same runs give the same file, so a view that is up to date can be told from one that isn't.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2  # type: ignore[import-untyped]
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.summary.writer.record_writer import RecordWriter

from lab.comparison.metrics import title

Value = bool | float | str


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


def experiment(axes: Axes, metrics: Sequence[str], created: float) -> bytes:
    """An event file that declares the columns: the swept axes, and the metrics by readable names.

    Args:
        metrics: scalar tags.
        created: unix seconds.
    """
    record = api_pb2.Experiment(
        hparam_infos=axes.infos(),
        metric_infos=[
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=metric), display_name=title(metric)) for metric in metrics
        ],
        time_created_secs=created,
    )
    return _events(created, 0, _record(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=record)))


def session_start(group: str, axes: Mapping[str, Value], created: float) -> bytes:
    """An event file that makes its folder a session of the group (the arm): the group's seeds share one line."""
    return _events(created, 0, summary_v2.hparams_pb(dict(axes), trial_id=group, start_time_secs=created))


def session_end(succeeded: bool, metrics: Mapping[str, float], step: int, ended: float) -> bytes:
    """An event file that ends a session with its true status and the last value of its metrics.

    Args:
        metrics: scalar tag → value; NaN where the run came to none, so that no earlier value passes for its result.
        step: the last optimizer step; a smaller one would make TensorBoard forget the points after it.
        ended: unix seconds.
    """
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=ended)
    end = _record(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=info))
    values = summary_pb2.Summary(
        value=[summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in metrics.items()]
    )
    return _events(ended, step, end, *([values] if metrics else []))


def _record(tag: str, data: plugin_data_pb2.HParamsPluginData) -> summary_pb2.Summary:
    value = summary_pb2.Summary.Value(
        tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR
    )
    return summary_pb2.Summary(value=[value])


def _events(time: float, step: int, *summaries: summary_pb2.Summary) -> bytes:
    file = io.BytesIO()
    records = RecordWriter(file)
    records.write(event_pb2.Event(wall_time=time, file_version="brain.Event:2").SerializeToString())
    for summary in summaries:
        records.write(event_pb2.Event(wall_time=time, step=step, summary=summary).SerializeToString())
    return file.getvalue()


_DATA_TYPES = {bool: api_pb2.DATA_TYPE_BOOL, float: api_pb2.DATA_TYPE_FLOAT64, str: api_pb2.DATA_TYPE_STRING}


def _type(values: list[Any]) -> type:
    if all(isinstance(value, bool) for value in values):
        return bool
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
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
