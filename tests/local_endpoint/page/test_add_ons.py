"""LoRAs, embeddings, ControlNets and larger pictures in the form; and how it helps and judges."""

import re
from typing import Any

import pytest

from tests.local_endpoint.harness import Endpoint, eventually
from tests.local_endpoint.page.driving import draw, field, fill, newest_input, picture_of, wait_for_pictures
from tests.local_endpoint.page.test_pictures import give, png


def add(page: Any, name: str) -> None:
    fill(page)
    page.get_by_role("button", name=name, exact=True).click()


def offered(page: Any) -> list[str]:
    """What the list that is open has."""
    return list(page.locator(".options:not([hidden]) li").all_inner_texts())


class TestAddOns:
    def test_a_lora_is_picked_with_a_slider(self, page: Any, drawing: Endpoint) -> None:
        add(page, "Add LoRA")
        assert offered(page) == ["pencil", "pixels"]
        page.get_by_role("option", name="pencil").click()
        slider = page.locator(".field-loras").get_by_role("slider", name="Scale, slider").first
        assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("-1", "2")
        slider.fill("0.7")
        draw(page, "draw")
        wait_for_pictures(page, 1)
        assert newest_input(drawing)["loras"] == [{"name": "pencil", "scale": 0.7}]

    @pytest.mark.parametrize(
        ("before", "strength", "after"),
        [
            ("", "1", "dot-cube"),
            ("a cat", "1.3", "a cat, (dot-cube:1.3)"),
            ("a cat, ", "1", "a cat, dot-cube"),
        ],
    )
    def test_an_embedding_goes_into_a_prompt(self, page: Any, before: str, strength: str, after: str) -> None:
        fill(page, prompt=before, negative_prompt=before)
        page.get_by_label("Strength", exact=True).and_(page.locator("#embedding-strength")).fill(strength)
        for name in ("prompt", "negative prompt"):
            page.get_by_role("button", name=f"Into the {name}", exact=True).click()
        assert field(page, "prompt").input_value() == after
        assert field(page, "negative_prompt").input_value() == after

    def test_what_there_is_one_of_is_chosen(self, page: Any, drawing: Endpoint) -> None:
        fill(page)
        page.get_by_role("switch", name="Upscale").check()
        draw(page, "draw")
        wait_for_pictures(page, 1)
        assert newest_input(drawing)["upscale"] == {"model": "emoji-x2"}

    def test_a_second_pass_is_enlarged_by_what_there_is(self, page: Any) -> None:
        fill(page)
        page.get_by_role("switch", name="Hires").check()
        field(page, "hires-upscaler").click()
        assert {"latent", "lanczos", "emoji-x2"} <= set(offered(page))
        page.keyboard.press("Escape")
        width = field(page, "hires-width")
        assert (width.get_attribute("step"), width.get_attribute("min")) == ("8", "64")


class TestHints:
    def test_what_the_preprocessor_makes_is_shown_beside_the_picture(self, page: Any) -> None:
        add(page, "Add ControlNet")
        row = page.locator(".field-controls .rows > li")
        assert row.locator("[name=model]").input_value() == "edges"
        give(page, "drop", '[data-picture="image"]', png())
        row.locator(".drop > img").wait_for()
        assert row.locator(".shown").is_hidden(), "the net is shown the picture itself"
        row.get_by_label("Preprocessor", exact=True).select_option("threshold")
        row.locator(".shown img").wait_for()
        assert "What edges is shown, 512 × 512" in row.inner_text()
        first = row.locator(".shown img").get_attribute("src")
        row.get_by_label("Preprocessor", exact=True).select_option("invert")
        eventually(lambda: row.locator(".shown img").get_attribute("src") != first)
        picture_of(page, "hint")

    def test_a_drawings_own_picture_is_the_hint_where_there_is_none(self, page: Any) -> None:
        add(page, "Add ControlNet")
        give(page, "drop", '[data-picture="init_image"]', png((160, 96)))
        row = page.locator(".field-controls .rows > li")
        row.get_by_label("Preprocessor", exact=True).select_option("canny")
        eventually(lambda: "What edges is shown, 160 × 96" in row.inner_text())

    def test_it_says_why_there_is_none(self, page: Any) -> None:
        add(page, "Add ControlNet")
        row = page.locator(".field-controls .rows > li")
        row.get_by_label("Picture", exact=True).fill("http://127.0.0.1:1/a.png")
        row.get_by_label("Preprocessor", exact=True).select_option("canny")
        eventually(lambda: "127.0.0.1" in row.locator(".shown").inner_text())


class TestJudging:
    def test_what_is_missing_is_said_beside_the_button_and_no_more_when_it_is_there(self, page: Any) -> None:
        add(page, "Add LoRA")
        page.keyboard.press("Escape")
        page.evaluate("document.querySelectorAll('details.group').forEach((one) => (one.open = false))")
        field(page, "prompt").fill("draw")
        page.get_by_role("button", name="Draw", exact=True).click()
        error = page.locator("#error")
        eventually(lambda: error.inner_text().startswith("LoRA: "))
        name = page.locator(".field-loras [name=name]")
        assert name.is_visible()
        assert name.evaluate("(one) => one === document.activeElement")
        name.fill("pencil")
        assert error.inner_text() == ""

    def test_no_size_is_sent_that_is_not_drawn_here(self, page: Any, drawing: Endpoint) -> None:
        before = drawing.health()["jobs"]["completed"]
        draw(page, "draw", width="2048", height="1024")
        said = "2048 × 1024 is more than is drawn here: 1024 × 1024 pixels in all."
        assert page.locator("#error").inner_text() == f"Width: {said}"
        assert drawing.health()["jobs"]["completed"] == before
        draw(page, "draw", height="512")
        wait_for_pictures(page, 1)

    def test_help_is_shown_on_hover(self, page: Any) -> None:
        tip = page.locator(".tip")
        assert tip.is_hidden()
        page.get_by_text("Seed", exact=True).hover()
        eventually(lambda: "null and -1 mean random" in tip.inner_text())
        page.get_by_role("heading", name="Playground").hover()
        assert tip.is_hidden()

    def test_help_in_a_field_goes_when_one_leaves_it(self, page: Any) -> None:
        field(page, "seed").focus()
        page.get_by_label("Search").or_(page.locator("#change-key")).first.focus()
        eventually(lambda: page.locator("#field-help").inner_text() == "")


OF_TWO = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string"},
        "model": {
            "type": ["string", "null"],
            "enum": ["small", "large", None],
            "default": "small",
            "defaultsOf": {"small": {"width": 512, "steps": 25}, "large": {"width": 1024, "steps": 4}},
        },
        "width": {"type": ["integer", "null"], "minimum": 64, "maximum": 2048, "default": 512},
        "steps": {"type": ["integer", "null"], "minimum": 0, "maximum": 500, "default": 25},
    },
}


def test_another_model_has_its_own_defaults(page: Any) -> None:
    shown = page.evaluate(
        """async (schema) => {
            const { buildForm } = await import("/playground/form.js");
            const place = document.createElement("form");
            const form = buildForm(schema, place, place);
            const usual = (name) => place.querySelector(`#field-${name}`).placeholder;
            const defaults = () => ["width", "steps"].map(usual);
            form.write({ model: "large" });
            const large = [...defaults(), place.querySelector("[aria-label='Steps, slider']").value];
            form.write({});
            return [large, defaults()];
        }""",
        OF_TWO,
    )
    assert shown == [["1024", "4", "4"], ["512", "25"]]


def test_a_picture_is_found_by_its_day(page: Any) -> None:
    draw(page, "draw a cat")
    wait_for_pictures(page, 1)
    search = page.get_by_label("Search pictures")
    for text, count in [("cat today", 1), ("yesterday", 0), ("", 1)]:
        search.fill(text)
        assert page.locator("#gallery > li").count() == count


def test_cancelled_is_said(page: Any) -> None:
    draw(page, "draw", num_inference_steps="400")
    page.get_by_text(re.compile(r"Step \d+ of 400")).wait_for()
    page.locator("#queue").get_by_role("button", name="Cancel").click()
    eventually(lambda: page.locator("#status").inner_text() == "Cancelled.")
