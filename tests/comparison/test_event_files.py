"""Event files as bytes: TensorBoard's own writer would have written the same."""

import io

import pytest
from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from lab.comparison.tensorboard.event_files import EventRecord, event_file, scalars


@pytest.mark.parametrize("n", [0, 3, 200])
def test_an_event_file_is_what_tensorboards_writer_writes(n: int) -> None:
    records = [EventRecord(i, scalars({f"loss{'!' * (i % 7)}": i / 7}, {"loss": "of seeds 0, 1"})) for i in range(n)]
    expected = io.BytesIO()
    writer = RecordWriter(expected)
    writer.write(event_pb2.Event(wall_time=5.0, file_version="brain.Event:2").SerializeToString())
    for step, summary in records:
        writer.write(event_pb2.Event(wall_time=5.0, step=step, summary=summary).SerializeToString())
    assert event_file(5.0, records) == expected.getvalue()
