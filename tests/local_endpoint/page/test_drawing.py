"""From the form to pictures: a queue of one's own that outlives a reload and an endpoint that was away."""

import re
from pathlib import Path
from typing import Any

from tests.local_endpoint.conftest import MakeEndpoint
from tests.local_endpoint.harness import KEY, Endpoint, eventually
from tests.local_endpoint.page.driving import (
    PIXELS,
    draw,
    field,
    newest_input,
    picture_of,
    seeds,
    wait_for_pictures,
)

BIG_SEED = 2**63 - 2
BESIDE = """() => {
    const box = document.querySelector("#queue > li").getBoundingClientRect();
    const bar = document.querySelector(".bar").getBoundingClientRect();
    const covered = bar.position === "fixed" ? bar.top : innerHeight;
    return box.top >= 0 && box.top + 80 < covered;
}"""


def jobs(page: Any) -> Any:
    return page.locator("#queue > li")


class TestPictures:
    def test_the_bar_moves_with_the_steps_and_the_pictures_come_with_their_seeds(self, page: Any) -> None:
        draw(page, "draw a dog", num_inference_steps="12", num_outputs="2", seed="7")
        values = set()

        def done() -> bool:
            values.update(page.eval_on_selector_all("#queue progress", "all => all.map((one) => one.value)"))
            return page.locator("#gallery > li").count() == 2

        eventually(done, pause_s=0.05)
        assert len(values) >= 3
        assert max(values) > 3
        assert seeds(page) == ["7", "8"]
        assert page.locator("#status").inner_text().startswith("Done: 2 pictures in ")
        assert page.evaluate(
            "[...document.querySelectorAll('#gallery img')].every((img) => img.complete && img.naturalWidth)"
        )
        assert page.locator("#gallery img").first.get_attribute("alt") == "draw a dog, seed 7"
        assert jobs(page).count() == 0

    def test_a_picture_is_drawn_again_and_varied(self, page: Any, drawing: Endpoint) -> None:
        draw(page, "draw a cat", num_outputs="2", seed=str(BIG_SEED - 1))
        wait_for_pictures(page, 2)
        assert seeds(page) == [str(BIG_SEED - 1), str(BIG_SEED)], "no digit is lost"
        page.get_by_role("button", name=f"Reuse draw a cat, seed {BIG_SEED}", exact=True).click()
        assert field(page, "seed").input_value() == str(BIG_SEED)
        page.get_by_role("button", name="Draw", exact=True).click()
        wait_for_pictures(page, 3)
        again, other, first = (page.evaluate(PIXELS, number) for number in range(3))
        assert again == first != other
        assert newest_input(drawing) == {"prompt": "draw a cat", "seed": BIG_SEED}
        page.get_by_role("button", name=re.compile("^Vary")).first.click()
        wait_for_pictures(page, 4)
        varied = newest_input(drawing)
        assert varied["prompt"] == "draw a cat"
        assert varied["seed"] != BIG_SEED

    def test_a_picture_can_be_saved(self, page: Any, tmp_path: Path) -> None:
        draw(page, "draw")
        with page.expect_download() as download:
            page.get_by_role("link", name="Save draw").click()
        assert re.fullmatch(r"[0-9a-f-]{36}_0\.png", download.value.suggested_filename)
        download.value.save_as(tmp_path / "image.png")
        assert (tmp_path / "image.png").read_bytes().startswith(b"\x89PNG")


class TestQueue:
    def test_several_jobs_are_under_way_each_with_its_own_cancel(self, page: Any, drawing: Endpoint) -> None:
        for name in ("one", "two", "three"):
            draw(page, f"draw {name}", num_inference_steps="400")
        page.get_by_text(re.compile(r"Step \d+ of 400, about .* left")).nth(2).wait_for()
        picture_of(page, "queue")
        jobs(page).filter(has_text="draw two").get_by_role("button", name="Cancel").click()
        eventually(lambda: jobs(page).locator(".prompt").all_inner_texts() == ["draw three", "draw one"])
        states = {one["status"] for one in drawing.http.get(f"{drawing.url}/requests").json()["requests"][:3]}
        assert states == {"CANCELLED", "IN_PROGRESS"}
        for _ in range(2):
            jobs(page).first.get_by_role("button", name="Cancel").click()
            page.wait_for_timeout(50)
        eventually(lambda: jobs(page).count() == 0)

    def test_previews_are_shown_while_it_is_drawn(self, page: Any) -> None:
        # The worker of these tests sends them to whoever asks; its schema does not tell.
        page.evaluate(
            """async () => {
                const { ask } = await import("/playground/api.js");
                const { put } = await import("/playground/store.js");
                const input = { prompt: "draw", num_inference_steps: 40, previews: true };
                const { id } = await ask("POST", "run", { input });
                await put("jobs", { id, input, createdAt: 1, extras: {} });
            }"""
        )
        page.reload()
        preview = jobs(page).first.locator("img")
        preview.wait_for()
        assert preview.evaluate("async (img) => { await img.decode(); return img.naturalWidth; }") == 128
        assert preview.get_attribute("src").startswith("data:image/jpeg;base64,")
        jobs(page).first.get_by_role("button", name="Cancel").click()

    def test_a_failed_job_says_why_beside_the_button_and_can_be_edited_or_dismissed(
        self, page: Any, drawing: Endpoint
    ) -> None:
        failing = drawing.run({"fail": "prompt: too sad"})
        drawing.final(failing)
        # As if this page had sent it.
        page.evaluate(
            """async (id) => {
                const { put } = await import("/playground/store.js");
                await put("jobs", { id, input: { prompt: "sad", seed: 3 }, createdAt: 1, extras: {} });
            }""",
            failing,
        )
        page.reload()
        alert = page.locator("#error")
        eventually(lambda: "too sad" in alert.inner_text())
        assert alert.get_attribute("role") == "alert"
        picture_of(page, "failed")
        page.reload()
        page.wait_for_selector("html[data-ready]")
        card = jobs(page).filter(has_text="too sad")
        card.get_by_role("button", name="Edit").click()
        assert field(page, "prompt").input_value() == "sad"
        card.get_by_role("button", name="Dismiss").click()
        eventually(lambda: jobs(page).count() == 0)

    def test_a_reload_finds_the_draft_the_pictures_and_what_is_under_way(
        self, page: Any, tmp_path: Path
    ) -> None:
        draw(page, "draw first", seed="5")
        wait_for_pictures(page, 1)
        draw(page, "draw on", num_inference_steps="20")
        page.get_by_text(re.compile(r"Step \d+ of 20")).wait_for()
        page.wait_for_timeout(400)  # the draft is kept when nobody has typed for a moment
        page.reload()
        assert seeds(page) == [] or "5" in seeds(page)
        page.get_by_text(re.compile(r"Step \d+ of 20")).wait_for()
        assert field(page, "prompt").input_value() == "draw on"
        wait_for_pictures(page, 2)
        assert page.locator("#gallery .prompt").all_inner_texts() == ["draw on", "draw first"]

    def test_an_endpoint_that_was_away_is_asked_again(
        self, browser: Any, make_endpoint: MakeEndpoint
    ) -> None:
        endpoint = make_endpoint(process=True)
        endpoint.sdk_worker()
        endpoint.wait_ready()
        page = browser.new_page()
        page.goto(f"{endpoint.base}/#key={KEY}")
        page.wait_for_selector("html[data-ready]")
        draw(page, "draw on and on")
        wait_for_pictures(page, 1)
        endpoint.kill()
        page.get_by_role("button", name="Draw", exact=True).click()
        page.get_by_text("The endpoint cannot be reached").wait_for()
        endpoint.start()
        page.get_by_role("button", name="Draw", exact=True).click()
        wait_for_pictures(page, 2)
        page.close()

    def test_on_a_phone_the_job_is_in_sight_after_the_click(self, browser: Any, drawing: Endpoint) -> None:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(f"{drawing.base}/#key={KEY}")
        page.wait_for_selector("html[data-ready]")
        draw(page, "draw", num_inference_steps="400")
        jobs(page).first.wait_for()
        eventually(lambda: page.evaluate(BESIDE))
        jobs(page).first.get_by_role("button", name="Cancel").click()
        eventually(lambda: jobs(page).count() == 0)
        page.close()


class TestKey:
    def test_the_link_brings_the_key_which_is_kept_and_taken_out_of_the_address(
        self, page: Any, drawing: Endpoint
    ) -> None:
        assert KEY not in page.evaluate("location.href")
        assert page.locator("#key").is_hidden()
        page.goto(drawing.base)
        page.wait_for_selector("html[data-ready]")
        draw(page, "draw")
        wait_for_pictures(page, 1)
        assert KEY not in page.evaluate("JSON.stringify([document.cookie, location.href])")

    def test_a_wrong_key_is_asked_for_again_and_the_right_one_goes_on(self, page: Any) -> None:
        page.get_by_role("button", name="Change key").click()
        page.get_by_label("API key").fill("wrong")
        draw(page, "draw")
        eventually(lambda: "unknown API key" in page.locator("#error").inner_text())
        assert page.evaluate("document.activeElement.id") == "key"
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Draw", exact=True).click()
        wait_for_pictures(page, 1)
