"""Event files as bytes, written without TensorFlow.

The same records always give the same bytes, so that comparing files tells whether a view is up to date.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import google_crc32c
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.text import metadata as text_metadata

_HEADER_BYTES = 12  # an event's length, and the length's checksum
_CHECKSUM_BYTES = 4


class EventRecord(NamedTuple):
    """The content of an event file at one step."""

    step: int
    summary: summary_pb2.Summary


def event_file(time: float, records: Iterable[EventRecord]) -> bytes:
    """An event file with these records, all of them at `time` (unix seconds)."""
    events = [event_pb2.Event(wall_time=time, file_version="brain.Event:2")]
    events += [event_pb2.Event(wall_time=time, step=step, summary=summary) for step, summary in records]
    return b"".join(_frame(event.SerializeToString()) for event in events)


def has_tag(content: bytes, tag: str) -> bool:
    """Whether an event file written by `event_file` has a value with this tag."""
    if tag.encode() not in content:  # usually enough, and a hundred times as fast as parsing
        return False
    start = 0
    while start < len(content):
        (size,) = struct.unpack_from("<Q", content, start)
        begin = start + _HEADER_BYTES
        event = event_pb2.Event.FromString(content[begin : begin + size])
        if any(value.tag == tag for value in event.summary.value):
            return True
        start = begin + size + _CHECKSUM_BYTES
    return False


def scalars(values: Mapping[str, float], descriptions: Mapping[str, str] | None = None) -> summary_pb2.Summary:
    """A record of scalars.

    Args:
        values: tag → value.
        descriptions: tag → the description that TensorBoard shows, for some of the tags.
    """
    summary = summary_pb2.Summary()
    for tag, value in values.items():
        scalar = summary.value.add(tag=tag, simple_value=value)
        if descriptions and tag in descriptions:
            scalar.metadata.summary_description = descriptions[tag]
    return summary


def texts(markdown: Mapping[str, str]) -> summary_pb2.Summary:
    """A record of texts (tag → Markdown) for the Text tab."""
    metadata = text_metadata.create_summary_metadata(display_name=None, description=None)
    metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
    return summary_pb2.Summary(value=[string(tag, text.encode(), metadata) for tag, text in markdown.items()])


def string(tag: str, content: bytes, metadata: summary_pb2.SummaryMetadata) -> summary_pb2.Summary.Value:
    """A string value with a tag, as a scalar tensor."""
    shape = tensor_shape_pb2.TensorShapeProto()
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=[content])
    return summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _frame(event: bytes) -> bytes:
    """An event framed as by TensorBoard's RecordWriter, whose checksums in Python are thirty times slower."""
    length = struct.pack("<Q", len(event))
    return b"".join((length, _checksum(length), event, _checksum(event)))


def _checksum(content: bytes) -> bytes:
    """The masked CRC-32C of TensorFlow's record format."""
    crc = google_crc32c.value(content)
    masked = ((crc >> 15) | (crc << 17)) + 0xA282EAD8
    return struct.pack("<I", masked & 0xFFFFFFFF)
