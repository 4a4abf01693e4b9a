"""What the browser keeps: found, compared, taken out as a zip, deleted; grids of two fields."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.local_endpoint.harness import Endpoint, eventually
from tests.local_endpoint.page.driving import draw, field, fill, picture_of, seeds, wait_for_pictures


def prompts(page: Any) -> list[str]:
    return list(page.locator("#gallery .prompt").all_inner_texts())


def draw_some(page: Any, *names: str) -> None:
    for number, name in enumerate(names, start=1):
        draw(page, f"draw {name}", seed=str(number), num_inference_steps=str(number))
        wait_for_pictures(page, number)


class TestSearch:
    def test_finds_by_prompt_and_by_any_parameter(self, page: Any) -> None:
        draw_some(page, "a red cat", "a blue cat", "a dog")
        search = page.get_by_label("Search pictures")
        search.fill("cat blue")
        assert prompts(page) == ["draw a blue cat"]
        assert page.locator("#count").inner_text() == "1 of 3"
        search.fill('"num_inference_steps":3')
        assert prompts(page) == ["draw a dog"]
        search.fill("nothing like it")
        assert prompts(page) == []


class TestLightbox:
    def test_shows_all_parameters_and_goes_on_by_arrows(self, page: Any) -> None:
        draw_some(page, "one", "two")
        page.locator("#gallery .open").first.click()
        dialog = page.get_by_role("dialog")
        assert "draw two" in dialog.inner_text()
        said = dict(
            zip(dialog.locator("dt").all_inner_texts(), dialog.locator("dd").all_inner_texts(), strict=True)
        )
        assert (said["Seed"], said["Steps"]) == ("2", "2")
        page.keyboard.press("ArrowRight")
        assert "draw one" in dialog.inner_text()
        assert "2 of 2" in dialog.inner_text()
        picture_of(page, "lightbox")
        dialog.get_by_role("button", name="Reuse").click()
        assert field(page, "prompt").input_value() == "draw one"

    def test_two_are_compared_with_a_slider(self, page: Any) -> None:
        draw_some(page, "one", "two")
        for name in ("one", "two"):
            page.get_by_label(f"Select draw {name}").check()
        page.get_by_role("button", name="Compare").click()
        slider = page.get_by_label("How much of the left picture")
        slider.fill("20")
        assert (
            page.locator(".compare .over").evaluate("one => one.style.clipPath") == "inset(0px 80% 0px 0px)"
        )
        assert page.get_by_alt_text("Left: draw one, seed 1").count() == 1
        picture_of(page, "compare")


class TestOut:
    def test_a_zip_has_the_files_and_all_parameters(self, page: Any, tmp_path: Path) -> None:
        draw_some(page, "one", "two", "three")
        page.get_by_label("Select draw one").check()
        page.get_by_label("Select draw three").check()
        with page.expect_download() as download:
            page.get_by_role("button", name="Export these").click()
        download.value.save_as(tmp_path / "some.zip")
        with zipfile.ZipFile(tmp_path / "some.zip") as file:
            assert file.testzip() is None
            said = json.loads(file.read("pictures.json"))
            assert [one["input"]["prompt"] for one in said] == ["draw one", "draw three"]
            assert [one["seed"] for one in said] == [1, 3]
            assert all(file.read(one["file"]).startswith(b"\x89PNG") for one in said)

    def test_deleted_ones_are_gone_after_a_reload_with_the_pictures_they_came_from(
        self, page: Any, png: bytes
    ) -> None:
        fill(page)
        given = {"name": "a.png", "mimeType": "image/png", "buffer": png}
        page.locator("[data-picture=init_image] input[type=file]").set_input_files(given)
        eventually(lambda: page.locator("[data-picture=init_image] img").is_visible())
        draw_some(page, "one", "two")
        page.get_by_role("button", name="Clear", exact=True).click()
        page.wait_for_timeout(400)  # the draft is kept when nobody has typed for a moment
        count = "import('/playground/store.js').then(({ all }) => all('files')).then((files) => files.length)"
        assert page.evaluate(count) == 1
        for name in ("one", "two"):
            page.get_by_label(f"Select draw {name}").check()
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Delete").click()
        page.locator("#welcome").wait_for()
        eventually(lambda: page.evaluate(count) == 0)
        page.reload()
        page.locator("#welcome").wait_for()


class TestGrid:
    def test_draws_every_pair_with_one_seed_and_shows_them_in_a_table(
        self, page: Any, drawing: Endpoint
    ) -> None:
        fill(page, prompt="draw a grid")
        page.get_by_role("button", name="X/Y grid").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Field").first.select_option("num_inference_steps")
        dialog.get_by_label("Values").first.fill("1-3:1")
        dialog.get_by_label("Field").last.select_option("guidance_scale")
        dialog.get_by_label("Values").last.fill("2, 7.5")
        assert dialog.get_by_role("status").inner_text() == "6 pictures"
        dialog.get_by_role("button", name="Draw the grid").click()
        wait_for_pictures(page, 6)
        assert len(set(seeds(page))) == 1
        page.get_by_role("button", name="Grid of draw a grid").first.click()
        table = page.get_by_role("table")
        assert table.locator("thead th").all_inner_texts() == ["Steps 1", "Steps 2", "Steps 3"]
        assert table.locator("tbody th").all_inner_texts() == ["Guidance 2", "Guidance 7.5"]
        assert table.locator("img").count() == 6
        picture_of(page, "grid")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as one picture").click()
        assert download.value.suggested_filename.startswith("grid-")

    @pytest.mark.parametrize(
        ("x", "said"),
        [
            ("", "X needs values."),
            ("1, two", "two is no number."),
            ("1-500:1", "64 is the most"),
            ("1-9:0", "the step should be more than 0"),
        ],
    )
    def test_says_what_is_wrong_and_sends_nothing(self, page: Any, x: str, said: str) -> None:
        fill(page, prompt="draw")
        page.get_by_role("button", name="X/Y grid").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Field").first.select_option("num_inference_steps")
        dialog.get_by_label("Values").first.fill(x)
        dialog.get_by_role("button", name="Draw the grid").click()
        assert said in dialog.get_by_role("alert").inner_text()
        assert page.locator("#queue > li").count() == 0


@pytest.fixture
def png() -> bytes:

    file = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).save(file, "PNG")
    return file.getvalue()
