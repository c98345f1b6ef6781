"""The report on a phone, and its figures as files, in a real headless Chromium."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from lab.records import write_json
from lab.report.page import report
from tests.comparison import browser
from tests.comparison.fake_runs import fake_run, fake_sweep
from tests.comparison.test_report_browser import look

pytestmark = pytest.mark.browser

PREFIX = "interleaved_spans_with_grouped_queries,normed_keys"
ARMS = (f"{PREFIX},window=4", f"{PREFIX},window=8", f"{PREFIX},window=16")
LOSSES = dict(zip(ARMS, ([3.20, 3.22, 3.21], [3.30, 3.33, 3.31], [3.40, 3.43, 3.41]), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of a sweep whose arms have names that differ in their ends alone."""
    root = tmp_path_factory.mktemp("runs")
    fake_sweep(root, LOSSES, curves=True)
    (root / "report.html").write_text(report(root, "softcap"), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def chrome(folder: Path) -> Iterator[Chrome]:
    with browser.chromium() as driver:
        driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        yield driver


@pytest.fixture
def driver(chrome: Chrome, folder: Path) -> Chrome:
    look(chrome, width=1400, scheme="light")
    chrome.get("about:blank")
    chrome.get((folder / "report.html").as_uri())
    return chrome


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_every_verdict_beside_its_arm(driver: Chrome, width: int) -> None:
    look(driver, width=width, scheme="light")
    shown = driver.execute_script(
        """return [...document.querySelectorAll('#verdicts tbody tr')].map(row => {
          const verdict = row.querySelector('.v, .dim').getBoundingClientRect();
          return [row.querySelector('.v, .dim').textContent, verdict.left >= 0 && verdict.right <= innerWidth]; });"""
    )
    assert shown == [["baseline", True], ["worse", True], ["worse", True]]


@pytest.mark.parametrize("width", [320, 390, 1400])
def test_no_two_arms_look_the_same(driver: Chrome, width: int) -> None:
    """Each name is there to its end: nothing of it is cut by its box, or by one around it."""
    look(driver, width=width, scheme="light")
    names = driver.execute_script(
        """return ['#verdicts tbody th', '#forest .who', '#curves .legend li'].map(selector =>
          [...document.querySelectorAll(selector)].filter(e => e.offsetParent).map(e => {
            const link = e.querySelector('a.arm'), range = document.createRange(); range.selectNodeContents(link);
            const text = range.getBoundingClientRect();
            let whole = link.scrollHeight <= link.clientHeight + 1 || getComputedStyle(link).display === 'inline';
            for (let box = link.parentElement; box.tagName !== 'SECTION'; box = box.parentElement)
              if (getComputedStyle(box).overflow !== 'visible' && !box.matches('.scroll, .forest'))
                whole = whole && text.right <= box.getBoundingClientRect().right + 1;
            return [link.textContent, whole]; }));"""
    )
    for place, arms in zip(names, (ARMS, ARMS[1:], ARMS), strict=True):
        assert place == [[arm, True] for arm in arms]


def test_names_of_one_sentence_differ(driver: Chrome) -> None:
    names = [link.text for link in driver.find_elements(By.CSS_SELECTOR, ".sentence a.arm")]
    assert len(names) == len(set(names)) == 3


def saved(driver: Chrome, folder: Path, panel: str) -> Path:
    """The file that the button below a panel's first figure makes."""
    path = folder / f"softcap-{panel}-1.svg"
    path.unlink(missing_ok=True)
    driver.execute_script("arguments[0].click()", driver.find_element(By.CSS_SELECTOR, f"#{panel} figure .save"))
    browser.wait_for(lambda: path.is_file() and path.stat().st_size > 0, seconds=20)
    return path


@pytest.mark.parametrize("panel", ["forest", "curves"])
def test_a_figure_is_saved_with_all_that_it_shows(driver: Chrome, folder: Path, panel: str) -> None:
    path = saved(driver, folder, panel)
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    words = [" ".join((element.text or "").split()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert all(arm in "".join(words) for arm in ARMS[1:]), "each name is there, in as many lines as on the page"
    assert any(word.startswith(("−0", "+0", "0", "3")) for word in words), "the ticks have their labels"
    assert "Save as SVG" not in text
    assert not re.search(r"class=|var\(|data-|<a |url\(", text), "it needs nothing of the page"


def test_a_saved_figure_looks_as_on_the_page(driver: Chrome, folder: Path) -> None:
    curves = "return [...document.querySelectorAll('#curves figure')[0].querySelectorAll('polyline.line')]"
    measure = """.map(e => { const box = e.getBoundingClientRect();
      return [getComputedStyle(e).stroke, Math.round(box.width), Math.round(box.height)]; });"""
    on_page = driver.execute_script(curves + measure)
    path = saved(driver, folder, "curves")
    driver.get(path.as_uri())
    in_file = driver.execute_script("return [...document.querySelectorAll('polyline')]" + measure)
    assert len({colour for colour, _, _ in on_page}) == 3
    assert [colour for colour, _, _ in in_file] == [colour for colour, _, _ in on_page]
    for (_, *page_size), (_, *file_size) in zip(on_page, in_file, strict=True):
        assert page_size == pytest.approx(file_size, abs=2)
        assert page_size[0] > 300


def test_every_figure_has_its_button(driver: Chrome) -> None:
    figures, buttons = driver.execute_script(
        "return ['figure:not(.map)', 'figure > .save'].map(selector => document.querySelectorAll(selector).length)"
    )
    assert figures == buttons > 4


@pytest.mark.parametrize("width", [320, 390, 1400])
def test_names_beside_points_differ_and_are_not_cut(chrome: Chrome, tmp_path: Path, width: int) -> None:
    arms = [f"softcap={cap},qk_norm={norm}" for cap in ("gemma2", "none") for norm in ("none", "rmsnorm")]
    for order, arm in enumerate(arms):
        for seed in range(2):
            loss = 3 + 0.5 * order + 0.02 * seed
            run = fake_run(tmp_path, arm, seed, order=order, baseline=arms[0], loss=loss)
            summary = json.loads((run.path / "summary.json").read_text())
            summary["costs"]["tokens_per_second"] = 1000.0 + 400 * order + 30 * seed
            write_json(run.path / "summary.json", summary)
    (tmp_path / "report.html").write_text(report(tmp_path, "softcap"), encoding="utf-8")
    driver = chrome
    driver.get((tmp_path / "report.html").as_uri())
    look(driver, width=width, scheme="light")
    labels = driver.execute_script(
        """return [...document.querySelectorAll('#pareto .plot')].filter(plot => plot.offsetParent).map(plot =>
          [...plot.querySelectorAll('.pl')].map(label => {
            const range = document.createRange(); range.selectNodeContents(label);
            const text = range.getBoundingClientRect(), box = label.getBoundingClientRect();
            const style = getComputedStyle(label);
            return [label.textContent, style.overflow === 'visible' || text.right <= box.right + 1]; }));"""
    )
    assert any(len(plot) > 1 for plot in labels), "no chart has two names beside points"
    for plot in labels:
        assert len({text for text, _ in plot}) == len(plot)
        assert all(whole for _, whole in plot)
    beyond = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert beyond <= 0
