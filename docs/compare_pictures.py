"""Make the pictures of docs/compare.md from real runs: `python docs/compare_pictures.py`, half an hour here.

Everything is done by the commands that a user would type, in runs/.pictures of this checkout, where the runs of
docs/evaluator_pictures.py are too; what has been trained there is not trained again. TensorBoard and the reports are
photographed in a headless Chromium.
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
    """The page's, `mqar`, and those of docs/evaluators.md with their attention maps."""
    for sweep in ("mqar", *write_sweeps(PAGE), *write_sweeps(ROOT / "docs" / "evaluators.md")):
        lab("submit", sweep, "--on", "local")
    lab("eval", "spans", "attention_maps", "window=32")


def tensorboard(driver: Chrome, runs: Path) -> None:
    """A picture of each tab: of `mqar`, and the images of `spans`, whose text attention can be looked at on."""
    with (
        browser.tensorboard(build_view(runs, "mqar")) as address,
        browser.tensorboard(build_view(runs, "spans")) as spans,
    ):

        def shot(tab: str, height: int, there: Callable[[], object], name: str = "") -> None:
            browser.wait_for(there)
            time.sleep(3)  # the page has its parts before they have their places
            driver.set_window_size(WIDE, height)
            time.sleep(2)
            assert driver.save_screenshot(str(IMAGES / f"{name or tab}.png"))

        def drawn(inside: str) -> Callable[[], object]:
            return lambda: [path for path in browser.drawn_paths(driver, inside) if path.count("L") > 2]

        browser.open_tab(driver, address, "hparams")
        shot("hparams", 580, lambda: browser.texts(driver, "vaadin-grid-cell-content"))
        browser.click(driver, "paper-tab", "parallel coordinates view")
        shot("hparams", 960, lambda: browser.drawn_paths(driver, ".foreground"), "parallel_coordinates")
        browser.open_tab(driver, address, "custom_scalars")
        shot("custom_scalars", 820, drawn("tf-custom-scalar-margin-chart-card"))
        browser.open_tab(driver, address, "text")
        shot("text", 820, lambda: browser.texts(driver, "td", inside="tf-text-loader"))
        browser.open_tab(driver, spans, "images")
        images = "return all.filter(e => e.matches('img') && within(e, 'tf-image-loader') && e.naturalWidth).length"
        shot("images", 820, lambda: browser.run_script(driver, images))


@contextmanager
def window(driver: Chrome, width: int, height: int, *, scheme: str = "light") -> Iterator[None]:
    """The page in a window of this size, by day or by night."""
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
    """Reports as they open, and some of their panels."""
    for sweep in ("mqar", "caps", "sizes", "spans"):
        lab("report", sweep)

    def opened(sweep: str) -> None:
        driver.get("about:blank")
        driver.get(Path(f"runs/{sweep}/report.html").resolve().as_uri())
        time.sleep(1)

    for scheme in ("light", "dark"):
        with window(driver, WIDE, 900, scheme=scheme):
            opened("mqar")
            assert driver.save_screenshot(str(IMAGES / f"report_{scheme}.png"))
    with window(driver, PHONE, 844):
        opened("mqar")
        assert driver.save_screenshot(str(IMAGES / "report_phone.png"))
    with window(driver, WIDE, 1400):  # a panel as a whole
        for sweep, panel in (
            ("mqar", "forest"),
            ("mqar", "pareto"),
            ("mqar", "recall"),
            ("mqar", "curves"),
            ("spans", "attention"),
            ("caps", "effects"),
            ("sizes", "scaling"),
        ):
            opened(sweep)
            shown = driver.find_element(By.ID, panel)
            driver.execute_script("arguments[0].style.padding = '0 20px 12px'", shown)
            assert shown.screenshot(str(IMAGES / f"panel_{panel}.png"))


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
