"""The report as a person sees it, in a real headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By

from lab.report.page import report
from tests.comparison import browser
from tests.comparison.report_runs import ARMS, IMAGE, LONG, QUESTION, QUOTES, REASON, SWEEP, rich_sweep

pytestmark = pytest.mark.browser

FILLED = (
    "verdicts", "forest", "matching", "pareto", "curves", "positions", "recall", "evaluations", "attention",
    "stability", "reproducibility", "runs",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    rich_sweep(root)
    path = root / "report.html"
    path.write_text(report(root, SWEEP), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser.chromium() as driver:
        yield driver


@pytest.fixture
def driver(chrome: Chrome, page: Path) -> Chrome:
    """The page as it is opened, in a wide and light window."""
    look(chrome, width=1400, scheme="light")
    chrome.get("about:blank")
    chrome.get(page.as_uri())
    chrome.execute_script("localStorage.clear()")
    chrome.get("about:blank")
    chrome.get_log("browser")
    chrome.get(page.as_uri())
    return chrome


def look(driver: Chrome, *, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def brightness(driver: Chrome) -> int:
    colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def test_the_page_asks_nothing_of_any_network_and_says_no_error(driver: Chrome) -> None:
    asked = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in asked if not name.startswith("data:")] == []
    assert driver.get_log("browser") == []


def test_its_policy_lets_nothing_be_loaded(driver: Chrome) -> None:
    blocked = driver.execute_async_script(
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));"
        "const image = new Image(); image.src = 'http://127.0.0.1:9/x.png'; document.body.append(image);"
    )
    assert blocked == "img-src"


def test_every_panel_with_data_is_drawn(driver: Chrome) -> None:
    drawn = driver.execute_script(
        """return Object.fromEntries([...document.querySelectorAll('section')].map(section => [section.id,
          [...section.querySelectorAll('svg, table, dl, img, details')].some(e => {
            const box = e.getBoundingClientRect(); return box.width > 30 && box.height > 15; })]));"""
    )
    assert {name for name, there in drawn.items() if there} == set(FILLED)


def test_a_panel_without_data_says_what_would_fill_it(driver: Chrome) -> None:
    told = {e.get_attribute("id"): e.text for e in driver.find_elements(By.CSS_SELECTOR, "section.empty")}
    assert set(told) == {"effects", "scaling"}
    assert all("lab submit" in text for text in told.values())


def test_lines_and_dots_lie_within_their_charts(driver: Chrome) -> None:
    outside = driver.execute_script(
        """const out = [];
        for (const plot of document.querySelectorAll('.plot')) {
          const box = plot.getBoundingClientRect(); if (!box.width) continue;
          for (const dot of plot.querySelectorAll('circle')) {
            const at = dot.getBoundingClientRect();
            if (at.left < box.left - 9 || at.right > box.right + 9) out.push(dot.dataset.t);
            if (at.top < box.top - 9 || at.bottom > box.bottom + 9) out.push(dot.dataset.t);
          }
          if (!plot.querySelectorAll('polyline, circle').length) out.push('empty');
        }
        return out;"""
    )
    assert outside == []


def test_every_link_leads_to_something_on_the_page(driver: Chrome) -> None:
    lost, number = driver.execute_script(
        """const links = [...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href'));
        const lost = links.filter(href => !href.startsWith('#') || !document.getElementById(href.slice(1)));
        return [lost, links.length];"""
    )
    assert lost == []
    assert number > 100


def test_no_id_appears_twice(driver: Chrome) -> None:
    ids = driver.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_a_dot_leads_to_its_run_and_opens_it(driver: Chrome) -> None:
    dot = driver.find_element(By.CSS_SELECTOR, "#forest a circle.seed")
    told = dot.get_attribute("data-t")
    link = dot.find_element(By.XPATH, "..")
    run = driver.find_element(By.CSS_SELECTOR, driver.execute_script("return arguments[0].href.baseVal", link))
    assert not run.is_displayed()
    ActionChains(driver).move_to_element(dot).click().perform()
    browser.wait_for(run.is_displayed, seconds=10)
    assert f"{SWEEP}/{IMAGE}/seed-0" in run.text
    assert told.startswith(IMAGE + ", seed 0: +0.05")


def test_every_run_is_there_with_its_path_state_and_command(driver: Chrome) -> None:
    driver.execute_script("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    runs = [e.text for e in driver.find_elements(By.CSS_SELECTOR, "#runs article")]
    assert len(runs) == 12
    assert all("lab train gemma2_tiny" in text for text in runs)
    assert sum("diverged" in text for text in runs) == 1
    assert "4711_0" in runs[0]
    assert "model.d_ff: 128 → 136" in driver.find_element(By.ID, "arm-1").text


def test_pointing_at_curves_reads_them_out(driver: Chrome) -> None:
    plot = driver.find_element(By.CSS_SELECTOR, "#curves .plot")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    wide = plot.size["width"]
    ActionChains(driver).move_to_element_with_offset(plot, int(wide / 2) - 4, 0).perform()
    tip = driver.find_element(By.ID, "tip")
    assert tip.is_displayed()
    # 40 steps of 512 tokens; the baseline ends at 3.000, 3.004 and 3.008.
    assert tip.text.startswith("tokens trained on 20.5k")
    (line,) = re.findall(r"global \(3 seeds\)\s+([\d.]+) \[([\d.]+), ([\d.]+)\]", tip.text)
    assert [float(number) for number in line] == pytest.approx([3.004, 2.994, 3.014], abs=2e-3)
    ActionChains(driver).move_to_element(driver.find_element(By.TAG_NAME, "h2")).perform()
    assert not tip.is_displayed()


def test_a_run_that_diverged_is_a_line_of_its_own_in_no_mean(driver: Chrome) -> None:
    lines = driver.execute_script(
        """const plot = document.querySelector('#curves .plot');
        return [...plot.querySelectorAll('g.c')].map(g => [g.dataset.n, g.dataset.d]);"""
    )
    assert [IMAGE, "2 seeds"] in lines
    assert [f"{IMAGE}, seed 2", "diverged"] in lines


def test_a_forest_has_a_compact_row_an_arm(driver: Chrome) -> None:
    heights = [
        row.size["height"] for row in driver.find_elements(By.CSS_SELECTOR, "#forest .row") if row.is_displayed()
    ]
    assert len(heights) == 4
    assert all(20 <= height <= 110 for height in heights), heights


def test_a_picture_grows_when_clicked(driver: Chrome) -> None:
    picture = driver.find_element(By.CSS_SELECTOR, ".map img")
    small = picture.size["width"]
    driver.execute_script("arguments[0].click()", picture)
    assert picture.size["width"] > 2 * small


def test_tabs_change_what_is_shown(driver: Chrome) -> None:
    tabs = driver.find_elements(By.CSS_SELECTOR, "#verdicts [role=tab]")
    panes = driver.find_elements(By.CSS_SELECTOR, "#verdicts [role=tabpanel]")
    assert [pane.is_displayed() for pane in panes] == [True, False]
    driver.execute_script("arguments[0].click()", tabs[1])
    assert [pane.is_displayed() for pane in panes] == [False, True]
    assert "higher is better" in panes[1].text


@pytest.mark.parametrize("width", [320, 360, 390, 768])
def test_a_narrow_window_has_no_horizontal_scroll(driver: Chrome, width: int) -> None:
    look(driver, width=width, scheme="light")
    driver.execute_script("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    driver.execute_script("document.querySelectorAll('[role=tabpanel]').forEach(e => { e.hidden = false; })")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.find_element(By.CSS_SELECTOR, "#curves .plot").size["width"] > 0.7 * width - 80


def test_dark_and_light_follow_the_reader_and_the_button(driver: Chrome) -> None:
    assert brightness(driver) > 700
    look(driver, width=1400, scheme="dark")
    assert brightness(driver) < 120
    driver.find_element(By.ID, "theme").click()
    assert brightness(driver) > 700
    driver.refresh()
    assert brightness(driver) > 700, "the choice is remembered"


def test_text_stands_out_from_its_ground_in_light_and_dark(driver: Chrome) -> None:
    ratio = """
    const parse = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = c => { const [r, g, b] = parse(c).map(v => linear(v / 255));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const ground = light(getComputedStyle(document.body).backgroundColor);
    return ['h1', '.lead', '.note', 'td', '.v', '.warn', '.sentence', 'summary', '.st'].map(selector => {
      const text = light(getComputedStyle(document.querySelector(selector)).color);
      return [selector, (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05)]; });
    """
    for scheme in ("light", "dark"):
        look(driver, width=1400, scheme=scheme)
        weak = [(selector, value) for selector, value in driver.execute_script(ratio) if value < 4.5]
        assert weak == []


def test_hostile_names_are_text(driver: Chrome, page: Path) -> None:
    driver.execute_script("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    driver.execute_script("document.querySelectorAll('[role=tabpanel]').forEach(e => { e.hidden = false; })")
    assert driver.title.startswith(SWEEP)
    assert driver.find_elements(By.CSS_SELECTOR, "img:not([src^='data:image/png;base64,'])") == []
    assert len(driver.find_elements(By.TAG_NAME, "script")) == 1
    assert driver.find_element(By.TAG_NAME, "h1").text == QUESTION
    text: str = driver.execute_script("return document.body.textContent")
    for hostile in (*ARMS, IMAGE, QUOTES, LONG, REASON, "recall <b>bold accuracy", "Fast <GPU>"):
        assert hostile in text
    assert not [e.text for e in driver.find_elements(By.TAG_NAME, "b") if e.text.startswith("bold")]


def test_numbers_of_a_column_have_the_same_decimals(driver: Chrome) -> None:
    columns: Any = driver.execute_script(
        """const rows = [...document.querySelectorAll('#verdicts table')][0].querySelectorAll('tbody tr');
        return [3, 4, 5].map(i => [...rows].map(row => row.children[i].textContent.trim()));"""
    )
    for column in columns:
        decimals = {len(text.partition(".")[2]) for text in column if text != "–"}
        assert len(decimals) == 1
    assert columns[2][1].startswith("+0.046")  # of seeds 0 and 1: the third diverged


def test_without_scripts_every_view_is_shown(page: Path, chrome: Chrome) -> None:
    chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chrome.get(page.as_uri())
        panes = chrome.find_elements(By.CSS_SELECTOR, "#verdicts [role=tabpanel]")
        assert [pane.is_displayed() for pane in panes] == [True, True]
        assert not chrome.find_element(By.CSS_SELECTOR, "#verdicts [role=tablist]").is_displayed()
    finally:
        chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
