"""Makes the pictures of docs/compare.md from real runs: `python docs/compare_pictures.py`, about half an hour.

It uses the commands that a user would type, in runs/.pictures of this checkout, which also holds the runs of
docs/evaluator_pictures.py. Runs that exist there are not trained again. The pictures of TensorBoard and of the reports
are screenshots from a headless Chromium.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from evaluator_pictures import ROOT, WORK, lab, write_sweeps
from pictures import table
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from lab.comparison.tensorboard.serve import build_view
from tests.comparison import browser

PAGE = ROOT / "docs" / "compare.md"
IMAGES = ROOT / "docs" / "images" / "compare"
WIDE, PHONE = 1340, 390


def sweeps() -> None:
    """Run `mqar`, the sweeps of this page, and those of docs/evaluators.md with their attention maps."""
    for sweep in ("mqar", *write_sweeps(PAGE), *write_sweeps(ROOT / "docs" / "evaluators.md")):
        lab("submit", sweep, "--on", "local")
    lab("eval", "spans", "attention_maps", "window=32")


def tensorboard(driver: Chrome, runs: Path) -> None:
    """Take a picture of each tab: the Images tab of `spans`, whose data is text, and the others of `mqar`."""
    with (
        browser.tensorboard(build_view(runs, "mqar")) as address,
        browser.tensorboard(build_view(runs, "spans")) as spans,
    ):

        def screenshot(tab: str, height: int, is_ready: Callable[[], object], name: str = "") -> None:
            browser.wait_for(is_ready)
            time.sleep(3)  # the page is laid out after its parts exist
            driver.set_window_size(WIDE, height)
            time.sleep(2)
            assert driver.save_screenshot(str(IMAGES / f"{name or tab}.png"))

        def drawn(inside: str) -> Callable[[], object]:
            return lambda: [path for path in browser.drawn_paths(driver, inside) if path.count("L") > 2]

        browser.open_tab(driver, address, "hparams")
        screenshot("hparams", 580, lambda: browser.texts(driver, "vaadin-grid-cell-content"))
        browser.click(driver, "paper-tab", "parallel coordinates view")
        screenshot("hparams", 960, lambda: browser.drawn_paths(driver, ".foreground"), "parallel_coordinates")
        browser.open_tab(driver, address, "custom_scalars")
        screenshot("custom_scalars", 820, drawn("tf-custom-scalar-margin-chart-card"))
        browser.open_tab(driver, address, "text")
        screenshot("text", 820, lambda: browser.texts(driver, "td", inside="tf-text-loader"))
        browser.open_tab(driver, spans, "images")
        images = "return all.filter(e => e.matches('img') && within(e, 'tf-image-loader') && e.naturalWidth).length"
        screenshot("images", 820, lambda: browser.run_script(driver, images))


@contextmanager
def window(driver: Chrome, width: int, height: int, *, scheme: str = "light") -> Iterator[None]:
    """A context in which the page has this size and color scheme."""
    size = {"width": width, "height": height, "deviceScaleFactor": 2 if width == PHONE else 1, "mobile": width == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def reports(driver: Chrome) -> None:
    """Take pictures of the reports, and of some of their panels."""
    for sweep in ("mqar", "caps", "sizes", "spans"):
        lab("report", sweep)

    def open_report(sweep: str) -> None:
        driver.get("about:blank")
        driver.get(Path(f"runs/{sweep}/report.html").resolve().as_uri())
        time.sleep(1)

    for scheme in ("light", "dark"):
        with window(driver, WIDE, 900, scheme=scheme):
            open_report("mqar")
            assert driver.save_screenshot(str(IMAGES / f"report_{scheme}.png"))
    with window(driver, PHONE, 844):
        open_report("mqar")
        assert driver.save_screenshot(str(IMAGES / "report_phone.png"))
    with window(driver, WIDE, 1400):  # high enough for a whole panel
        for sweep, panel in (
            ("mqar", "forest"),
            ("mqar", "pareto"),
            ("mqar", "recall"),
            ("mqar", "curves"),
            ("spans", "attention"),
            ("caps", "effects"),
            ("sizes", "scaling"),
        ):
            open_report(sweep)
            element = driver.find_element(By.ID, panel)
            driver.execute_script("arguments[0].style.padding = '0 20px 12px'", element)
            assert element.screenshot(str(IMAGES / f"panel_{panel}.png"))


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    os.chdir(WORK)
    sweeps()
    table(Path("runs"), "caps", IMAGES / "table.svg")
    with browser.chromium() as driver:
        tensorboard(driver, Path("runs"))
        reports(driver)


if __name__ == "__main__":
    main()
