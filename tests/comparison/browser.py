"""A page as a person sees it: headless Chromium, and a way into the shadow trees that TensorBoard is made of.

with browser.tensorboard(view) as address, browser.chromium() as driver:
    driver.get(address + "#hparams")
    browser.wait_for(driver, browser.texts, lambda found: "arm" in found)
    driver.save_screenshot("hparams.png")
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from lab.comparison.tensorboard.serve import server

Found = TypeVar("Found")

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--window-size=1600,900"),
)

# `all`: every element of the page, those inside shadow trees as well, in document order.
# `within(element, selector)`: whether it is inside an element that matches, whatever shadow trees lie between.
_FIND = """
const walk = function*(node) {
  for (const child of node.querySelectorAll('*')) { yield child; if (child.shadowRoot) yield* walk(child.shadowRoot); }
};
const all = [...walk(document)];
const within = (element, selector) => {
  for (let e = element; e; e = e.parentNode || e.host) if (e.matches && e.matches(selector)) return true;
  return false;
};
"""


@contextlib.contextmanager
def chromium() -> Iterator[Chrome]:
    """A headless Chromium with a profile of its own. Skips the test where none is installed."""
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip(f"no {'Chromium' if browser is None else 'chromedriver'} is installed: the page was NOT checked")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = browser
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        chrome = Chrome(options=options, service=Service(driver))
        try:
            yield chrome
        finally:
            chrome.quit()


@contextlib.contextmanager
def tensorboard(view: Path) -> Iterator[str]:
    """TensorBoard on a view, at a free port, looking for new data every second: its address."""
    with server(view, free_port(), reload_seconds=1) as (address, _):
        yield address


def free_port() -> int:
    """A port of the loopback address that nothing listens on."""
    with socket.socket() as attempt:
        attempt.bind(("127.0.0.1", 0))
        return int(attempt.getsockname()[1])


def wait_for(look: Callable[[], Found], enough: Callable[[Found], bool] = bool, seconds: float = 120) -> Found:
    """Look until it is enough.

    Raises:
        AssertionError: it wasn't within `seconds`; the message shows what was there last.
    """
    deadline = time.monotonic() + seconds
    while not enough(found := look()):
        assert time.monotonic() < deadline, f"still not there after {seconds} s; last seen: {found!r}"
        time.sleep(0.1)
    return found


def run_script(driver: Chrome, script: str, *arguments: Any) -> Any:
    """Run JavaScript that may use `all` and `within(element, selector)`, which see through shadow trees."""
    return driver.execute_script(_FIND + script, *arguments)


def texts(driver: Chrome, selector: str, inside: str = "body") -> list[str]:
    """The visible text of every element that matches `selector` inside one that matches `inside`, in document order."""
    script = """
    return all.filter(e => e.matches(arguments[0]) && within(e, arguments[1]))
      .map(e => (e instanceof SVGElement ? e.textContent : e.innerText || '').trim()).filter(text => text);
    """
    found: list[str] = run_script(driver, script, selector, inside)
    return found


def open_tab(driver: Chrome, address: str, tab: str) -> None:
    """Open one of TensorBoard's tabs afresh: hparams, custom_scalars, text, images, timeseries or scalars."""
    driver.get(f"{address}#{tab}")
    driver.refresh()  # a page that is open already takes another fragment without loading


def click(driver: Chrome, selector: str, text: str, inside: str = "body") -> None:
    """Click the element that matches `selector` inside one that matches `inside` and has this text.

    Raises:
        AssertionError: there is none within two minutes.
    """
    script = """
    const found = all.find(e => e.matches(arguments[0]) && within(e, arguments[1])
      && (e.innerText || '').trim().toLowerCase() === arguments[2].toLowerCase());
    if (found) found.click();
    return Boolean(found);
    """
    wait_for(lambda: run_script(driver, script, selector, inside, text))


def drawn_paths(driver: Chrome, inside: str) -> list[str]:
    """The `d` of every SVG path that is shown with an extent, inside an element that matches `inside`."""
    script = """
    return all.filter(e => e.matches('path') && within(e, arguments[0])).filter(e => {
      const box = e.getBoundingClientRect();
      return box.width > 1 && getComputedStyle(e).visibility !== 'hidden';
    }).map(e => e.getAttribute('d') || '');
    """
    found: list[str] = run_script(driver, script, inside)
    return found


def errors(driver: Chrome) -> list[str]:
    """What the page has logged as errors since the last call."""
    return [line["message"] for line in driver.get_log("browser") if line["level"] == "SEVERE"]  # type: ignore[no-untyped-call]


def screenshot(driver: Chrome, path: Path, width: int = 1600, height: int = 900) -> None:
    """Save what the window shows as a PNG, the window being this large in pixels."""
    driver.set_window_size(width, height)
    time.sleep(1)  # charts lay themselves out anew
    assert driver.save_screenshot(str(path)), path
