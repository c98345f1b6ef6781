"""Makes the pictures of the README from the runs of the demo: `python docs/pictures.py` after `make demo`.

rich draws the table as in a terminal. The picture of TensorBoard is a screenshot from a headless Chromium.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from lab.comparison.compare import compare  # noqa: E402
from lab.comparison.read.collect import collect  # noqa: E402
from lab.comparison.tables.table import show  # noqa: E402
from lab.comparison.tensorboard.serve import build_view  # noqa: E402
from tests.comparison import browser  # noqa: E402

IMAGES = ROOT / "docs" / "images"


def table(runs: Path, sweep: str, image: Path) -> None:
    """Write the output of `lab compare SWEEP` as an SVG."""
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=122, file=nowhere, force_terminal=True)
        show(compare(collect(runs, sweep)), console)
    console.save_svg(str(image), title=f"lab compare {sweep}")


def tensorboard(runs: Path) -> None:
    """Write docs/images/tensorboard.png."""
    with browser.tensorboard(build_view(runs, "demo")) as address, browser.chromium() as driver:
        driver.set_window_size(1400, 620)
        driver.get(f"{address}#hparams")
        browser.wait_for(lambda: [cell for cell in browser.texts(driver, "vaadin-grid-cell-content") if cell])
        time.sleep(2)  # the columns get their widths after the rows
        driver.save_screenshot(str(IMAGES / "tensorboard.png"))


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    table(ROOT / "runs", "demo", IMAGES / "compare.svg")
    tensorboard(ROOT / "runs")
