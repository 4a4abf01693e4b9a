"""The form is the worker's contract: every field once, its limits, its help."""

import re
from typing import Any

import pytest

from sdworker.request import Contract
from sdworker.settings import Settings
from tests.local_endpoint.harness import Endpoint, eventually
from tests.local_endpoint.page.driving import draw, field, fill, newest_input, picture_of, wait_for_pictures

SCHEMA = Contract(Settings(), (512, 512)).schema()
OFFERED = [
    name
    for name, field in SCHEMA["properties"].items()
    if not field.get("deprecated") and not field.get("$ref", "").startswith("#/properties/")
]


class TestFields:
    def test_every_field_of_the_workers_schema_is_there_once_and_none_that_is_not_served(
        self, page: Any
    ) -> None:
        own = "all => all.filter((one) => !one.closest('.inside')).map((one) => one.name)"
        names = page.eval_on_selector_all("form [name]", own)
        assert sorted(names) == sorted(OFFERED)

    def test_is_built_from_the_schema(self, page: Any) -> None:
        fill(page)
        width = page.get_by_role("spinbutton", name="Width", exact=True)
        assert (width.get_attribute("min"), width.get_attribute("max")) == ("64", "2048")
        assert width.get_attribute("placeholder") == "512"
        assert page.get_by_label("Format", exact=True).locator("option").all_inner_texts() == [
            "default (png)",
            "png",
            "jpeg",
            "webp",
        ]
        assert "image i is drawn with seed + i" in page.locator("#field-num_outputs-hint").text_content()
        picture_of(page, "form")

    def test_what_is_out_of_bounds_is_not_sent(self, page: Any, drawing: Endpoint) -> None:
        before = drawing.health()["jobs"]["completed"]
        draw(page, "draw", num_inference_steps="900")
        assert page.evaluate("document.activeElement.id") == "field-num_inference_steps"
        assert drawing.health()["jobs"]["completed"] == before

    def test_help_is_shown_in_the_field_and_by_its_mark(self, page: Any) -> None:
        hint = page.locator("#field-seed-hint")
        assert hint.is_hidden()
        field(page, "seed").focus()
        assert page.locator("#field-help").inner_text() == "Seed of the first image; null and -1 mean random."
        page.get_by_role("button", name="Help: Seed").click()
        assert hint.is_visible()

    def test_a_closed_group_says_what_is_set_in_it(self, page: Any) -> None:
        fill(page, num_inference_steps="12", guidance_scale="3")
        assert page.locator("summary", has_text="Sampling").inner_text().endswith(
            "Steps 12 · Guidance 3"
        ) or ("Steps 12 · Guidance 3" in page.locator("summary", has_text="Sampling").text_content())


class TestKeyboard:
    def test_works_by_keyboard_alone(self, page: Any) -> None:
        field(page, "prompt").focus()
        page.keyboard.type("draw by keyboard")
        page.keyboard.press("Control+Enter")
        wait_for_pictures(page, 1)
        field(page, "prompt").focus()
        reached = []
        for _ in range(5):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert reached[:4] == ["field-negative_prompt", "SUMMARY", "field-width", "field-height"]
        page.locator("#gallery .open").first.focus()
        page.keyboard.press("Enter")
        page.get_by_role("dialog").wait_for()
        page.keyboard.press("Escape")
        eventually(lambda: page.get_by_role("dialog").count() == 0)

    def test_every_control_has_a_name(self, page: Any) -> None:
        fill(page)
        nameless = page.evaluate(
            """[...document.querySelectorAll("input, select, textarea, button, progress")]
               .filter((node) => !node.labels?.length && !node.ariaLabel && !node.textContent.trim()
                 && !node.getAttribute("aria-labelledby") && node.ariaHidden !== "true")
               .map((node) => node.outerHTML)"""
        )
        assert nameless == []


class TestTokens:
    def test_are_counted_as_one_types_and_the_ends_of_chunks_are_told(self, page: Any) -> None:
        counter = page.locator(".field-prompt .tokens")
        field(page, "prompt").fill("a (red:1.4) heart")
        eventually(lambda: counter.inner_text() == "3 / 75")
        field(page, "prompt").fill("x, " * 40 + "a tree")
        eventually(lambda: re.fullmatch(r"8\d / 150", counter.inner_text()))
        assert "Part 1 ends after" in page.locator(".field-prompt .ends").inner_text()
        field(page, "negative_prompt").fill("ugly")
        eventually(
            lambda: re.fullmatch(r"\d / 75", page.locator(".field-negative_prompt .tokens").inner_text())
        )

    def test_what_cannot_be_read_is_said_beside_the_prompt(self, page: Any) -> None:
        field(page, "prompt").fill("a (heart:99)")
        ends = page.locator(".field-prompt .ends")
        eventually(lambda: "a weight of 99 is out of range" in ends.inner_text())
        field(page, "prompt").fill("a heart")
        eventually(lambda: ends.text_content() == "")


class TestTools:
    def test_a_sampler_is_found_by_a_part_of_its_name(self, page: Any, drawing: Endpoint) -> None:
        fill(page)
        sampler = field(page, "scheduler")
        sampler.click()
        everything = page.locator("#field-scheduler-options li").count()
        sampler.press_sequentially("3m")
        found = page.locator("#field-scheduler-options li").all_inner_texts()
        assert 0 < len(found) < everything
        assert all("3M" in name for name in found)
        sampler.press("ArrowDown")
        sampler.press("Enter")
        assert sampler.input_value() == found[0]
        assert sampler.get_attribute("aria-expanded") == "false"
        draw(page, "draw")
        wait_for_pictures(page, 1)
        assert newest_input(drawing)["scheduler"] == found[0]

    def test_sizes_by_shape_by_scale_turned_and_locked(self, page: Any) -> None:
        def sides() -> tuple[str, str]:
            return field(page, "width").input_value(), field(page, "height").input_value()

        page.get_by_role("button", name="Shape 3:2").click()
        assert sides() == ("624", "416")
        page.get_by_role("button", name="Turn round").click()
        assert sides() == ("416", "624")
        page.get_by_role("button", name="Keep the shape").click()
        fill(page, width="208")
        field(page, "width").press("Tab")
        assert sides() == ("208", "312")
        page.get_by_role("button", name="Shape 1:1").click()
        page.get_by_role("button", name="1.5 times the model's own size").click()
        assert sides() == ("768", "768")

    def test_the_dice_rolls_a_seed_that_stays(self, page: Any) -> None:
        page.get_by_role("button", name="Roll a seed").click()
        seed = field(page, "seed").input_value()
        assert re.fullmatch(r"\d{1,10}", seed)
        page.get_by_role("button", name="A new seed with every draw").click()
        assert field(page, "seed").input_value() == ""

    def test_slider_and_number_follow_each_other(self, page: Any) -> None:
        fill(page, num_inference_steps="30")
        slider = page.get_by_role("slider", name="Steps, slider")
        assert slider.input_value() == "30"
        slider.focus()
        page.keyboard.press("ArrowRight")
        assert field(page, "num_inference_steps").input_value() == "31"


NESTED = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string"},
        "addons": {
            "type": ["array", "null"],
            "items": {"$ref": "#/$defs/AddOn"},
            "default": [],
            "maxItems": 2,
        },
        "hires": {"anyOf": [{"$ref": "#/$defs/AddOn"}, {"type": "null"}], "default": None},
        "numbers": {"type": ["array", "null"], "items": {"type": "number"}},
        "loras": {"$ref": "#/properties/addons"},
        "gone": {"deprecated": True, "enum": [{}, None]},
    },
    "$defs": {
        "AddOn": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "examples": ["pencil", "pixels"]},
                "scale": {"type": ["number", "null"], "minimum": 0, "maximum": 2, "default": 1},
                "image": {"type": ["string", "null"], "contentMediaType": "image/*"},
                "weight": {"$ref": "#/$defs/AddOn/properties/scale"},
            },
        }
    },
}
WRITE = """async ([schema, input]) => {
    const { buildForm } = await import("/playground/form.js");
    const place = document.createElement("form");
    const form = buildForm(schema, place, place);
    form.write(input);
    return form.read();
}"""
PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({}, {}),
        (
            {"addons": [{"name": "a", "scale": 0.5}, {"name": "b", "image": PIXEL}], "hires": {"name": "c"}},
            {"addons": [{"name": "a", "scale": 0.5}, {"name": "b", "image": PIXEL}], "hires": {"name": "c"}},
        ),
        ({"numbers": [1, 2], "hires": {}}, {"numbers": [1, 2], "hires": {}}),
    ],
    ids=["empty", "objects", "plain list"],
)
def test_objects_and_lists_have_fields_of_their_own(
    page: Any, written: dict[str, Any], read: dict[str, Any]
) -> None:
    again = page.evaluate(WRITE, [NESTED, written])
    assert again == read


def test_an_item_is_added_by_hand_up_to_the_limit_and_taken_out(page: Any) -> None:
    page.evaluate(
        """async (schema) => {
            const { buildForm } = await import("/playground/form.js");
            const place = document.createElement("form");
            place.id = "nested";
            document.body.prepend(place);
            window.nested = buildForm(schema, place, place);
        }""",
        NESTED,
    )
    form = page.locator("#nested")
    form.locator("details").evaluate_all("all => all.forEach((one) => (one.open = true))")
    add = form.get_by_role("button", name="Add addon")
    add.click()
    form.get_by_role("combobox").first.fill("pen")
    form.get_by_role("option", name="pencil").click()
    assert form.get_by_label("Weight").count() == 0, "another name of Scale"
    form.get_by_role("listitem").get_by_label("Scale, slider").fill("0.5")
    assert page.evaluate("nested.read()") == {"addons": [{"name": "pencil", "scale": 0.5}]}
    add.click()
    assert add.is_disabled()
    form.get_by_role("button", name="Remove addon").first.click()
    assert page.evaluate("nested.read()") == {"addons": [{}]}
    assert add.is_enabled()
