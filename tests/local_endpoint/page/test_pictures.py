"""Pictures into the page: chosen, dropped, pasted; masks painted; parameters read out of files."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdworker.generation_data import parameters_text
from sdworker.pictures import encode_image
from sdworker.request import Contract
from sdworker.settings import Settings
from tests.local_endpoint.harness import Endpoint, eventually
from tests.local_endpoint.page.driving import draw, field, fill, newest_input, picture_of, wait_for_pictures

GIVE = """([kind, target, base64]) => {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "given.png", { type: "image/png" }));
    const place = document.querySelector(target);
    const data = kind === "paste" ? { clipboardData: transfer } : { dataTransfer: transfer };
    const Kind = kind === "paste" ? ClipboardEvent : DragEvent;
    place.dispatchEvent(new Kind(kind, { ...data, bubbles: true, cancelable: true }));
}"""


def png(size: tuple[int, int] = (128, 96)) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, "PNG")
    return file.getvalue()


def give(page: Any, kind: str, target: str, data: bytes) -> None:
    page.evaluate(GIVE, [kind, target, base64.b64encode(data).decode()])


def slot(page: Any, name: str) -> Any:
    return page.locator(f'[data-picture="{name}"]')


def sent(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


class TestSlot:
    @pytest.mark.parametrize(
        ("kind", "target"),
        [("drop", '[data-picture="init_image"]'), ("paste", "#field-init_image")],
    )
    def test_takes_what_is_dropped_or_pasted_shows_and_sends_it(
        self, page: Any, drawing: Endpoint, kind: str, target: str
    ) -> None:
        fill(page)
        give(page, kind, target, png())
        eventually(lambda: "128 × 96" in slot(page, "init_image").inner_text())
        assert slot(page, "init_image").locator("img").is_visible()
        draw(page, "draw")
        wait_for_pictures(page, 1)
        assert sent(newest_input(drawing)["init_image"]).size == (128, 96)
        slot(page, "init_image").get_by_role("button", name="Remove").click()
        assert slot(page, "init_image").locator("img").is_hidden()

    def test_what_is_no_picture_is_said_to_be_none(self, page: Any) -> None:
        fill(page)
        file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no"}
        slot(page, "init_image").locator("input[type=file]").set_input_files(file)
        eventually(lambda: page.locator("#error").inner_text() == "notes.txt is no picture.")

    def test_an_address_is_sent_as_it_is(self, page: Any) -> None:
        fill(page, init_image="https://example.org/a.png")
        assert field(page, "init_image").input_value() == "https://example.org/a.png"

    def test_a_drawn_picture_becomes_the_start(self, page: Any, drawing: Endpoint) -> None:
        draw(page, "draw one")
        wait_for_pictures(page, 1)
        page.get_by_role("button", name="Start from draw one").click()
        draw(page, "draw two")
        wait_for_pictures(page, 2)
        assert sent(newest_input(drawing)["init_image"]).format == "PNG"


class TestMask:
    def paint(self, page: Any) -> Any:
        fill(page)
        give(page, "drop", '[data-picture="init_image"]', png((128, 128)))
        eventually(lambda: slot(page, "init_image").locator("img").is_visible())
        slot(page, "mask").get_by_role("button", name="Paint").click()
        return page.get_by_role("dialog")

    def mask(self, page: Any, drawing: Endpoint) -> np.ndarray:
        page.get_by_role("button", name="Use this mask").click()
        eventually(lambda: slot(page, "mask").locator("img").is_visible())
        draw(page, "draw")
        wait_for_pictures(page, 1)
        image = sent(newest_input(drawing)["mask"])
        assert image.size == (128, 128)
        return np.asarray(image.convert("L"))

    def test_is_painted_with_the_mouse_undone_and_feathered(self, page: Any, drawing: Endpoint) -> None:
        dialog = self.paint(page)
        dialog.get_by_label("Brush", exact=True).fill("20")
        dialog.get_by_label("Feather").fill("10")
        box = dialog.locator("canvas").bounding_box()
        scale = box["width"] / 128

        def stroke(x: float, y: float, to_x: float) -> None:
            page.mouse.move(box["x"] + x * scale, box["y"] + y * scale)
            page.mouse.down()
            page.mouse.move(box["x"] + to_x * scale, box["y"] + y * scale, steps=4)
            page.mouse.up()

        stroke(30, 30, 90)
        stroke(30, 100, 90)
        picture_of(page, "mask")
        dialog.get_by_role("button", name="Undo").click()
        mask = self.mask(page, drawing)
        assert mask[30, 60] > 200, "inside the stroke"
        assert mask[100, 60] == 0, "what was undone"
        edge = mask[30:50, 60]
        assert ((edge > 20) & (edge < 235)).sum() >= 4, "a soft edge"
        assert (np.diff(edge.astype(int)) <= 0).all()

    def test_is_painted_by_keyboard_and_inverted(self, page: Any, drawing: Endpoint) -> None:
        dialog = self.paint(page)
        dialog.get_by_label("Feather").fill("0")
        dialog.locator("canvas").focus()
        page.keyboard.press("Space")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Control+z")
        dialog.get_by_role("button", name="Redo").click()
        dialog.get_by_role("button", name="Invert").click()
        mask = self.mask(page, drawing)
        assert mask[64, 64] == 0
        assert mask[5, 5] == 255

    def test_without_a_picture_it_says_what_to_do(self, page: Any) -> None:
        fill(page)
        slot(page, "mask").get_by_role("button", name="Paint").click()
        assert "picture to start from first" in page.locator("#error").inner_text()


CONTRACT = Contract(Settings(), (512, 512))
GIVEN = {
    "prompt": "a (red:1.4) heart,\nwith two lines",
    "negative_prompt": "ugly, flat: no",
    "num_inference_steps": 12,
    "guidance_scale": 4.5,
    "seed": 2**62 + 1,
    "scheduler": "Euler a",
    "schedule": "karras",
    "clip_skip": 1,
    "width": 640,
    "height": 448,
}
A1111 = """masterpiece, a cat
Negative prompt: bad hands
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1234, Size: 512x768, Model hash: abc, \
Model: "a, b", Denoising strength: 0.5, Clip skip: 2, Version: v1.6.0"""
READ = """async (base64) => {
    const { parametersIn } = await import("/playground/parameters.js");
    return parametersIn(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)));
}"""
AS_INPUT = """async (text) => {
    const { inputOf, readParameters } = await import("/playground/parameters.js");
    const { stringify } = await import("/playground/json.js");
    return stringify(inputOf(readParameters(text)));
}"""

AS_INPUT_HERE = AS_INPUT.replace("(text) =>", "([text, known]) =>").replace("(text))", "(text), known)")


class TestParameters:
    @pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
    def test_are_found_in_our_files(self, page: Any, format: Any) -> None:
        text = "ein Mädchen 女の子, Steps: 4"
        pixels = np.zeros((8, 8, 3), np.uint8)
        data = encode_image(pixels, format=format, quality=90, parameters=text)
        assert page.evaluate(READ, base64.b64encode(data).decode()) == text

    def test_of_ours_make_the_same_request(self, page: Any) -> None:

        request = CONTRACT.parse(GIVEN)
        text = parameters_text(request, seed=request.seeds[0], size=(640, 448), model="m")
        again = CONTRACT.parse(json.loads(page.evaluate(AS_INPUT, text)))
        assert again == request

    def test_of_ours_say_what_it_was_drawn_with_beside(self, page: Any) -> None:
        given: dict[str, Any] = {
            "prompt": "a heart",
            "hires": {"scale": 1.5, "strength": 0.4, "upscaler": "lanczos", "steps": 7},
            "upscale": {"model": "emoji-x2", "scale": 2.0},
            "controls": [{"model": "edges", "image": "-", "preprocessor": "canny", "scale": 0.5, "end": 0.8}],
        }
        text = parameters_text(CONTRACT.parse(given), seed=3, size=(512, 512), model="twin")
        read = json.loads(
            page.evaluate(AS_INPUT_HERE, [text, {"models": ["Twin"], "controlnets": ["edges"]}])
        )
        assert read["hires"] == given["hires"]
        assert read["upscale"] == given["upscale"]
        assert read["controls"][0] | {"image": "-"} == given["controls"][0] | {"start": 0}
        assert (read["model"], read["seed"]) == ("Twin", 3)
        elsewhere = json.loads(page.evaluate(AS_INPUT_HERE, [text, {"models": ["other"], "controlnets": []}]))
        assert not {"model", "controls"} & set(elsewhere)

    def test_of_a1111_fill_the_form(self, page: Any) -> None:

        info, file = PngInfo(), io.BytesIO()
        info.add_text("parameters", A1111)
        Image.new("RGB", (32, 32)).save(file, "PNG", pnginfo=info)
        give(page, "drop", "body", file.getvalue())
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("a, b", exact=True).wait_for()
        picture_of(page, "given")
        dialog.get_by_role("button", name="Fill the form").click()
        values = {
            name: field(page, name).input_value()
            for name in (
                "prompt",
                "negative_prompt",
                "num_inference_steps",
                "scheduler",
                "seed",
                "height",
                "clip_skip",
            )
        }
        assert values == {
            "prompt": "masterpiece, a cat",
            "negative_prompt": "bad hands",
            "num_inference_steps": "20",
            "scheduler": "DPM++ 2M Karras",
            "seed": "1234",
            "height": "768",
            "clip_skip": "1",
        }

    def test_a_picture_without_any_can_still_be_used(self, page: Any) -> None:
        give(page, "paste", "body", png())
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("It says nothing of how it was drawn.").wait_for()
        dialog.get_by_role("button", name="Use as: Start from a picture").click()
        eventually(lambda: "128 × 96" in slot(page, "init_image").inner_text())
