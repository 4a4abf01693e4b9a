"""The page fits, can be read, and axe finds nothing, on phones and desktops, dark and light."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.local_endpoint.harness import KEY, Endpoint
from tests.local_endpoint.page.driving import draw, field, fill, picture_of, wait_for_pictures
from tests.local_endpoint.page.test_pictures import give, png, slot


def open_page(browser: Any, endpoint: Endpoint, path: str = "/", **options: Any) -> Any:
    page = browser.new_context(**options).new_page()
    page.goto(f"{endpoint.base}{path}#key={KEY}")
    page.wait_for_selector("html[data-ready]")
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("device", "width", "height"), [("phone", 390, 844), ("desktop", 1280, 900)])
def test_fits_its_window_and_can_be_read(
    browser: Any, drawing: Endpoint, scheme: str, device: str, width: int, height: int
) -> None:
    page = open_page(browser, drawing, color_scheme=scheme, viewport={"width": width, "height": height})
    draw(page, "draw a dog that flies", num_outputs="3")
    wait_for_pictures(page, 3)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert contrast(page, "body") >= 7
    assert contrast(page, "#draw") >= 4.5
    picture_of(page, f"{device}-{scheme}")
    page.context.close()


def test_nothing_sticks_out_at_320_pixels(browser: Any, drawing: Endpoint) -> None:
    page = open_page(browser, drawing, viewport={"width": 320, "height": 640})
    draw(page, "draw " + "x" * 300, num_outputs="2")
    wait_for_pictures(page, 2)
    page.locator("#gallery .open").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= 320
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, drawing: Endpoint, npm_folder: Path, scheme: str) -> None:
    page = open_page(browser, drawing, color_scheme=scheme, bypass_csp=True)
    axe = (npm_folder / "node_modules/axe-core/axe.min.js").read_text()
    page.evaluate(axe)
    fill(page)
    for name in ("Add LoRA", "Add other embedding", "Add ControlNet"):
        page.get_by_role("button", name=name, exact=True).click()
    page.keyboard.press("Escape")
    for name in ("Hires", "Upscale"):
        page.get_by_role("switch", name=name, exact=True).check()
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    picture_of(page, f"everything-{scheme}")
    assert found(page) == []
    page.get_by_role("button", name="Clear", exact=True).click()
    give(page, "drop", '[data-picture="init_image"]', png())
    slot(page, "init_image").locator("img").wait_for()
    slot(page, "mask").get_by_role("button", name="Paint").click()
    page.get_by_role("dialog").wait_for()
    assert found(page) == []
    page.keyboard.press("Escape")
    field(page, "prompt").fill("draw a dog")
    page.get_by_role("button", name="X/Y grid").click()
    page.get_by_role("dialog").wait_for()
    assert found(page) == []
    page.keyboard.press("Escape")
    give(page, "drop", "body", png())
    page.get_by_text("It says nothing of how it was drawn.").wait_for()
    assert found(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Clear", exact=True).click()
    draw(page, "draw a dog", num_outputs="2")
    wait_for_pictures(page, 2)
    draw(page, "draw long", num_inference_steps="400")
    page.get_by_text(re.compile("Step . of 400|Step .. of 400")).wait_for()
    assert found(page) == []
    page.get_by_role("button", name="Cancel").click()
    page.locator("#gallery .open").first.click()
    assert found(page) == []
    page.get_by_role("button", name="Compare with").click()
    assert found(page) == []
    page.context.close()


@pytest.mark.parametrize("path", ["/console", "/docs"])
def test_console_and_document_are_clean_and_fit_a_phone(
    browser: Any, drawing: Endpoint, npm_folder: Path, path: str
) -> None:
    drawing.final(drawing.run({"prompt": "draw"}))
    axe = (npm_folder / "node_modules/axe-core/axe.min.js").read_text()
    for scheme in ("light", "dark"):
        page = open_page(
            browser,
            drawing,
            path,
            color_scheme=scheme,
            bypass_csp=True,
            viewport={"width": 320, "height": 640},
        )
        page.evaluate(axe)
        assert found(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        picture_of(page, f"{path[1:]}-phone-{scheme}")
        page.context.close()


def found(page: Any) -> list[Any]:
    violations = page.evaluate("axe.run()")["violations"]
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in violations]


def contrast(page: Any, selector: str) -> float:
    """The contrast between an element's text and its background, as WCAG counts it."""
    colours = page.evaluate(
        "(selector) => { const style = getComputedStyle(document.querySelector(selector));"
        " return [style.color, style.backgroundColor]; }",
        selector,
    )

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(luminance(colour) for colour in colours)
    return (light + 0.05) / (dark + 0.05)
