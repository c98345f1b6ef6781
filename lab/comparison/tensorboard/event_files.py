"""Event files as bytes, written without TensorFlow: the same records give the same bytes.

So a view that is up to date can be told from one that isn't.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import CRC_TABLE
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

_HEADER = 12  # of an event: its length, and that one's checksum
_CHECKSUM = 4
_MANY = 16  # events, from which on their checksums are computed side by side


class Record(NamedTuple):
    """What an event file says at one step."""

    step: int
    summary: summary_pb2.Summary


def event_file(time: float, records: Iterable[Record]) -> bytes:
    """An event file with these records; `time` (unix seconds) is that of each."""
    events = [event_pb2.Event(wall_time=time, file_version="brain.Event:2").SerializeToString()]
    for step, summary in records:
        events.append(event_pb2.Event(wall_time=time, step=step, summary=summary).SerializeToString())
    if len(events) >= _MANY:
        return _framed(events)
    file = io.BytesIO()
    writer = RecordWriter(file)
    for event in events:
        writer.write(event)
    return file.getvalue()


def has_tag(content: bytes, tag: str) -> bool:
    """Whether an event file, as `event_file` writes it, has a value of this very tag."""
    if tag.encode() not in content:  # nearly always the answer, and a hundred times as fast
        return False
    start = 0
    while start < len(content):
        (size,) = struct.unpack_from("<Q", content, start)
        event = event_pb2.Event.FromString(content[start + _HEADER : start + _HEADER + size])
        if any(value.tag == tag for value in event.summary.value):
            return True
        start += _HEADER + size + _CHECKSUM
    return False


def scalars(values: Mapping[str, float], descriptions: Mapping[str, str] | None = None) -> summary_pb2.Summary:
    """Tag → value, and for some tags what TensorBoard says about them."""
    found = []
    for tag, value in values.items():
        scalar = summary_pb2.Summary.Value(tag=tag, simple_value=value)
        if descriptions and tag in descriptions:
            scalar.metadata.CopyFrom(summary_pb2.SummaryMetadata(summary_description=descriptions[tag]))
        found.append(scalar)
    return summary_pb2.Summary(value=found)


def texts(markdown: Mapping[str, str]) -> summary_pb2.Summary:
    """Tag → Markdown, for the Text tab."""
    metadata = text_metadata.create_summary_metadata(display_name=None, description=None)
    metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
    return summary_pb2.Summary(value=[string(tag, text.encode(), metadata) for tag, text in markdown.items()])


def string(tag: str, content: bytes, metadata: summary_pb2.SummaryMetadata) -> summary_pb2.Summary.Value:
    """One string under a tag: a tensor without dimensions' worth of it, in a list of one for the Text tab."""
    shape = tensor_shape_pb2.TensorShapeProto()
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=[content])
    return summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _framed(events: Sequence[bytes]) -> bytes:
    """As RecordWriter frames them: length, its checksum, the event, its checksum; in a thirtieth of the time."""
    headers = [struct.pack("<Q", len(event)) for event in events]
    parts = zip(headers, _checksums(headers), events, _checksums(events), strict=True)
    return b"".join(part for record in parts for part in record)


def _checksums(contents: Sequence[bytes]) -> list[bytes]:
    """The masked CRC-32C of each, byte by byte of all of them at once."""
    import numpy as np

    lengths = np.array([len(content) for content in contents])
    longest = int(lengths.max())
    padded = b"".join(content.ljust(longest, b"\0") for content in contents)
    columns = np.frombuffer(padded, np.uint8).reshape(len(contents), longest).T.astype(np.uint32)
    table = np.array(CRC_TABLE, np.uint32)
    crc = np.full(len(contents), 0xFFFFFFFF, np.uint32)
    for i in range(longest):
        crc = np.where(lengths > i, table[(crc ^ columns[i]) & 0xFF] ^ (crc >> 8), crc)
    crc = ~crc
    masked = ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
    return [value.tobytes() for value in masked.astype("<u4")]
