"""The page in a real headless browser: `sim-stream view` with the shipped model, keys and clicks.

Needs Chromium and its driver (Debian: chromium, chromium-driver). The last test leaves a screenshot
in the folder that SIM_STREAM_SCREENSHOTS names, else among pytest's temporary files.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0  # a frame takes a while when others use the machine, too
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs a browser: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def view() -> Iterator[subprocess.Popen[str]]:
    """The subcommand with a server of its own; the page's address as ``url``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sim_stream", "view", "--port", "0", "--max-sessions", "8"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline().split()
    assert line[:1] == ["ready"], process.communicate()[1]
    process.url = line[1]  # type: ignore[attr-defined]
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(view, chromium) -> Iterator[webdriver.Chrome]:
    """The page, newly loaded, with a session of its own."""
    chromium.get(view.url)
    until(chromium, lambda: shown(chromium) is not None and rows(chromium))
    before = len(rows(chromium))
    chromium.find_element(By.ID, "open").click()
    until(chromium, lambda: len(rows(chromium)) == before + 1 and watched(chromium) == before)
    yield chromium
    while (listed := len(rows(chromium))) > before:
        chromium.execute_script("[...document.querySelectorAll('#sessions button')].at(-1).click()")
        until(chromium, lambda listed=listed: len(rows(chromium)) < listed)


def until(browser: webdriver.Chrome, true: Callable[[], object]) -> None:
    WebDriverWait(browser, WAIT_S, poll_frequency=0.1).until(lambda _: true())


def text(browser: webdriver.Chrome, name: str) -> str:
    return browser.find_element(By.ID, name).text


def shown(browser: webdriver.Chrome) -> int | None:
    """The id of the frame on the page."""
    frame_id = browser.find_element(By.ID, "frame").get_attribute("data-frame")
    return None if frame_id is None else int(frame_id)


def rows(browser: webdriver.Chrome) -> list[str]:
    """The lines of the session list."""
    script = "return [...document.querySelectorAll('#sessions tbody tr')].map((r) => r.innerText)"
    return browser.execute_script(script)


def brightness(browser: webdriver.Chrome) -> float:
    """Mean of red, green and blue over the frame on the page."""
    script = """
        const {width, height} = arguments[0];
        const options = {willReadFrequently: true};
        const copy = new OffscreenCanvas(width, height).getContext("2d", options);
        copy.drawImage(arguments[0], 0, 0);
        const {data} = copy.getImageData(0, 0, width, height);
        const sum = data.reduce((sum, value, i) => (i % 4 < 3 ? sum + value : sum), 0);
        return sum / width / height / 3;
    """
    return browser.execute_script(script, browser.find_element(By.ID, "frame"))


def watched(browser: webdriver.Chrome) -> int:
    """The line of the list that is shown."""
    script = (
        "return [...document.querySelectorAll('#sessions tbody tr')]"
        ".findIndex((r) => r.classList.contains('watched'))"
    )
    return browser.execute_script(script)


def pixels(browser: webdriver.Chrome) -> str:
    return browser.execute_script("return document.getElementById('frame').toDataURL()")


def press(browser: webdriver.Chrome, key: str) -> None:
    ActionChains(browser).send_keys(key).perform()


def start(browser: webdriver.Chrome) -> None:
    press(browser, Keys.SPACE)
    until(browser, lambda: text(browser, "run") == "Pause")


def speed_mps(browser: webdriver.Chrome) -> float:
    shown = text(browser, "speed").split()
    return float(shown[0]) if len(shown) == 2 else 0.0


def test_the_page_loads_and_says_what_is_served(browser):
    assert text(browser, "model").startswith("pocket")
    assert text(browser, "shape").endswith(", 4 fps")
    until(browser, lambda: "server answers in" in text(browser, "health"))


def test_frames_change_once_it_is_started(browser):
    first, first_pixels = shown(browser), pixels(browser)
    start(browser)
    until(browser, lambda: shown(browser) >= first + 3)
    assert pixels(browser) != first_pixels


def test_arrow_keys_change_the_action_that_is_sent_and_shown(browser):
    start(browser)
    until(browser, lambda: speed_mps(browser) > 0)
    before_mps = speed_mps(browser)
    ActionChains(browser).key_down(Keys.ARROW_UP).key_down(Keys.ARROW_LEFT).perform()
    try:
        until(browser, lambda: speed_mps(browser) > before_mps)
        until(browser, lambda: text(browser, "yaw").endswith("left"))
        held = browser.find_elements(By.CSS_SELECTOR, ".key.held")
        assert [key.get_attribute("data-key") for key in held] == ["up", "left"]
        assert text(browser, "wheel-owner") == "you have the wheel"
    finally:
        ActionChains(browser).key_up(Keys.ARROW_UP).key_up(Keys.ARROW_LEFT).perform()
    until(browser, lambda: text(browser, "yaw") == "0.00 rad/s")


def test_a_fork_is_a_new_session_that_a_second_viewer_sees_too(browser, view):
    listed = len(rows(browser))
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    second = browser.current_window_handle
    browser.get(view.url)
    until(browser, lambda: len(rows(browser)) == listed)
    try:
        browser.switch_to.window(first)
        press(browser, "f")
        until(browser, lambda: watched(browser) == listed)
        assert "fork of" in rows(browser)[listed]
        browser.switch_to.window(second)
        until(browser, lambda: len(rows(browser)) == listed + 1)
        assert "fork of" in rows(browser)[listed]
        assert "(+1)" in text(browser, "viewers")
    finally:
        browser.switch_to.window(second)
        browser.close()
        browser.switch_to.window(first)


def test_a_reset_takes_the_seed_that_was_typed(browser):
    seed = browser.find_element(By.ID, "seed")
    seed.clear()
    seed.send_keys("1234")
    browser.find_element(By.ID, "reset").click()
    until(browser, lambda: "1234" in rows(browser)[-1].split("\t"))


def test_a_reset_starts_from_the_clip_that_was_chosen(browser):
    until(browser, lambda: brightness(browser) > 0.0)  # drawn
    by_day = brightness(browser)
    choice = Select(browser.find_element(By.ID, "prompt"))
    assert [option.text for option in choice.options] == ["day", "overcast", "dusk", "night"]
    choice.select_by_visible_text("night")
    assert browser.execute_script("return document.activeElement === document.body")  # for the keys
    browser.find_element(By.ID, "reset").click()
    until(browser, lambda: brightness(browser) < 0.6 * by_day)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_drawn_without_an_error(browser, theme, tmp_path):
    """Leaves a screenshot of a fork that is steered."""
    browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    start(browser)
    until(browser, lambda: shown(browser) >= 4)
    listed = len(rows(browser))
    press(browser, "f")
    until(browser, lambda: watched(browser) == listed and shown(browser) >= 12)
    ActionChains(browser).key_down(Keys.ARROW_UP).key_down(Keys.ARROW_LEFT).perform()
    until(browser, lambda: text(browser, "yaw").endswith("left"))
    folder = Path(os.environ.get("SIM_STREAM_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    assert browser.save_screenshot(str(folder / f"view-{theme}.png"))
    ActionChains(browser).key_up(Keys.ARROW_UP).key_up(Keys.ARROW_LEFT).perform()
    drawn = """
        return ["latency", "queues"].map((id) => {
          const canvas = document.getElementById(id);
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          return data.some((value) => value > 0);
        });"""
    assert browser.execute_script(drawn) == [True, True]
    assert len(browser.find_elements(By.CSS_SELECTOR, "#stages tbody tr")) >= 5
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_ctrl_c_ends_it_and_the_page_says_so(browser, view):
    view.send_signal(signal.SIGINT)
    assert view.wait(WAIT_S) == 0
    until(browser, lambda: text(browser, "health") == "no connection")
    browser.execute_script("document.querySelector('#sessions tbody').replaceChildren()")
