"""The service's page in a real browser: drawing, dropping, keys, a phone, light and dark."""

from __future__ import annotations

import base64
import math
import re
import shutil
from pathlib import Path

import pytest
from support.asking import Running, digit, picture_of
from support.services import require

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def make_digits(folder: Path) -> None:
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    from tandem.model.package import Picture
    from tandem.model.writing import write

    rows, truth = load_digits(return_X_y=True)
    rows = rows.astype(np.float32)
    model = SVC(C=5, gamma=0.001).fit(rows, truth)
    write(
        folder,
        model,
        name="digits",
        sample=rows,
        metrics={"accuracy": 0.98},
        image=Picture(width=8, height=8),
    )


def make_iris(folder: Path) -> None:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    from tandem.model.writing import write

    data = load_iris()
    model = LogisticRegression(max_iter=500).fit(data.data, data.target)
    write(
        folder,
        model,
        name="iris",
        sample=data.data,
        labels=[str(name) for name in data.target_names],
        feature_names=data.feature_names,
    )


@pytest.fixture(scope="module")
def browser():
    require("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), headless=True, args=FLAGS
        )
        yield running
        running.close()


def started(folder: Path, **environment: str):
    running = Running(folder, folder.parent, **environment)
    try:
        running.wait_ready()
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, browser):
    folder = tmp_path_factory.mktemp("model") / "digits"
    make_digits(folder)
    yield from started(
        folder, TANDEM_RELEASE="41", TANDEM_APP_COMMIT="ab12" * 10, TANDEM_MODEL_VERSION="17"
    )


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory, browser):
    folder = tmp_path_factory.mktemp("model") / "iris"
    make_iris(folder)
    yield from started(folder)


@pytest.fixture
def visit(browser):
    """Opens a page and, at the end, checks that it complained of nothing and asked nobody else."""
    contexts = []

    def open_page(running: Running, path: str = "/", **options):
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 800}, **options})
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complain(message.text, complaints))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: foreign(asked.url, running, complaints))
        contexts.append((context, complaints))
        page.goto(running.url + path)
        return page

    yield open_page
    for context, complaints in contexts:
        context.close()
        assert complaints == []


def complain(text: str, complaints: list[str]) -> None:
    if "a status of 503" not in text:  # the test that is about it
        complaints.append(text)


def foreign(url: str, running: Running, complaints: list[str]) -> None:
    if not url.startswith((running.url, "data:", "blob:")):
        complaints.append(f"asked {url}")


def stroke(page, points) -> None:
    expect(page.locator("#pad")).to_be_visible()
    box = page.locator("#canvas").bounding_box()
    placed = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*placed[0])
    page.mouse.down()
    for place in placed[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


ZERO = [
    (0.5 + 0.2 * math.cos(t * math.pi / 8), 0.5 + 0.32 * math.sin(t * math.pi / 8))
    for t in range(17)
]


def status(page):
    return page.get_by_role("status")


def best(page):
    return page.locator("#best")


def expect(page):
    from playwright.sync_api import expect as wait_for

    return wait_for(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_drawn_digit_is_answered_while_it_is_drawn(digits, visit, scheme):
    page = visit(digits, color_scheme=scheme)
    expect(best(page)).to_have_text("?")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    stroke(page, ZERO)
    expect(best(page)).to_have_text("0")
    bars = page.locator("#bars li")
    expect(bars).to_have_count(3)
    expect(bars.first.locator("b")).to_have_text("0")
    shares = [float(text.rstrip(" %")) for text in page.locator("#bars span").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    assert len(asked) > 1  # asked while drawing, not only at its end
    expect(status(page)).to_have_text(re.compile(r"^0, [\d.]+ % .+ answered in"))
    page.get_by_role("button", name="Clear").click()
    expect(best(page)).to_have_text("?")
    expect(bars).to_have_count(0)


def test_the_release_that_answers_is_named(digits, visit):
    page = visit(digits)
    told = page.locator("#release")
    for text in ("41", "ab12ab12ab12", "digits 17", "0.98", "ONNX Runtime"):
        expect(told).to_contain_text(text)
    expect(page).to_have_title("digits")


@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_dropped_picture_is_answered(digits, visit, number):
    row, truth = digit(number)
    page = visit(digits)
    expect(page.locator("#pad")).to_be_visible()
    page.evaluate(
        """async (data) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "digit.png", { type: "image/png" }));
            const event = new DragEvent("drop", { dataTransfer: transfer, bubbles: true });
            document.getElementById("paper").dispatchEvent(event);
        }""",
        picture_of(row, size=160),
    )
    expect(best(page)).to_have_text(str(truth))


def test_a_chosen_picture_is_answered_and_drawing_starts_anew(digits, visit):
    row, truth = digit(6)
    page = visit(digits)
    content = base64.b64decode(picture_of(row, size=160, kind="JPEG"))
    picture = {"name": "six.jpg", "mimeType": "image/jpeg", "buffer": content}
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose picture").click()
    chooser.value.set_files([picture])
    expect(best(page)).to_have_text(str(truth))
    stroke(page, ZERO)
    expect(best(page)).to_have_text("0")


def test_a_file_that_is_no_picture_is_said(digits, visit):
    page = visit(digits)
    text = {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.locator("#file").set_input_files([text])
    expect(status(page)).to_have_text("That file is not a picture that can be read.")


def test_it_is_drawn_and_cleared_by_keyboard_alone(digits, visit):
    page = visit(digits)
    expect(page.locator("#pad")).to_be_visible()
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "canvas":
            break
    assert page.evaluate("document.activeElement.id") == "canvas"
    expect(page.locator("#pen")).to_be_visible()
    page.keyboard.press(" ")
    for _ in range(17):
        page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    expect(best(page)).to_have_text("1")
    page.keyboard.press("Escape")
    expect(best(page)).to_have_text("?")


def test_on_a_phone_drawing_and_answer_are_seen_together(digits, visit):
    size = {"width": 390, "height": 844}
    page = visit(digits, viewport=size, has_touch=True, is_mobile=True, device_scale_factor=2)
    expect(page.locator("#pad")).to_be_visible()
    stroke(page, ZERO)
    expect(best(page)).to_have_text("0")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for selector in ("#canvas", "#bars"):
        box = page.locator(selector).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 844


def test_what_is_refused_is_said_on_the_page(digits, visit):
    page = visit(digits)
    problem = '{"status": 503, "detail": "Come again later."}'
    page.route("**/score", lambda route: route.fulfill(status=503, body=problem))
    stroke(page, ZERO)
    expect(status(page)).to_have_text("Come again later.")


def test_a_model_of_values_gets_a_form_with_an_example_in_it(iris, visit):
    page = visit(iris, "/_tandem/")
    fields = page.locator("#fields input")
    expect(fields).to_have_count(4)
    for field, value in zip(fields.all(), ["6.7", "3", "5,2", "2.3"], strict=True):
        field.fill(value)
    page.get_by_role("button", name="Ask").click()
    expect(best(page)).to_have_text("virginica")
    fields.first.fill("x")
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text("sepal length (cm) must be a number.")


def test_the_api_page_lists_what_the_document_says(digits, visit):
    page = visit(digits, "/_tandem/docs")
    expect(page.locator("#operations section")).to_have_count(16)
    expect(page.locator("#score h2")).to_contain_text("/score")
    expect(page.locator("#score pre").first).to_contain_text('{"rows":[[')


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_against_its_ground(digits, visit, scheme):
    page = visit(digits, color_scheme=scheme)
    stroke(page, ZERO)
    expect(best(page)).to_have_text("0")
    worst = page.evaluate(
        """() => {
        const channel = (value) =>
          (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        const parse = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) =>
          0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
        const ground = (node) => {
          for (; node; node = node.parentElement) {
            const colour = parse(getComputedStyle(node).backgroundColor);
            if (colour.length < 4 || colour[3] === 1) return colour;
          }
          return [255, 255, 255];
        };
        let worst = [99, ""];
        for (const node of document.querySelectorAll("h1, h2, p, a, button, dt, dd, b, span")) {
          if (!node.textContent.trim() || !node.checkVisibility()) continue;
          const pair = [light(parse(getComputedStyle(node).color)), light(ground(node))];
          const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
          if (contrast < worst[0]) worst = [contrast, node.textContent.trim().slice(0, 40)];
        }
        return worst;
    }"""
    )
    assert worst[0] >= 4.5, worst  # WCAG 2.2, AA
