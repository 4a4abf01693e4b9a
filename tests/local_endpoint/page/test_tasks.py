"""Ten tasks as people do them, with the project's own worker and its embedded model: how many clicks they take."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdworker.cli.serve import print_input_schema
from tests.local_endpoint.harness import KEY, ROOT, Endpoint, eventually
from tests.local_endpoint.page.driving import field, picture_of, seeds, wait_for_pictures
from tests.local_endpoint.page.test_pictures import give, slot

MODEL = ROOT / "models" / "emoji"
DEPLOYED = {"MODELS": f"emoji={MODEL},twin={MODEL}", "DEFAULT_STEPS": "6", "DEVICE": "cpu"}
YESTERDAY = """async (id) => {
    const { get, put } = await import("/playground/store.js");
    const picture = await get("pictures", id);
    await put("pictures", { ...picture, createdAt: Date.now() - 24 * 3600 * 1000 });
}"""


class Hands:
    """A user's, which count: clicks, strokes, drops and choices are one each; what is typed is free."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.clicks = 0

    def click(self, name: str | re.Pattern[str], role: str = "button", within: Any = None) -> None:
        self.clicks += 1
        (within or self.page).get_by_role(role, name=name, exact=isinstance(name, str)).first.click()

    def open_group(self, name: str) -> None:
        self.clicks += 1
        self.page.locator("details.group > summary", has_text=name).click()

    def open_newest(self) -> Any:
        self.clicks += 1
        self.page.locator("#gallery .open").first.click()
        return self.page.get_by_role("dialog").last

    def write(self, name: str, text: str) -> None:
        """Into a field, which takes a click unless one is in it."""
        self.clicks += self.page.evaluate("document.activeElement.id") != f"field-{name}"
        field(self.page, name).fill(text)

    def slide(self, label: str, to: str) -> None:
        self.clicks += 1
        self.page.get_by_role("slider", name=label).first.fill(to)

    def stroke(self, canvas: Any) -> None:
        self.clicks += 1
        box = canvas.bounding_box()
        self.page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.5)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.5, steps=4)
        self.page.mouse.up()

    def drop(self, file: bytes) -> Any:
        self.clicks += 1
        give(self.page, "drop", "body", file)
        return self.page.get_by_role("dialog")

    def choose(self, select: Any, value: str) -> None:
        self.clicks += 1
        select.select_option(value)


@pytest.fixture(scope="module")
def endpoint(quick_disk: Path) -> Iterator[Endpoint]:
    schema = quick_disk / "tasks_schema.json"
    with schema.open("w") as file, pytest.MonkeyPatch.context() as patch:
        for name, value in DEPLOYED.items():
            patch.setenv(name, value)
        patch.setattr("sys.stdout", file)
        print_input_schema()
    options = ["--input-schema", str(schema), "--no-rate-limits"]
    options += ["--explain-command", f"{sys.executable} -m sdworker.cli.explainer"]
    endpoint = Endpoint(quick_disk / "tasks" / "data", *options).start()
    endpoint.sdk_worker(script=ROOT / "handler.py", **DEPLOYED, PROGRESS_INTERVAL_MS="50")
    endpoint.wait_ready()
    yield endpoint
    endpoint.close()


@pytest.fixture
def page(browser: Any, endpoint: Endpoint) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{endpoint.base}/#key={KEY}")
    page.wait_for_selector("html[data-ready]")
    yield page
    context.close()


def drawn(page: Any) -> Callable[[int], None]:
    """Tells when so many more pictures are there."""
    before = page.locator("#gallery > li").count()
    return lambda more: wait_for_pictures(page, before + more)


def cleared(page: Any) -> None:
    """Not a part of any task."""
    page.get_by_role("button", name="Clear", exact=True).click()
    page.evaluate("document.querySelectorAll('details.group').forEach((one) => (one.open = false))")


def draw_a_picture(hands: Hands) -> None:
    wait = drawn(hands.page)
    hands.write("prompt", "a red apple")
    hands.click("Draw")
    wait(1)


def rerun_it_with_another_seed(hands: Hands) -> None:
    wait = drawn(hands.page)
    hands.click(re.compile("^Vary "))
    wait(1)
    assert len(set(seeds(hands.page)[:2])) == 2


def inpaint_with_a_painted_mask(hands: Hands) -> None:
    page, wait = hands.page, drawn(hands.page)
    hands.click(re.compile("^Start from "))
    eventually(lambda: slot(page, "init_image").locator("img").is_visible())
    hands.click("Paint", within=slot(page, "mask"))
    hands.stroke(page.get_by_role("dialog").locator("canvas"))
    picture_of(page, "task-mask")
    hands.click("Use this mask")
    eventually(lambda: slot(page, "mask").locator("img").is_visible())
    hands.write("prompt", "a yellow flower")
    hands.click("Draw")
    wait(1)


def compare_two_samplers(hands: Hands) -> None:
    page, wait = hands.page, drawn(hands.page)
    hands.write("prompt", "a red apple")
    hands.click("X/Y grid …")
    hands.click("Add Euler a")
    hands.click("Add DDIM")
    picture_of(page, "task-grid")
    hands.click("Draw the grid")
    wait(2)
    assert len(set(seeds(page)[:2])) == 1
    dialog = hands.open_newest()
    hands.click(re.compile("^Compare "), within=dialog)
    sides = page.locator(".sides").inner_text()
    assert "Euler a" in sides
    assert "DDIM" in sides
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")


def find_yesterdays_picture(hands: Hands) -> None:
    page = hands.page
    hands.clicks += 1
    page.get_by_label("Search pictures").fill("yesterday apple")
    eventually(lambda: page.locator("#gallery > li").count() == 1)
    dialog = hands.open_newest()
    assert "a red apple" in dialog.inner_text()
    page.keyboard.press("Escape")
    page.get_by_label("Search pictures").fill("")


def come_back_when_the_endpoint_was_killed(hands: Hands, endpoint: Endpoint) -> None:
    page, wait = hands.page, drawn(hands.page)
    hands.write("prompt", "a blue car")
    hands.open_group("Sampling")
    hands.write("num_inference_steps", "60")
    hands.click("Draw")
    page.get_by_text(re.compile("about .* left")).wait_for()
    hands.clicks = 0
    endpoint.kill()
    page.get_by_text("The endpoint is away").wait_for()
    endpoint.start()
    wait(1)
    assert "a blue car" in page.locator("#gallery .prompt").first.inner_text()


def draw_with_a_lora(hands: Hands) -> None:
    page, wait = hands.page, drawn(hands.page)
    hands.write("prompt", "a red apple")
    hands.open_group("Add-ons")
    hands.click("Add LoRA")
    hands.click("pencil", role="option")
    hands.slide("Scale, slider", "0.7")
    hands.click("Draw")
    wait(1)
    dialog = hands.open_newest()
    assert "<lora:pencil:0.7>" in dialog.inner_text() or "pencil" in dialog.inner_text()
    hands.clicks -= 1
    page.keyboard.press("Escape")


def be_led_by_a_pictures_edges(hands: Hands, file: bytes) -> None:
    page, wait = hands.page, drawn(hands.page)
    dialog = hands.drop(file)
    hands.click("Use as: ControlNet hint", within=dialog)
    hands.choose(page.locator("select[name=preprocessor]"), '"canny"')
    page.locator(".shown img").wait_for()
    picture_of(page, "task-hint")
    hands.write("prompt", "a green pear")
    hands.click("Draw")
    wait(1)


def draw_a_saved_picture_again(hands: Hands, file: bytes) -> None:
    page, wait = hands.page, drawn(hands.page)
    dialog = hands.drop(file)
    hands.click(re.compile("^Fill the form"), within=dialog)
    hands.click("Draw")
    wait(1)
    assert seeds(page)[0] == seeds(page)[-1]


def enlarge_a_picture(hands: Hands) -> None:
    page, wait = hands.page, drawn(hands.page)
    dialog = hands.open_newest()
    hands.click("Enlarge", within=dialog)
    wait(1)
    page.locator("#gallery .open").first.click()
    page.get_by_text("256 × 256").wait_for()
    page.keyboard.press("Escape")


FEW = {
    "draw": 1,
    "another seed": 1,
    "inpaint": 6,
    "two samplers": 7,
    "yesterday": 2,
    "killed": 0,
    "lora": 6,
    "edges": 5,
    "again": 3,
    "enlarge": 2,
}


@pytest.mark.slow
def test_ten_tasks_take_few_clicks(page: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    taken = {}

    def do(name: str, task: Callable[..., None], *given: Any) -> None:
        hands = Hands(page)
        task(hands, *given)
        taken[name] = hands.clicks
        assert page.locator("#error").inner_text() == ""
        picture_of(page, f"task-{name.replace(' ', '-')}")
        cleared(page)

    do("draw", draw_a_picture)
    with page.expect_download() as download:
        page.get_by_role("link", name="Save").click()
    download.value.save_as(tmp_path / "apple.png")
    apple = (tmp_path / "apple.png").read_bytes()
    do("another seed", rerun_it_with_another_seed)
    do("inpaint", inpaint_with_a_painted_mask)
    do("two samplers", compare_two_samplers)
    page.evaluate(YESTERDAY, page.locator("#gallery > li").last.get_attribute("id").removeprefix("picture-"))
    page.reload()
    page.wait_for_selector("html[data-ready]")
    do("yesterday", find_yesterdays_picture)
    do("killed", come_back_when_the_endpoint_was_killed, endpoint)
    do("lora", draw_with_a_lora)
    do("edges", be_led_by_a_pictures_edges, apple)
    do("again", draw_a_saved_picture_again, apple)
    do("enlarge", enlarge_a_picture)
    assert taken == FEW
