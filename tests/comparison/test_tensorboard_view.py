"""The view as files: what is linked, what is recorded, and that it can be rebuilt under a reader."""

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.hparams import api_pb2, metadata

from lab.comparison.tensorboard.hparams import TypedAxes
from lab.comparison.tensorboard.serve import COLOURS, build_view, serve, server
from lab.records import State
from lab.refusals import RequestError
from tests.comparison.browser import free_port
from tests.comparison.fake_runs import STEPS, fake_run, fake_sweep, write_curves


def summaries(folder: Path, tag: str) -> list[Any]:
    """(step, value) of every record of a tag in a folder's event files, read in the order of their names."""
    found = []
    for path in sorted(folder.glob("*tfevents*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            found += [(event.step, value) for value in event.summary.value if value.tag == tag]
    return found


def session(folder: Path) -> tuple[Any, Any]:
    """The start and the end that a run's folder of a view records; None for an end that it doesn't."""
    (_, start), ends = (
        summaries(folder, metadata.SESSION_START_INFO_TAG)[0],
        summaries(folder, metadata.SESSION_END_INFO_TAG),
    )
    parsed = [metadata.parse_session_end_info_plugin_data(end.metadata.plugin_data.content) for _, end in ends]
    assert len(parsed) < 2
    return metadata.parse_session_start_info_plugin_data(start.metadata.plugin_data.content), parsed[
        0
    ] if parsed else None


def test_every_run_is_shown_by_arm_and_seed_with_its_own_event_files(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0, 3.1], "neither": [3.2, 3.3]}, curves=True)
    view = build_view(tmp_path, "softcap")
    assert view == tmp_path / "softcap" / ".tensorboard"
    for arm in ("both", "neither"):
        for seed in (0, 1):
            (events,) = (tmp_path / "softcap" / arm / f"seed-{seed}").glob("events.out.*")
            link = view / arm / f"seed-{seed}" / events.name
            assert link.is_symlink()
            assert link.samefile(events)


def test_the_run_folders_stay_as_they_are(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0], "neither": [None]}, curves=True)
    runs = [tmp_path / "softcap" / arm for arm in ("both", "neither")]
    before = {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")}
    build_view(tmp_path, "softcap")
    assert {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")} == before


def test_there_is_one_experiment_record_with_the_swept_axes_alone_and_no_nameless_run(tmp_path: Path) -> None:
    for order, (arm, window) in enumerate({"both": 128, "neither": None}.items()):
        axes = {"model/window": window, "optimizer/lr": 10.0**-order, "model/qk_norm": order == 0}
        fake_run(tmp_path, arm, axes=axes, order=order, metrics=["val/loss", "far/accuracy"])
    view = build_view(tmp_path, "softcap")
    records = {path.parent: summaries(path.parent, metadata.EXPERIMENT_TAG) for path in view.rglob("*tfevents*")}
    assert [folder for folder, found in records.items() if found] == [view / "about"]
    assert view not in records  # TensorBoard would list it as the run `.`
    (_, record) = records[view / "about"][0]
    experiment = metadata.parse_experiment_plugin_data(record.metadata.plugin_data.content)
    infos = {info.name: info for info in experiment.hparam_infos}
    assert list(infos) == ["model/window", "optimizer/lr", "model/qk_norm"]
    assert all(info.differs for info in infos.values())
    assert infos["model/window"].type == api_pb2.DATA_TYPE_STRING  # 128 beside none has no other common type
    assert list(infos["model/window"].domain_discrete) == ["128", "null"]
    assert infos["optimizer/lr"].type == api_pb2.DATA_TYPE_FLOAT64
    assert list(infos["optimizer/lr"].domain_discrete) == [1.0, 0.1]
    assert infos["model/qk_norm"].type == api_pb2.DATA_TYPE_BOOL
    assert list(infos["model/qk_norm"].domain_discrete) == [True, False]
    assert [(m.name.tag, m.display_name) for m in experiment.metric_infos] == [
        *[("val/loss", "validation loss"), ("far/accuracy", "far accuracy"), ("costs/parameters", "parameters")],
        *[("costs/flops_per_token", "FLOPs/token"), ("costs/kv_bytes_per_token", "KV bytes/token")],
        ("costs/tokens_per_second", "tokens/s"),
    ]


@pytest.mark.parametrize(
    ("values", "typed"),
    [
        *[([1, 2.5], [1.0, 2.5]), ([True, False], [True, False]), (["a", "b"], ["a", "b"])],
        *[([True, 1], ["true", "1"]), ([None, 128], ["null", "128"]), ([[1, 2], "a"], ["[1, 2]", "a"])],
    ],
)
def test_an_axis_has_one_type(values: list[Any], typed: list[Any]) -> None:
    axes = TypedAxes([{"x": value} for value in values])
    found = [axes.typed({"x": value})["x"] for value in values]
    assert found == typed
    assert len({type(value) for value in found}) == 1


def test_seeds_are_sessions_of_their_arms_group_and_the_seed_is_no_axis(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0, 3.1]}, curves=True)
    view = build_view(tmp_path, "softcap")
    starts = [session(view / "both" / f"seed-{seed}")[0] for seed in (0, 1)]
    assert [start.group_name for start in starts] == ["both", "both"]
    assert [dict(start.hparams).keys() for start in starts] == [{"model/softcap"}, {"model/softcap"}]


@pytest.mark.parametrize(
    ("status", "recorded"),
    [
        *[
            ("finished", api_pb2.STATUS_SUCCESS),
            ("diverged", api_pb2.STATUS_FAILURE),
            ("failed", api_pb2.STATUS_FAILURE),
        ],
        *[("running", None), ("preempted", None), ("lost", None)],
    ],
)
def test_a_session_ends_with_the_runs_true_status_and_only_at_its_end(
    tmp_path: Path, status: str, recorded: int | None
) -> None:
    fake_run(tmp_path, status=status, curves=True)
    _, end = session(build_view(tmp_path, "softcap") / "both" / "seed-0")
    assert (end.status if end else None) == recorded


def test_a_finished_runs_last_value_is_its_summarys(tmp_path: Path) -> None:
    fake_run(tmp_path, loss=3.0, metrics=["val/loss", "far/accuracy"], results={"far/accuracy": 0.75}, curves=True)
    folder = build_view(tmp_path, "softcap") / "both" / "seed-0"
    assert [(step, value.simple_value) for step, value in summaries(folder, "val/loss")][-1] == (STEPS, 3.0)
    assert [(step, value.simple_value) for step, value in summaries(folder, "far/accuracy")] == [(STEPS, 0.75)]


def test_costs_are_a_runs_columns_those_that_it_measured_once_it_has_finished(tmp_path: Path) -> None:
    fake_run(tmp_path, curves=True)
    fake_run(tmp_path, seed=1, status="running", curves=True)
    fake_run(tmp_path, seed=2, status="diverged", curves=True)
    view = build_view(tmp_path, "softcap") / "both"
    known = {"parameters": 1_234_567, "flops_per_token": 7.5e6, "kv_bytes_per_token": 2048}
    for seed in range(3):
        for name, value in known.items():
            ((step, found),) = summaries(view / f"seed-{seed}", f"costs/{name}")
            assert (step, found.simple_value) == (0, value)
    speeds = [summaries(view / f"seed-{seed}", "costs/tokens_per_second") for seed in range(3)]
    assert [(step, found.simple_value) for step, found in speeds[0]] == [(STEPS, 34_500.0)]
    assert speeds[1:] == [[], []]


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_run_that_came_to_nothing_ends_in_nan_so_that_its_last_value_passes_for_no_result(
    tmp_path: Path, status: str
) -> None:
    fake_run(tmp_path, status=status, loss=3.0, curves=True)
    found = summaries(build_view(tmp_path, "softcap") / "both" / "seed-0", "val/loss")
    steps = [step for step, _ in found]
    assert math.isnan(found[-1][1].simple_value)
    assert steps == sorted(steps)  # TensorBoard forgets the points after a step that goes back
    assert len(steps) > 1
    assert all(math.isfinite(value.simple_value) for _, value in found[:-1])


def test_a_run_that_has_not_begun_is_not_shown(tmp_path: Path) -> None:
    fake_run(tmp_path, seed=0, curves=True)
    fake_run(tmp_path, seed=1, status="queued")
    folder = build_view(tmp_path, "softcap") / "both"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["seed-0"]


def test_a_view_that_is_up_to_date_is_left_alone(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [3.0, None]}, curves=True)
    built = build_view(tmp_path, "softcap").resolve()
    assert build_view(tmp_path, "softcap").resolve() == built


def test_a_rebuilt_view_has_what_is_new(tmp_path: Path) -> None:
    run = fake_run(tmp_path, status="running", curves=True)
    view = build_view(tmp_path, "softcap")
    write_curves(run.path, STEPS, 3.0)  # a second attempt, with an event file of its own
    run.state = State(status="failed", attempts=2)
    fake_run(tmp_path, "neither", order=1, curves=True)
    assert build_view(tmp_path, "softcap") == view
    assert len([path for path in (view / "both" / "seed-0").iterdir() if path.is_symlink()]) == 2
    assert session(view / "both" / "seed-0")[1].status == api_pb2.STATUS_FAILURE
    assert (view / "neither" / "seed-0").is_dir()


def test_replaced_views_are_removed_once_no_reader_can_be_on_the_way_to_them(tmp_path: Path) -> None:
    run = fake_run(tmp_path, status="running", curves=True)
    views = []
    for status in ("running", "failed"):
        run.state = State(status=status)
        views.append(build_view(tmp_path, "softcap").resolve())
    assert views[0].exists()
    os.utime(views[0], (time.time() - 90, time.time() - 90))
    run.state = State(status="running", attempts=2)
    views.append(build_view(tmp_path, "softcap").resolve())
    assert [view.exists() for view in views] == [False, True, True]


def test_a_reader_always_finds_a_whole_view(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path, seed=seed, status="running", curves=True) for seed in range(3)]
    view = build_view(tmp_path, "softcap")
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(len([path for path in view.rglob("*tfevents*") if path.is_symlink()]))
            except FileNotFoundError:
                seen.append(-1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for attempt in range(1, 13):
            for run in runs:
                run.state = State(status="failed" if attempt % 2 else "running", attempts=attempt)
            build_view(tmp_path, "softcap")
    finally:
        done.set()
        reader.join()
    assert set(seen) == {3}


def test_a_view_survives_its_root_being_moved(tmp_path: Path) -> None:
    fake_run(tmp_path / "here", curves=True)
    build_view(tmp_path / "here", "softcap")
    os.rename(tmp_path / "here", tmp_path / "there")
    links = [
        p for p in (tmp_path / "there" / "softcap" / ".tensorboard" / "both" / "seed-0").iterdir() if p.is_symlink()
    ]
    assert len(links) == 1
    assert links[0].exists()


def test_two_sweeps_share_one_view_with_the_axes_of_both_and_the_sweep_as_one_more(tmp_path: Path) -> None:
    fake_run(tmp_path, curves=True)
    fake_run(tmp_path, "wide", sweep="width", baseline="wide", axes={"model/d_ff": 512}, curves=True)
    view = build_view(tmp_path, ["softcap", "width"])
    assert (view / "softcap" / "both" / "seed-0").is_dir()
    start = session(view / "width" / "wide" / "seed-0")[0]
    assert start.group_name == "width/wide"
    assert dict(start.hparams).keys() == {"sweep", "model/d_ff"}
    (_, record) = summaries(view / "about", metadata.EXPERIMENT_TAG)[0]
    experiment = metadata.parse_experiment_plugin_data(record.metadata.plugin_data.content)
    assert [info.name for info in experiment.hparam_infos] == ["sweep", "model/softcap", "model/d_ff"]


def test_an_unknown_sweep_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no run of sweep 'nothing'"):
        build_view(tmp_path, "nothing")
    with pytest.raises(RequestError, match="at least one sweep"):
        build_view(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_a_taken_port_is_refused_by_its_number(tmp_path: Path) -> None:
    fake_run(tmp_path, curves=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match=f"port {port} is taken"), server(build_view(tmp_path, "softcap"), port):
            pass


def test_a_tensorboard_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no protobuf here >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(RequestError, match=r"exit code 3[\s\S]*no protobuf here"):
        serve(tmp_path, free_port())


@pytest.mark.slow
def test_serving_prints_the_loopback_address_refreshes_and_ends_with_the_command(tmp_path: Path) -> None:
    fake_run(tmp_path, curves=True)
    view, port = build_view(tmp_path, "softcap"), free_port()
    code = (
        "import sys; from pathlib import Path; from lab.comparison.tensorboard.serve import serve\n"
        f"mark = Path({str(tmp_path)!r}) / 'refreshed'\n"
        f"serve(Path({str(view)!r}), {port}, refresh=mark.touch, refresh_seconds=0.1)"
    )
    command = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert command.stdout is not None
        assert command.stdout.readline() == f"TensorBoard: http://127.0.0.1:{port}/{COLOURS} (Ctrl-C ends it)\n"
        deadline = time.monotonic() + 120
        while not (tmp_path / "refreshed").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (tmp_path / "refreshed").exists()
        listening = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line}
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
        command.send_signal(signal.SIGTERM)
        assert command.wait(300) == 0
        with socket.socket() as again:
            assert again.connect_ex(("127.0.0.1", port)) != 0
    finally:
        command.kill()
        command.wait()
