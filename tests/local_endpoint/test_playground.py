"""The playground in a real browser. SCREENSHOTS names a folder to keep pictures of it in."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdworker.request import Contract
from sdworker.settings import Settings
from tests.local_endpoint.harness import KEY, Endpoint, eventually

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
BIG_SEED = 2**63 - 2
PIXELS = """async (number) => {
    const img = document.querySelectorAll("#gallery img")[number];
    await img.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
    canvas.getContext("2d").drawImage(img, 0, 0);
    return canvas.toDataURL();
}"""


@pytest.fixture(scope="module")
def drawing(quick_disk: Path) -> Iterator[Endpoint]:
    folder = quick_disk / "playground" / "data"
    schema = quick_disk / "input_schema.json"
    schema.write_text(json.dumps(Contract(Settings(), (512, 512)).schema()))
    endpoint = Endpoint(folder, "--input-schema", str(schema), "--no-rate-limits").start()
    endpoint.sdk_worker()
    endpoint.wait_ready()
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options + quiet)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, drawing: Endpoint) -> Iterator[Any]:
    """The page, key typed in; nothing may go wrong unseen in its console."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(drawing.base)
    page.get_by_label("API key").fill(KEY)
    yield page
    assert [said for said in wrong if "401" not in said] == []
    context.close()


def picture_of(page: Any, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def generate(page: Any, prompt: str, **fields: str) -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    if fields:
        page.get_by_text("More settings").click()
    for label, value in fields.items():
        page.get_by_label(label.replace("_", " ").capitalize(), exact=True).fill(value)
    page.get_by_role("button", name="Generate").click()


def seeds(page: Any) -> list[str]:
    return list(page.locator("#gallery p").all_inner_texts())


class TestDrawing:
    def test_the_bar_moves_with_the_steps_and_the_images_come_with_their_seeds(self, page: Any) -> None:
        generate(page, "draw a dog", num_inference_steps="12", num_outputs="2", seed="7")
        values = set()

        def done() -> bool:
            value = page.evaluate("document.getElementById('progress').getAttribute('value')")
            values.add(float(value or 0))
            return page.locator("#gallery li").count() == 2

        eventually(done, pause_s=0.05)
        assert len(values) >= 3
        assert max(values) > 3
        assert seeds(page) == ["Seed 7", "Seed 8"]
        assert page.get_by_role("status").inner_text().startswith("Done: 2 images in ")
        loaded = (
            "[...document.querySelectorAll('#gallery img')].every((img) => img.complete && img.naturalWidth)"
        )
        assert page.evaluate(loaded)
        assert page.locator("#gallery img").first.get_attribute("alt") == "draw a dog, seed 7"
        picture_of(page, "done")

    def test_the_same_seed_again_draws_that_image_alone(self, page: Any, drawing: Endpoint) -> None:
        generate(page, "draw a cat", num_outputs="2", seed=str(BIG_SEED - 1))
        page.locator("#gallery li").nth(1).wait_for()
        assert seeds(page) == [f"Seed {BIG_SEED - 1}", f"Seed {BIG_SEED}"], "no digit is lost"
        page.get_by_role("button", name="Same seed again").nth(1).click()
        page.locator("#gallery li").nth(2).wait_for()
        assert seeds(page)[0] == f"Seed {BIG_SEED}"
        assert page.get_by_label("Seed", exact=True).input_value() == str(BIG_SEED)
        again, other, first = (page.evaluate(PIXELS, number) for number in range(3))
        assert again == first != other
        newest = drawing.http.get(f"{drawing.url}/requests").json()["requests"][0]["id"]
        assert drawing.status(newest)["input"] == {"prompt": "draw a cat", "num_outputs": 1, "seed": BIG_SEED}

    def test_an_image_can_be_downloaded(self, page: Any, tmp_path: Path) -> None:
        generate(page, "draw")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        assert re.fullmatch(r"[0-9a-f-]{36}_0\.png", download.value.suggested_filename)
        download.value.save_as(tmp_path / "image.png")
        assert (tmp_path / "image.png").read_bytes().startswith(b"\x89PNG")

    def test_cancel_cancels_the_job(self, page: Any, drawing: Endpoint) -> None:
        generate(page, "draw slowly", num_inference_steps="400")
        page.get_by_text(re.compile(r"Step \d+ of 400")).wait_for()
        picture_of(page, "running")
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled.").wait_for()
        newest = drawing.http.get(f"{drawing.url}/requests").json()["requests"][0]
        assert newest["status"] == "CANCELLED"
        assert page.get_by_role("button", name="Generate").is_enabled()

    def test_errors_are_shown_as_the_endpoint_says_them(self, page: Any) -> None:
        page.get_by_label("API key").fill("wrong")
        generate(page, "draw")
        alert = page.get_by_role("alert")
        eventually(lambda: "unknown API key" in alert.inner_text())
        assert page.evaluate("document.activeElement.id") == "key"
        picture_of(page, "error")


class TestForm:
    def test_every_field_of_the_workers_schema_is_there_once_and_none_that_is_not_served(
        self, page: Any
    ) -> None:
        names = page.eval_on_selector_all("form [name]", "all => all.map((one) => one.name)")
        assert sorted(names) == sorted(
            [
                "prompt",
                "negative_prompt",
                "width",
                "height",
                "init_image",
                "mask",
                "resize",
                "prompt_strength",
                "num_outputs",
                "num_inference_steps",
                "prompt_syntax",
                "emphasis",
                "clip_skip",
                "guidance_scale",
                "scheduler",
                "schedule",
                "seed",
                "output_format",
                "output_quality",
            ]
        )

    def test_is_built_from_the_schema(self, page: Any) -> None:
        page.get_by_text("More settings").click()
        width = page.get_by_label("Width")
        assert (width.get_attribute("min"), width.get_attribute("max")) == ("64", "2048")
        assert width.get_attribute("placeholder") == "512"
        assert page.get_by_label("Output format").locator("option").all_inner_texts() == [
            "default (png)",
            "png",
            "jpeg",
            "webp",
        ]
        picture_of(page, "form")

    def test_what_is_out_of_bounds_is_not_sent(self, page: Any, drawing: Endpoint) -> None:
        before = drawing.health()["jobs"]["completed"]
        generate(page, "draw", num_inference_steps="900")
        assert page.evaluate("document.activeElement.id") == "field-num_inference_steps"
        assert drawing.health()["jobs"]["completed"] == before

    def test_works_by_keyboard_alone(self, page: Any) -> None:
        page.get_by_label("Prompt", exact=True).focus()
        page.keyboard.type("draw by keyboard")
        page.keyboard.press("Control+Enter")
        page.locator("#gallery li").wait_for()
        page.get_by_label("Prompt", exact=True).focus()
        reached = []
        for _ in range(5):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert reached[:3] == ["field-negative_prompt", "SUMMARY", "generate"]

    def test_every_control_has_a_name(self, page: Any) -> None:
        page.get_by_text("More settings").click()
        nameless = page.evaluate(
            """[...document.querySelectorAll("input, select, textarea, button, progress")]
               .filter((node) => !node.labels?.length && !node.ariaLabel && !node.textContent.trim()
                 && !node.getAttribute("aria-labelledby"))
               .map((node) => node.outerHTML)"""
        )
        assert nameless == []

    def test_nothing_is_kept_of_the_key(self, page: Any) -> None:
        generate(page, "draw")
        page.locator("#gallery li").wait_for()
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
        assert KEY not in kept
        page.reload()
        assert page.get_by_label("API key").input_value() == ""


class TestSnippets:
    PROMPT = 'draw it\'s a "dog" $HOME `x` \\ ü'

    def copied(self, page: Any, language: str) -> str:
        page.get_by_label("Prompt", exact=True).fill(self.PROMPT)
        page.get_by_role("button", name=language).click()
        page.get_by_text(f"Copied as {language}").wait_for()
        code = str(page.evaluate("navigator.clipboard.readText()"))
        assert KEY not in code
        return code

    def ran(self, *command: str) -> str:
        env = {**os.environ, "RUNPOD_API_KEY": KEY}
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def test_curl_runs_as_copied(self, page: Any, drawing: Endpoint) -> None:
        answer = json.loads(self.ran("bash", "-c", self.copied(page, "curl")))
        assert drawing.status(answer["id"])["input"] == {"prompt": self.PROMPT}

    def test_python_runs_as_copied(self, page: Any) -> None:
        assert "'seed': 40264" in self.ran(sys.executable, "-c", self.copied(page, "Python"))

    def test_javascript_is_that_of_the_official_client(self, page: Any) -> None:
        code = self.copied(page, "JavaScript")
        assert 'import runpodSdk from "runpod-sdk";' in code
        assert json.dumps(self.PROMPT, ensure_ascii=False) in code


class TestLooks:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize(("device", "width"), [("phone", 360), ("desktop", 1280)])
    def test_fits_its_window_and_can_be_read(
        self, browser: Any, drawing: Endpoint, scheme: str, device: str, width: int
    ) -> None:
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
        page = context.new_page()
        page.goto(drawing.base)
        page.get_by_label("API key").fill(KEY)
        generate(page, "draw a dog that flies", num_outputs="3")
        page.locator("#gallery li").nth(2).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert contrast(page, "body") >= 7
        assert contrast(page, "#generate") >= 4.5
        picture_of(page, f"{device}-{scheme}")
        context.close()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("path", ["/", "/docs"])
    def test_axe_finds_nothing(
        self, browser: Any, drawing: Endpoint, npm_folder: Path, path: str, scheme: str
    ) -> None:
        context = browser.new_context(color_scheme=scheme, bypass_csp=True)
        page = context.new_page()
        page.goto(drawing.base + path)
        if path == "/":
            page.get_by_label("API key").fill(KEY)
            generate(page, "draw a dog", num_outputs="2")
            page.locator("#gallery li").nth(1).wait_for()
        else:
            page.locator("article").nth(9).wait_for()
        page.evaluate((npm_folder / "node_modules/axe-core/axe.min.js").read_text())
        found = page.evaluate("axe.run()")["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        context.close()

    def test_the_api_document_is_a_page_of_its_own(self, browser: Any, drawing: Endpoint) -> None:
        page = browser.new_page()
        page.goto(f"{drawing.base}/docs")
        page.get_by_text("POST /v2/stable-diffusion-v1/runsync").wait_for()
        assert page.locator("article").count() == 10
        picture_of(page, "docs")
        page.close()


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


NESTED = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string"},
        "addons": {"type": ["array", "null"], "items": {"$ref": "#/$defs/AddOn"}, "default": []},
        "hires": {"anyOf": [{"$ref": "#/$defs/AddOn"}, {"type": "null"}], "default": None},
        "loras": {"$ref": "#/properties/addons"},
        "gone": {"deprecated": True, "enum": [{}, None]},
    },
    "$defs": {"AddOn": {"type": "object", "properties": {"name": {"type": "string"}}}},
}
FILL = """async ([schema, written]) => {
    const { buildForm } = await import("/playground/form.js");
    const place = document.createElement("div");
    const form = buildForm(schema, place, place);
    for (const [name, text] of Object.entries(written)) place.querySelector(`[name="${name}"]`).value = text;
    const read = form.read();
    form.write(read);
    return [read, form.read(), [...place.querySelectorAll("[name]")].map((field) => field.name)];
}"""


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({}, {}),
        (
            {"addons": '[{"name": "a"}, {"name": "b"}]', "hires": ' {"name": "c"} '},
            {"addons": [{"name": "a"}, {"name": "b"}], "hires": {"name": "c"}},
        ),
        ({"addons": "[{"}, {"addons": "[{"}),
    ],
    ids=["empty", "objects", "no JSON"],
)
def test_objects_and_lists_are_written_as_json(
    page: Any, written: dict[str, str], read: dict[str, Any]
) -> None:
    sent, again, names = page.evaluate(FILL, [NESTED, written])
    assert sent == read
    assert again == read or written == {"addons": "[{"}
    assert names == ["prompt", "addons", "hires"]
