"""Times a run's page in Chromium: opening, ordering, filtering, changing the view, the viewer.

    python bench/report_page.py workspace/runs/cam-FINGERPRINT/report.html [--repeats 7]

Each figure is the median (smallest to largest) of the time from the action until the browser has painted what follows
from it; the page is opened afresh each time. Pictures that are scrolled into view count where they are waited for.
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
from selenium.webdriver.support.wait import WebDriverWait

# Two frames later the browser has painted what the action changed.
PAINTED = "const done = arguments[arguments.length - 1];"
PAINTED += "const from = performance.now(); {}; requestAnimationFrame(() => requestAnimationFrame("
PAINTED += "() => done(performance.now() - from)));"
CHANGE = "const box = document.querySelector('{}'); {}; box.dispatchEvent(new Event('change'))"
FIRST_PICTURE = """
    const image = document.querySelector(".card img");
    return Boolean(image && image.complete && image.naturalWidth);
"""
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
    """Milliseconds until the first photograph of the gallery is drawn."""
    browser.get("about:blank")
    start = time.perf_counter()
    browser.get(page.as_uri())
    browser.execute_script("document.querySelector('#gallery').scrollIntoView()")
    WebDriverWait(browser, 60, poll_frequency=0.01).until(lambda driver: driver.execute_script(FIRST_PICTURE))
    return 1000 * (time.perf_counter() - start)


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
                measure("open, until the first photograph is drawn", lambda: opening(browser, page))
                for name, script in ACTIONS.items():
                    measure(name, lambda script=script: browser.execute_async_script(PAINTED.format(script)))
            cards = browser.execute_script("return document.querySelector('#count').textContent")
        finally:
            browser.quit()
    print(f"{page.name}, {page.stat().st_size / 1e6:.0f} MB, {cards}\n")
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:<44} {middle:6.0f} ms ({min(values):.0f} to {max(values):.0f})")


if __name__ == "__main__":
    main()
