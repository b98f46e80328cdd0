"""Times a run's page in Chromium: opening, ordering, filtering, changing the view, the viewer.

    python bench/report_page.py workspace/runs/cam-FINGERPRINT/report.html [--repeats 7]

Each figure is the median (smallest to largest) of the time from the action until all pictures on the screen are drawn;
the page is opened afresh each time.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

# Cards are made when they come near the screen, frames after an action: two frames are the least, then pictures count.
MEASURE = """
    const done = arguments[arguments.length - 1], from = performance.now();
    const drawn = () => {
      const images = [...(document.querySelector("dialog[open]") || document).querySelectorAll(".stack img")];
      const shown = images.filter((image) => {
        const box = image.getBoundingClientRect();
        return box.bottom > 0 && box.top < innerHeight;
      });
      return shown.length > 0 && shown.every((image) => image.complete && image.naturalWidth);
    };
    const wait = () => requestAnimationFrame(() => (drawn() ? done(performance.now() - from) : wait()));
    ACTION;
    requestAnimationFrame(wait);
"""
CHANGE = "const box = document.querySelector('{}'); {}; box.dispatchEvent(new Event('change'))"
ACTIONS = {
    "order, worst first": CHANGE.format("#order", "box.selectedIndex = Math.min(1, box.options.length - 1)"),
    "filter by class": CHANGE.format("#class", "box.selectedIndex = 1"),
    "show all again": "document.querySelector('#reset').click()",
    "another view": "document.querySelectorAll('#views button')[1].click()",
    "open the viewer": "document.querySelector('.card .frame').click()",
}


def open_browser(folder: str) -> webdriver.Chrome:
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"):
        options.add_argument(option)
    options.add_argument(f"--user-data-dir={folder}")
    return webdriver.Chrome(service=Service(shutil.which("chromedriver")), options=options)


def opening(browser: webdriver.Chrome, page: Path) -> float:
    """Milliseconds until the first photographs of the gallery are drawn."""
    browser.get("about:blank")
    start = time.perf_counter()
    browser.get(page.as_uri())
    measured(browser, "document.querySelector('#gallery').scrollIntoView()")
    return 1000 * (time.perf_counter() - start)


def measured(browser: webdriver.Chrome, script: str) -> float:
    """Milliseconds from a script's action until all pictures on the screen are drawn."""
    return float(browser.execute_async_script(MEASURE.replace("ACTION", script)))


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="report.html of a run")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    page = arguments.page.resolve()
    times: dict[str, list[float]] = {}

    def measure(name: str, action: Callable[[], float]) -> None:
        times.setdefault(name, []).append(action())

    with tempfile.TemporaryDirectory() as folder:
        browser = open_browser(folder)
        try:
            for _ in range(arguments.repeats):
                measure("open, until the first photographs are drawn", lambda: opening(browser, page))
                for name, script in ACTIONS.items():
                    measure(name, lambda script=script: measured(browser, script))
            cards = browser.execute_script("return document.querySelector('#count').textContent")
        finally:
            browser.quit()
    print(f"{page.name}, {page.stat().st_size / 1e6:.0f} MB, {cards}\n")
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:<44} {middle:6.0f} ms ({min(values):.0f} to {max(values):.0f})")


if __name__ == "__main__":
    main()
