"""The view as a person sees it in TensorBoard, and as TensorBoard's own HTTP interface gives it."""

import json
import math
import struct
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from lab.comparison.tensorboard.custom_scalars import margin
from lab.comparison.tensorboard.serve import COLOURS, build_view
from lab.records import State, write_json
from lab.training.progress.event_file import EventFile
from tests.comparison import browser
from tests.comparison.fake_runs import STEPS, fake_run, write_curves

ARMS: dict[str, dict[str, Any]] = {
    "both": {"model/softcap": "gemma2", "model/window": 128, "optimizer/lr": 0.0005},
    "cap_only": {"model/softcap": "gemma2", "model/window": None, "optimizer/lr": 0.002},
    "neither": {"model/softcap": "none", "model/window": 256, "optimizer/lr": 0.002},
}
LOSSES: dict[str, list[float | None]] = {
    "both": [3.20, 3.22, 3.24],
    "cap_only": [3.30, 3.32, 3.40],
    "neither": [3.50, 3.52, None],
}
METRICS = ("val/loss", "val/bits_per_byte")
RUNS = ["about", *(name for arm in ARMS for name in (arm, *(f"{arm}/seed-{seed}" for seed in range(3))))]
STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


def make_sweep(root: Path) -> Path:
    for order, (arm, axes) in enumerate(ARMS.items()):
        for seed, loss in enumerate(LOSSES[arm]):
            end: dict[str, Any] = {"status": "diverged"} if loss is None else {"loss": loss}
            results = {"val/bits_per_byte": 1.25}
            fake_run(root, arm, seed, order=order, axes=axes, metrics=METRICS, results=results, curves=True, **end)
    events = EventFile(root / "softcap" / "both" / "seed-0", STEPS, label="eval-attention_maps")
    events.add_images({"attention_maps/layer_0": png()}, STEPS)
    events.close()
    return build_view(root, "softcap")


def png(side: int = 32) -> bytes:
    """A picture of one colour."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x30\x60\x90" * side) * side)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with browser.tensorboard(make_sweep(tmp_path_factory.mktemp("runs"))) as address:
        browser.wait_for(lambda: get(address, "data/runs"), lambda runs: len(runs) == len(RUNS))
        yield address


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    with browser.chromium() as driver:
        yield driver


def get(address: str, path: str) -> Any:
    with urllib.request.urlopen(address + path) as answer:
        return json.load(answer)


def groups(address: str, statuses: list[str] = STATUSES) -> dict[str, Any]:
    """The HParams tab's lines by their name, as its HTTP interface gives them."""
    asked = {"allowedStatuses": statuses, "startIndex": 0, "sliceSize": 1000, "colParams": []}
    url, headers = address + "data/plugin/hparams/session_groups", {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return {group["name"]: group for group in json.load(answer)["sessionGroups"]}


def metrics(group: dict[str, Any]) -> dict[str, float]:
    return {metric["name"]["tag"]: float(metric["value"]) for metric in group["metricValues"]}


@pytest.mark.slow
def test_the_interface_has_one_group_an_arm_with_its_seeds_as_sessions(address: str) -> None:
    found = groups(address)
    assert list(found) == list(ARMS)
    for arm, group in found.items():
        assert [session["name"] for session in group["sessions"]] == [f"{arm}/seed-{seed}" for seed in range(3)]


@pytest.mark.slow
def test_the_interface_has_the_axes_typed(address: str) -> None:
    assert groups(address)["cap_only"]["hparams"] == {
        "model/softcap": "gemma2",
        "model/window": "null",
        "optimizer/lr": 0.002,
    }


@pytest.mark.slow
def test_the_interface_has_the_mean_over_seeds_of_every_metric(address: str) -> None:
    costs = {"parameters": 1_234_567, "flops_per_token": 7.5e6, "kv_bytes_per_token": 2048, "tokens_per_second": 34_500}
    expected = {"val/loss": 3.22, "val/bits_per_byte": 1.25} | {f"costs/{name}": cost for name, cost in costs.items()}
    assert metrics(groups(address)["both"]) == pytest.approx(expected, rel=1e-6)
    assert metrics(groups(address)["cap_only"])["val/loss"] == pytest.approx(3.34, rel=1e-6)


@pytest.mark.slow
def test_a_diverged_seed_makes_its_arms_cell_nan_until_failures_are_filtered_out(address: str) -> None:
    assert math.isnan(metrics(groups(address)["neither"])["val/loss"])
    assert [session["status"] for session in groups(address)["neither"]["sessions"]] == [
        *("STATUS_SUCCESS", "STATUS_SUCCESS", "STATUS_FAILURE")
    ]
    succeeded = groups(address, ["STATUS_SUCCESS"])["neither"]
    assert metrics(succeeded)["val/loss"] == pytest.approx(3.51, rel=1e-6)


@pytest.mark.slow
def test_a_view_rebuilt_under_tensorboard_shows_a_run_that_went_on_and_one_that_is_new(tmp_path: Path) -> None:
    run = fake_run(tmp_path, "both", 0, status="running", loss=3.2, curves=True)
    view = build_view(tmp_path, "softcap")
    with browser.tensorboard(view) as address:
        found = browser.wait_for(lambda: groups(address), lambda found: bool(found and metrics(found["both"])))
        assert found["both"]["sessions"][0]["status"] == "STATUS_UNKNOWN"
        assert metrics(found["both"])["val/loss"] != pytest.approx(2.5)

        write_curves(run.path, STEPS, 2.5)
        summary = {"version": 1, "status": "finished", "metrics": {"val/loss": 2.5}, "costs": {"steps": STEPS}}
        write_json(run.path / "summary.json", summary)
        run.state = State(status="finished", attempts=2, heartbeat=1_772_370_000.0)
        fake_run(tmp_path, "neither", 0, order=1, loss=3.5, curves=True)
        build_view(tmp_path, "softcap")

        found = browser.wait_for(
            lambda: groups(address),
            lambda found: "neither" in found and found["both"]["sessions"][0]["status"] == "STATUS_SUCCESS",
        )
        assert metrics(found["both"])["val/loss"] == pytest.approx(2.5)
        assert metrics(found["neither"])["val/loss"] == pytest.approx(3.5)
        tag = margin("mean", "tokens", "val/loss").value
        path = f"data/plugin/custom_scalars/scalars?{urllib.parse.urlencode({'run': 'both', 'tag': tag})}"
        points = browser.wait_for(
            lambda: get(address, path)["tag_to_events"].get(tag, []),
            lambda points: bool(points and points[-1][2] == 2.5),
        )
        # The mean as it is now: nothing is left of what the interrupted run's file said.
        assert [step for _, step, _ in points] == [step * 512 for step in (10, 20, 30, 40)]


@pytest.mark.browser
def test_the_hparams_tab_has_the_swept_axes_and_the_metrics_for_columns_and_a_line_an_arm(
    address: str, driver: Chrome, tmp_path: Path
) -> None:
    browser.open_tab(driver, address, "hparams")
    # TensorBoard shows the first five metrics: tokens/s, the sixth here, is a tick away.
    costs = ["parameters", "FLOPs/token", "KV bytes/token"]
    expected = ["Trial ID", "Show Metrics", *ARMS["both"], "validation loss", "validation bits per byte", *costs]
    table = browser.wait_for(lambda: hparams_table(driver), lambda table: len(table) == 1 + len(ARMS))
    assert table[0] == expected
    assert [line[0] for line in table[1:]] == list(ARMS)
    known = ["1.2346e+6", "7.5000e+6", "2048.0"]
    assert table[1][2:] == ["gemma2", "128", "0.00050000", "3.2200", "1.2500", *known]
    assert table[2][2:] == ["gemma2", "null", "0.0020000", "3.3400", "1.2500", *known]
    assert table[3][2:] == ["none", "256", "0.0020000", "NaN", "NaN", *known]
    browser.screenshot(driver, tmp_path / "hparams.png")
    assert (tmp_path / "hparams.png").stat().st_size > 10_000


@pytest.mark.browser
def test_the_hparams_tab_offers_every_value_of_an_axis_as_a_filter(address: str, driver: Chrome) -> None:
    driver.get(address + "#hparams")
    offered = browser.wait_for(
        lambda: browser.texts(driver, "paper-checkbox", inside="tf-hparams-query-pane"),
        lambda found: "validation loss" in found,
    )
    assert offered[: offered.index("validation loss")] == [
        *("model/softcap", "gemma2", "none", "model/window", "128", "null", "256"),
        *("optimizer/lr", "0.00050000", "0.0020000"),
    ]


@pytest.mark.browser
def test_the_scalars_tab_lists_runs_by_arm_and_seed(address: str, driver: Chrome) -> None:
    browser.open_tab(driver, address, "scalars")
    listed = browser.wait_for(
        lambda: browser.texts(driver, ".item-label-container", inside="tf-runs-selector"),
        lambda found: len(found) >= len(RUNS),
    )
    assert sorted(listed) == sorted(RUNS)  # and no nameless run `.`


@pytest.mark.browser
def test_the_parallel_coordinates_have_a_line_an_arm_without_failures(address: str, driver: Chrome) -> None:
    browser.open_tab(driver, address, "hparams")
    browser.wait_for(lambda: hparams_table(driver), lambda table: len(table) == 1 + len(ARMS))
    browser.click(driver, "paper-tab", "parallel coordinates view")
    plot = "tf-hparams-parallel-coords-plot"
    axes = browser.wait_for(lambda: browser.texts(driver, "text", inside=plot), lambda found: "parameters" in found)
    assert {*ARMS["both"], "validation loss", "FLOPs/token", "KV bytes/token"} <= set(axes)

    def lines(n: int) -> set[str]:
        return set(browser.wait_for(lambda: browser.drawn_paths(driver, ".foreground"), lambda found: len(found) == n))

    assert len(lines(2)) == 2  # an arm whose cell is NaN has none
    browser.click(driver, "paper-checkbox", "Failure", inside="tf-hparams-query-pane")
    assert len(lines(3)) == 3


@pytest.mark.browser
def test_the_margin_charts_draw_a_line_and_a_band_an_arm(address: str, driver: Chrome) -> None:
    browser.open_tab(driver, address, "custom_scalars")
    card = "tf-custom-scalar-margin-chart-card"
    counts = ["Matches (3)", "Matches (3)", "Matches (2)", "Matches (2)"]
    # Nothing else: no tag is missing, and what has no curve has no chart.
    browser.wait_for(
        lambda: browser.texts(driver, ".collapsible-title-text", inside=card), lambda found: found == counts
    )
    named = browser.texts(driver, ".heading-label", inside=card)
    assert sorted(named) == ["over MFLOPs", "over MFLOPs", "over tokens", "over tokens"]
    script = """
    return all.filter(e => e.matches('.heading-label') && within(e, arguments[0]))
      .map(e => [e.getBoundingClientRect(), e.innerText.trim()])
      .sort(([a], [b]) => a.top - b.top || a.left - b.left).map(([_, text]) => text);
    """
    assert browser.run_script(driver, script, card) == ["over tokens", "over MFLOPs"] * 2

    def curves() -> list[str]:
        return [path for path in browser.drawn_paths(driver, card) if path.count("L") > 2]

    # The areas of the bands, closed paths, and the lines: each of the arms in each of the charts.
    found = browser.wait_for(curves, lambda found: len(found) >= 2 * (3 + 3 + 2 + 2))
    assert len([path for path in found if path.endswith("Z")]) == 3 + 3 + 2 + 2
    assert not [path for path in found if "NaN" in path]
    assert not browser.errors(driver)


@pytest.mark.browser
def test_the_text_tab_has_the_question_the_plan_and_the_table(address: str, driver: Chrome) -> None:
    browser.open_tab(driver, address, "text")
    shown = browser.wait_for(
        lambda: browser.texts(driver, "p, th, td, li", inside="tf-text-loader"),
        lambda found: any(text.startswith("Held equal over the arms") for text in found),
    )
    assert shown[0] == "Does soft-capping still help once queries and keys are normed?"
    assert {"both (baseline)", "cap_only", "2 finished, 1 diverged", "optimizer/lr"} <= set(shown)
    assert any(text.startswith("3.3400") for text in shown), shown


@pytest.mark.browser
def test_the_images_tab_has_an_evaluations_pictures(address: str, driver: Chrome) -> None:
    browser.open_tab(driver, address, "images")
    script = "return all.filter(e => e.matches('img') && within(e, 'tf-image-loader')).map(e => e.naturalWidth);"
    widths = browser.wait_for(lambda: browser.run_script(driver, script), lambda found: bool(found and all(found)))
    assert widths == [32]
    named = browser.texts(driver, ".heading-label", inside="tf-image-loader")
    assert named[:2] == ["attention_maps/layer_0", "both/seed-0"]


def hparams_table(driver: Chrome) -> list[list[str]]:
    """The HParams table as it is laid out on the page: its rows from the top, each from the left, the header first.

    The grid keeps its cells in no useful order, and cells of columns that aren't shown among them.
    """
    script = """
    return all.filter(e => e.matches('vaadin-grid-cell-content') && within(e, 'tf-hparams-table-view'))
      .map(e => [e, e.getBoundingClientRect()]).filter(([e, box]) => box.width && box.height)
      .map(([e, box]) => [box.top + box.height / 2, box.left, e.innerText.trim().replace(/\\s+/g, ' ')]);
    """
    rows: dict[int, list[tuple[float, str]]] = {}
    for middle, left, text in browser.run_script(driver, script):
        rows.setdefault(round(middle / 4), []).append((left, text))
    return [[text for _, text in sorted(cells)] for _, cells in sorted(rows.items())]


@pytest.mark.browser
def test_the_seeds_of_an_arm_and_its_mean_have_one_colour(address: str, driver: Chrome) -> None:
    """At the address that `lab tensorboard` prints."""
    browser.open_tab(driver, f"{address}{COLOURS}", "timeseries")
    script = """return all.filter(e => e.matches('.run-color-swatch')).map(e =>
      [e.closest('tb-data-table-content-row').innerText.trim(), getComputedStyle(e).backgroundColor]);"""
    found = browser.wait_for(lambda: browser.run_script(driver, script), lambda rows: len(rows) >= 10)
    colours: dict[str, set[str]] = {}
    for run, colour in found:
        colours.setdefault(run.partition("/seed-")[0], set()).add(colour)
    assert {*ARMS} <= set(colours)
    assert all(len(shades) == 1 for shades in colours.values())
    assert len(set.union(*colours.values())) == len(colours), "arms differ in colour"
