"""The console shows what the endpoint does, live; the API document can be tried."""

import json
import re
import subprocess
from typing import Any

import pytest

from local_endpoint.overview import busy_share, percentiles
from tests.local_endpoint.conftest import MakeEndpoint
from tests.local_endpoint.harness import KEY, Endpoint, eventually
from tests.local_endpoint.page.driving import picture_of


def opened(browser: Any, endpoint: Endpoint, path: str) -> Any:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(f"{endpoint.base}{path}#key={KEY}")
    page.wait_for_selector("html[data-ready]")
    return page


def row(page: Any, job_id: str) -> Any:
    return page.locator(f'#jobs tr[data-key="{job_id}"]')


class TestConsole:
    def test_jobs_come_change_are_cancelled_and_retried_before_ones_eyes(
        self, browser: Any, make_endpoint: MakeEndpoint
    ) -> None:
        endpoint = make_endpoint()
        page = opened(browser, endpoint, "/console")
        page.get_by_text("No worker is here").wait_for()
        waiting = endpoint.run({"prompt": "a <b>dog</b>"})
        row(page, waiting).get_by_text("IN_QUEUE").wait_for()
        assert row(page, waiting).locator(".prompt").inner_text() == "a <b>dog</b>"
        endpoint.take("worker-7")
        endpoint.done(waiting, "worker-7", status="IN_PROGRESS", output={"step": 3, "steps": 9})
        row(page, waiting).get_by_text("IN_PROGRESS 3/9").wait_for()
        page.locator("#workers").get_by_text("worker-7").wait_for()
        endpoint.done(waiting, "worker-7", error="out of paint")
        row(page, waiting).get_by_text("out of paint").wait_for()
        row(page, waiting).get_by_role("button", name="Retry").click()
        row(page, waiting).get_by_text("IN_QUEUE").wait_for()
        row(page, waiting).get_by_role("button", name="Cancel").click()
        row(page, waiting).get_by_text("CANCELLED").wait_for()
        assert endpoint.status(waiting)["status"] == "CANCELLED"
        for _ in range(3):
            endpoint.run()
        eventually(lambda: page.locator("#figures li").first.inner_text().split() == ["3", "waiting"])
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Cancel all that wait").click()
        eventually(lambda: page.locator("#figures li").first.inner_text().split() == ["0", "waiting"])
        page.get_by_label("State").select_option("IN_QUEUE")
        page.get_by_text("No job has come").wait_for()
        page.close()

    def test_a_job_is_opened_with_its_pictures(self, browser: Any, drawing: Endpoint) -> None:
        job_id = drawing.run({"prompt": "draw me", "num_outputs": 2})
        drawing.final(job_id)
        page = opened(browser, drawing, "/console")
        row(page, job_id).get_by_role("button", name="Open").click()
        dialog = page.get_by_role("dialog")
        eventually(lambda: dialog.locator("img").count() == 2)
        assert '"draw me"' in dialog.inner_text()
        picture_of(page, "console")
        page.close()

    def test_webhooks_are_listed_without_what_may_be_a_secret(self, browser: Any, shared: Endpoint) -> None:
        job_id = shared.run(webhook="http://127.0.0.1:9/done?token=hush")
        shared.http.post(f"{shared.url}/cancel/{job_id}")
        page = opened(browser, shared, "/console")
        listed = page.locator("#webhooks tr", has_text=job_id)
        listed.get_by_text("http://127.0.0.1:9/done", exact=True).wait_for()
        assert "hush" not in page.content()
        page.close()

    def test_without_a_key_it_shows_nothing_and_asks(self, browser: Any, shared: Endpoint) -> None:
        assert (
            shared.http.get(
                f"{shared.base}/playground/console.json", headers={"Authorization": "x"}
            ).status_code
            == 401
        )
        page = browser.new_page()
        page.goto(f"{shared.base}/console")
        page.get_by_text("missing or unknown API key").wait_for()
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        page.get_by_text("workers ready").wait_for()
        page.close()


class TestOverview:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([], [None] * 4),
            ([7], [7] * 4),
            (list(range(1, 101)), [50, 90, 99, 100]),
            ([3, 1, 2], [2, 3, 3, 3]),
        ],
    )
    def test_percentiles_are_values_that_came(self, values: list[int], expected: list[int | None]) -> None:
        found = percentiles(values)
        assert [found["p50"], found["p90"], found["p99"], found["most"]] == expected
        assert found["count"] == len(values)

    @pytest.mark.parametrize(
        ("spans", "share"),
        [
            ([], 0),
            ([(0, 200)], 1),
            ([(110, 120), (115, 130)], 0.2),
            ([(190, 300), (100, 110)], 0.2),
            ([(0, 99)], 0),
        ],
    )
    def test_time_in_which_several_jobs_ran_counts_once(
        self, spans: list[tuple[int, int]], share: float
    ) -> None:
        assert busy_share(spans, 100, 200) == share


class TestApiDocument:
    def test_has_every_operation_and_a_curl_line_that_runs(self, browser: Any, drawing: Endpoint) -> None:
        page = opened(browser, drawing, "/docs")
        assert page.locator("article").count() == 10
        page.get_by_label("Write my key into the curl lines").check()
        line = page.locator("#post-runsync .try > pre").inner_text()
        ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=180, check=True)
        assert json.loads(ran.stdout)["status"] == "COMPLETED"
        picture_of(page, "docs")
        page.close()

    def test_an_operation_is_tried(self, browser: Any, drawing: Endpoint) -> None:
        page = opened(browser, drawing, "/docs")
        page.locator("#post-run").get_by_role("button", name="Send").click()
        page.locator("#post-run").get_by_text(re.compile(r"200 after \d+ ms")).wait_for()
        job_id = json.loads(page.locator("#post-run [role=status] pre").inner_text())["id"]
        status = page.locator("#get-status")
        status.get_by_role("button", name="Send").click()
        status.get_by_text("Give job_id.").wait_for()
        status.get_by_label("job_id", exact=True).fill(job_id)
        assert f"/status/{job_id}'" in status.locator(".try > pre").inner_text()
        status.get_by_role("button", name="Send").click()
        status.get_by_text(re.compile("200 after")).wait_for()
        page.close()
