"""Clicks through a page as a person does."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from tag2mask.evaluation.report.content import Card, ClassScores, Figure, Layer, ReportContent
from tag2mask.evaluation.report.page import write_page

ODD = "a \"b\" 'c' </script><script>document.title='broken'</script><b>&amp; ü 照片"

Open = Callable[[ReportContent], None]


@pytest.fixture
def open_page(browser: Chrome, tmp_path: Path) -> Iterator[Open]:
    """Opens a page from its file; at the end nothing may have gone wrong in it, and nothing been fetched."""
    path = tmp_path / "report.html"

    def open_page(content: ReportContent) -> None:
        write_page(path, content)
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(path.as_uri())

    yield open_page
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    # The browser's own start page fetches its parts too.
    urls = {params["request"]["url"] for params in requests if params["documentURL"] == path.as_uri()}
    assert {url for url in urls if not url.startswith("data:")} == {path.as_uri()}


def settle(browser: Chrome) -> None:
    """Waits two frames: cards are made when the browser says that they are near the screen, a frame after an action."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def one(browser: Chrome, selector: str) -> WebElement:
    settle(browser)
    return browser.find_element(By.CSS_SELECTOR, selector)


def texts(browser: Chrome, selector: str) -> list[str]:
    settle(browser)
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def cards(browser: Chrome) -> list[str]:
    return texts(browser, ".card h3")


def press(browser: Chrome, group: str, text: str) -> None:
    next(button for button in browser.find_elements(By.CSS_SELECTOR, f"{group} button") if button.text == text).click()


def loaded(browser: Chrome) -> None:
    """Waits until the pictures of the gallery and the viewer are drawn."""
    script = """
        const images = [...document.querySelectorAll(".stack img")];
        return images.length > 0 && images.every((image) => image.complete && image.naturalWidth);
    """
    settle(browser)
    WebDriverWait(browser, 10).until(lambda driver: driver.execute_script(script))


def pixels(browser: Chrome, element: WebElement | None = None) -> npt.NDArray[np.int64]:
    png = element.screenshot_as_png if element else browser.get_screenshot_as_png()
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(np.int64)


def test_filters_and_order(browser: Chrome, open_page: Open, make_content: Callable[..., ReportContent]) -> None:
    open_page(make_content(cards_total=40))
    assert one(browser, "#gallery-part").text == "4 of 40 photographs, evenly spread."
    assert cards(browser) == ["a photo", "b photo", "c photo", "d photo"]
    assert one(browser, "#count").text == "4 photographs shown"

    order = Select(one(browser, "#order"))
    order.select_by_visible_text("worst first: val")
    assert cards(browser) == ["c photo", "a photo", "b photo", "d photo"]
    # Photographs of other lists stand behind, and one is told so.
    assert one(browser, "#count").text == "4 photographs shown; the last 1 without this score"
    order.select_by_visible_text("best first: val")
    assert cards(browser) == ["b photo", "a photo", "c photo", "d photo"]
    one(browser, "#text").send_keys("d")
    assert one(browser, "#count").text == "1 of 4 photographs shown; none has this score"
    one(browser, "#reset").click()

    Select(one(browser, "#class")).select_by_visible_text("disc (2)")
    assert cards(browser) == ["b photo", "a photo"]
    assert one(browser, "#count").text == "2 of 4 photographs shown"
    Select(one(browser, "#split")).select_by_visible_text("val")
    assert cards(browser) == []
    assert "No photograph fits" in one(browser, "#cards").text
    one(browser, "#reset").click()
    one(browser, "#text").send_keys("C PH")
    assert cards(browser) == ["c photo"]


def test_class_in_the_truth(
    browser: Chrome, open_page: Open, make_content: Callable[..., ReportContent], make_card: Callable[..., Card]
) -> None:
    layers = make_card("x").layers
    open_page(
        make_content(
            cards=[
                Card("tagged only", "train", (1,), (2,), (60, 80), {}, layers),
                Card("both", "train", (1, 2), (1, 2), (60, 80), {}, layers),
            ]
        )
    )
    assert not one(browser, "#where").is_displayed()
    Select(one(browser, "#class")).select_by_visible_text("disc (2)")
    assert cards(browser) == ["both", "tagged only"]
    Select(one(browser, "#where")).select_by_visible_text("in the truth")
    assert cards(browser) == ["both"]


def test_views_of_the_gallery(
    browser: Chrome, open_page: Open, make_content: Callable[..., ReportContent], make_card: Callable[..., Card]
) -> None:
    open_page(make_content(cards=[make_card("a"), make_card("b", layers=("photograph", "prediction", "truth"))]))
    loaded(browser)
    assert texts(browser, "#views button") == ["Side by side", "photograph", "CAM", "prediction", "truth"]
    assert texts(browser, ".frame .caption") == ["photograph", "CAM", "truth", "photograph", "prediction", "truth"]
    photograph, cam, truth = (
        pixels(browser, box) for box in browser.find_elements(By.CSS_SELECTOR, ".card:first-child .box")
    )
    assert np.ptp(photograph[10, 60]) < 5
    assert cam[10, 60, 0] > cam[10, 60, 2] + 80
    assert truth[10, 60, 2] > truth[10, 60, 0] + 80

    browser.execute_script(
        "const o = arguments[0]; o.value = 0; o.dispatchEvent(new Event('input'))", one(browser, "#opacity")
    )
    assert np.ptp(pixels(browser, browser.find_elements(By.CSS_SELECTOR, ".box")[1])[10, 60]) < 5
    press(browser, "#views", "prediction")
    assert texts(browser, ".frame .caption") == ["photograph; no prediction", ""]


def test_the_viewer_compares_two_layers(
    browser: Chrome, open_page: Open, make_content: Callable[..., ReportContent], tmp_path: Path
) -> None:
    open_page(make_content())
    loaded(browser)
    one(browser, ".card:nth-child(2) .frame").click()
    assert one(browser, "#viewer-title").text == "b photo"
    assert one(browser, "#viewer-position").text == "2 of 4"
    assert (one(browser, "#caption-left").text, one(browser, "#caption-right").text) == ("CAM", "truth")
    loaded(browser)
    WebDriverWait(browser, 10).until(lambda driver: "In “truth”" in one(driver, "#viewer-shares").text)
    assert texts(browser, "#viewer-shares li") == ["disc\n100 %", "square\n100 %"]

    # CAM is red and truth is blue: what is left of the divider changes with it.
    compare = one(browser, "#compare")
    width, height = compare.size["width"], compare.size["height"]

    def red(share: float) -> bool:
        red, _, blue = pixels(browser, compare)[height // 4, round(share * (width - 1))]
        assert abs(red - blue) > 80
        return bool(red > blue)

    assert (red(0.3), red(0.7)) == (True, False)
    ActionChains(browser).drag_and_drop_by_offset(one(browser, "#divider"), round(0.3 * width), 0).perform()
    assert (red(0.3), red(0.7), red(0.95)) == (True, True, False)
    one(browser, "#divider").send_keys(Keys.HOME)
    assert one(browser, "#divider").get_attribute("aria-valuenow") == "0"
    assert not red(0.1)

    body = one(browser, "#close")
    body.send_keys("1")
    assert one(browser, "#caption-right").text == "photograph"
    assert one(browser, "#viewer-layers button.right[value=photograph]").get_attribute("aria-pressed") == "true"
    one(browser, "#viewer-layers button.right[value=CAM]").click()
    assert one(browser, "#caption-right").text == "CAM"
    one(browser, "#viewer-layers button.right[value=CAM]").click()
    assert one(browser, "#caption-right").text == "photograph"

    body.send_keys(Keys.ARROW_RIGHT)
    assert one(browser, "#viewer-title").text == "c photo"
    assert "square" in one(browser, "#viewer-classes").text
    assert "10.0" in one(browser, "#viewer-classes .figures").text
    body.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert one(browser, "#viewer-title").text == "a photo"
    assert not one(browser, "#previous").is_enabled()
    body.send_keys(Keys.ESCAPE)
    assert not one(browser, "#viewer").is_displayed()
    # One is left at the photograph one has looked at last.
    assert browser.switch_to.active_element.get_attribute("aria-label") == "Enlarge a photo, photograph"


def test_metrics_and_the_way_to_the_gallery(
    browser: Chrome, open_page: Open, make_content: Callable[..., ReportContent]
) -> None:
    open_page(make_content())
    precision, iou = browser.find_elements(By.CSS_SELECTOR, ".measure")
    assert precision.find_element(By.TAG_NAME, "h3").text == "average precision"

    def rows() -> list[list[str]]:
        return [
            [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, .number")]
            for row in iou.find_elements(By.CSS_SELECTOR, "tbody tr")
        ]

    listed = [["background", "80.0", "90.0"], ["disc", "50.0", "25.0"], ["square", "10.0", "-"]]
    assert rows() == listed
    bars = iou.find_elements(By.CSS_SELECTOR, "tbody tr:nth-child(2) .bar")
    assert bars[0].rect["width"] == pytest.approx(2 * bars[1].rect["width"], rel=0.02)

    by_val = ["background", "disc", "square"]
    iou.find_element(By.CSS_SELECTOR, "thead th:last-child button").click()
    assert [row[0] for row in rows()] == by_val
    iou.find_element(By.CSS_SELECTOR, "thead th:last-child button").click()
    assert [row[0] for row in rows()] == ["disc", "background", "square"]  # what is not defined stays last
    iou.find_element(By.CSS_SELECTOR, "thead th:last-child button").click()
    assert rows() == listed
    iou.find_elements(By.CSS_SELECTOR, "input")[0].click()
    assert rows() == [[name, val] for name, _, val in listed]

    assert iou.find_element(By.CSS_SELECTOR, "tbody th").find_elements(By.TAG_NAME, "button") == []
    iou.find_element(By.CSS_SELECTOR, "tbody tr:nth-child(3) button").click()
    assert cards(browser) == ["a photo", "c photo", "d photo"]


def test_confusion_matrix(browser: Chrome, open_page: Open, make_content: Callable[..., ReportContent]) -> None:
    open_page(make_content())
    assert texts(browser, "#matrix tbody tr:nth-child(2) td") == ["30", "60", "10", ""]
    assert texts(browser, "#matrix tbody tr:nth-child(3) td") == ["-"] * 4
    ActionChains(browser).move_to_element(one(browser, "#matrix tbody tr:nth-child(2) td:nth-child(4)")).perform()
    assert one(browser, "#matrix-reading").text == "disc taken for square: 100 pixels, 10.0 % of disc"
    assert set(texts(browser, "#matrix th.met")) == {"disc", "square"}
    assert texts(browser, "#mistakes li") == ["disc taken for square 100 pixels, 10.0 % of disc"]
    press(browser, "#matrix-units", "pixels")
    assert texts(browser, "#matrix tbody tr:nth-child(2) td") == ["300", "600", "100", ""]


def test_curves(browser: Chrome, open_page: Open, make_content: Callable[..., ReportContent]) -> None:
    open_page(make_content())
    chart = WebDriverWait(browser, 10).until(lambda driver: one(driver, ".training svg"))
    assert chart.get_attribute("aria-label") == "classifier: classification from 0.7 to 0.1"
    # The step without a finite value breaks the line.
    assert (chart.find_element(By.CSS_SELECTOR, "path").get_attribute("d") or "").count("M") == 2
    ActionChains(browser).move_to_element_with_offset(chart, -chart.rect["width"] // 6, 0).perform()
    assert one(browser, ".training .key").text.split() == ["classification", "0.7", "at", "step", "10"]


def test_pictures_are_made_near_the_view_and_let_go_of(
    browser: Chrome,
    open_page: Open,
    make_content: Callable[..., ReportContent],
    many_cards: Callable[[int], Iterator[Card]],
) -> None:
    open_page(make_content(cards=many_cards(200), cards_total=200))
    loaded(browser)
    # Names with numbers go by their value.
    assert cards(browser)[:3] == ["photo 0", "photo 1", "photo 2"]
    drawn = "return [...document.querySelectorAll('.card')].map((card) => card.querySelectorAll('img').length)"
    first = browser.execute_script(drawn)
    assert first[0] == 5  # the photograph, and two covers with the photograph below
    assert first[-1] == 0
    browser.execute_script("document.querySelector('.card:last-child').scrollIntoView()")
    WebDriverWait(browser, 10).until(lambda driver: driver.execute_script(drawn)[-1] == 5)
    WebDriverWait(browser, 10).until(lambda driver: driver.execute_script(drawn)[0] == 0)
    one(browser, "#text").send_keys("photo 100")
    WebDriverWait(browser, 10).until(lambda driver: driver.execute_script(drawn) == [5])


def test_layers_of_few_photographs_stand_back(
    browser: Chrome, open_page: Open, make_content: Callable[..., ReportContent], make_card: Callable[..., Card]
) -> None:
    layers = ("photograph", "CAM", "CAM disc", "CAM square", "truth")
    common = [make_card(name) for name in ("b", "c")]
    # However few photographs another list has, its layers are not rare in it.
    val = make_card("d", split="val", layers=("photograph", "prediction", "truth"))
    open_page(make_content(cards=[make_card("a", layers=layers), *common, val]))
    assert texts(browser, "#views button") == ["Side by side", "photograph", "CAM", "prediction", "truth"]
    captions = texts(browser, ".card:first-child .caption")
    assert captions == ["photograph", "CAM", "truth", "CAM disc", "CAM square"]
    Select(one(browser, "#views select")).select_by_visible_text("CAM square")
    assert texts(browser, ".frame .caption") == ["", *["photograph; no CAM square"] * 3]
    press(browser, "#views", "CAM")
    assert one(browser, "#views select").get_property("value") == ""


@pytest.mark.parametrize("width", [390, 1400])
def test_odd_contents(
    browser: Chrome,
    open_page: Open,
    make_content: Callable[..., ReportContent],
    make_card: Callable[..., Card],
    width: int,
) -> None:
    classes = [("background", "#000000"), *((f"class with a long name {k}", f"#{k:06x}") for k in range(1, 81))]
    values = {name: None for name, _ in classes}
    confusion = np.eye(81, 82, dtype=int).tolist()
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><path d="M0 0h9v9z" style="fill:red"/></svg>'
    stands_beside = Layer("edges", "picture", "image/png", make_card("x").layers[1].data)
    flat = make_card("flat", size=(4, 4000))
    open_page(
        make_content(
            title=ODD * 3,
            classes=classes,
            scores=[ClassScores(ODD, "IoU", ODD, 0.5, values, confusion)],
            figures=[Figure(ODD, "image/svg+xml", svg)],
            cards=[
                make_card(ODD, tags=tuple(range(1, 81))),
                make_card("tall", size=(4000, 50), tags=()),
                Card("beside", "train", (999,), (), (60, 80), {}, [*flat.layers, stands_beside]),
                make_card("x" * 300),
                Card("bare", "train", (), (), (60, 80), {}, []),
                flat,
            ],
        )
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        loaded(browser)
        assert browser.title == ODD * 3
        assert ODD in cards(browser)
        for view in ("photograph", "truth", "Side by side"):
            press(browser, "#views", view)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert len(browser.find_elements(By.CSS_SELECTOR, "#matrix td")) == 81 * 82
        one(browser, ".card .frame").click()
        while one(browser, "#next").is_enabled():
            one(browser, "#next").click()
            assert one(browser, "#compare").rect["width"] >= 2
        one(browser, "#close").click()
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_truth_and_without_photographs(
    browser: Chrome, open_page: Open, make_content: Callable[..., ReportContent], make_card: Callable[..., Card]
) -> None:
    bare = {"scores": [], "rankings": [], "headlines": [], "notes": ["No true masks are known."]}
    open_page(
        make_content(
            cards=[make_card("a", layers=("photograph", "CAM"))],
            classes=[("background", "#000000"), ("disc", "#c00000")],
            **bare,
        )
    )
    assert [option.text for option in Select(one(browser, "#order")).options] == ["by name"]
    assert texts(browser, ".notes li") == ["No true masks are known."]
    assert "Metrics" not in texts(browser, "nav a")
    one(browser, ".frame").click()
    assert (one(browser, "#caption-left").text, one(browser, "#caption-right").text) == ("photograph", "CAM")
    one(browser, "#close").send_keys(Keys.ESCAPE)

    open_page(make_content(cards=[], cards_total=0, **bare))
    assert "without a gallery" in one(browser, "#gallery").text
    assert not one(browser, "#gallery-tools").is_displayed()


def test_copies_the_settings(browser: Chrome, open_page: Open, make_content: Callable[..., ReportContent]) -> None:
    open_page(make_content())
    one(browser, "#settings summary").click()
    one(browser, "#copy").click()
    WebDriverWait(browser, 10).until(lambda driver: one(driver, "#copied").text)
    assert one(browser, "#copied").text.startswith(("copied", "selected"))


def test_looks_like_something(
    browser: Chrome, open_page: Open, make_content: Callable[..., ReportContent], tmp_path: Path
) -> None:
    open_page(make_content())
    loaded(browser)
    browser.save_screenshot(str(tmp_path / "page.png"))
    seen = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert seen.std() > 10
    assert len(np.unique(seen)) > 20
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        assert pixels(browser).mean() < seen.mean() / 2
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
