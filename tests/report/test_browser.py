"""The dashboard as people see it: a real TensorBoard in a real browser."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from support.training import Network, fit

from lightning_nc import NeuralCollapseCallback

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PROGRAMS = ("chromium", "chromedriver")
# as root in a container, and without asking hosts that are not there
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1500,1150",
)  # fmt: skip
TEXTS = """
const texts = [];
const walk = (node) => {
  if (node.shadowRoot) walk(node.shadowRoot);
  for (const child of node.childNodes) {
    if (child.nodeType === 3 && child.textContent.trim()) texts.push(child.textContent.trim());
    else if (child.nodeType === 1 && !/STYLE|SCRIPT/.test(child.tagName)) walk(child);
  }
};
walk(document.body);
return texts;
"""
IMAGES = """
const found = [];
const walk = (node) => {
  if (node.shadowRoot) walk(node.shadowRoot);
  for (const child of node.children) {
    if (child.tagName === "IMG" && child.naturalWidth > 0) found.push(child);
    walk(child);
  }
};
walk(document.body);
return found;
"""
BYTES = """
const done = arguments[1];
const first = (buffer) => done([...new Uint8Array(buffer.slice(0, 6))]);
fetch(arguments[0].src).then((response) => response.arrayBuffer()).then(first);
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A TensorBoard server over a run with every picture."""
    folder = tmp_path_factory.mktemp("runs")
    names = [f"digit {i}" for i in range(10)]
    callback = NeuralCollapseCallback(figures_every_n_epochs=8, class_names=names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_nc.report.gallery.AFFORDED", float("inf"))
        fit(Network(dropout=0.0), [callback], max_epochs=16, logger=TensorBoardLogger(folder))
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0"]
    server = subprocess.Popen([*command, "--host", "127.0.0.1"], stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if found := re.search(r"http://\S+", line):
            break
    else:
        pytest.fail("TensorBoard did not start.")
    yield found.group(0)
    server.kill()
    server.communicate()


@pytest.fixture(scope="module")
def browser():
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        tell = pytest.fail if os.environ.get("LIGHTNING_NC_NEEDS_BROWSER") else pytest.skip
        tell(f"{missing} not found: install Debian's chromium and chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


def wait_for(look, seconds=40):
    """What a look finds, once it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing appeared"
        time.sleep(0.5)
    return found


def keep(browser, name):
    """A screenshot to look at, where a folder for them is given."""
    folder = os.environ.get("LIGHTNING_NC_SCREENSHOTS")
    if folder:
        browser.save_screenshot(f"{folder}/{name}.png")


def test_the_charts_have_their_curves(browser, address):
    browser.get(f"{address}#custom_scalars")

    def texts():
        found = browser.execute_script(TEXTS)
        return found if any(text.startswith("Matches") for text in found) else None

    shown = wait_for(texts)
    time.sleep(4)
    shown = browser.execute_script(TEXTS)
    keep(browser, "custom_scalars")
    titles = [
        "NC1 within_between_pinv",
        "NC2 means_etf_distance",
        "NC3 self_duality",
        "NC4 ncc_mismatch",
    ]
    assert [text for text in shown if text in titles] == titles
    # train_online and val in each
    assert sum("Matches (2)" in text for text in shown) >= 5
    assert not any("did not match" in text or "No matches" in text for text in shown)


def test_the_pictures_are_there_and_the_animation_plays(browser, address):
    browser.get(f"{address}#images")
    wait_for(lambda: len(browser.execute_script(IMAGES)) >= 4)
    keep(browser, "images")
    shown = browser.execute_script(TEXTS)
    assert "neural_collapse/animation/train_online" in shown
    images = browser.execute_script(IMAGES)
    first = [bytes(browser.execute_async_script(BYTES, image)) for image in images]
    assert b"GIF89a" in first
    moving = images[first.index(b"GIF89a")]
    seen = set()
    for _ in range(12):
        seen.add(moving.screenshot_as_png)
        time.sleep(0.2)
    assert len(seen) > 1, "the animation stands still"


def test_the_words_are_a_table(browser, address):
    browser.get(f"{address}#text")
    wait_for(lambda: [t for t in browser.execute_script(TEXTS) if "after epoch 15" in t])
    keep(browser, "text")
    assert "nc1/cdnv" in browser.execute_script(TEXTS)
