"""What a user does with the page."""

import os
from typing import Any

PIXELS = """async (number) => {
    const img = document.querySelectorAll("#gallery img")[number];
    img.loading = "eager";
    await img.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
    canvas.getContext("2d").drawImage(img, 0, 0);
    return canvas.toDataURL();
}"""


def picture_of(page: Any, name: str) -> None:
    """Keep a screenshot, where SCREENSHOTS says so."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def field(page: Any, name: str) -> Any:
    return page.locator(f"#field-{name}")


def fill(page: Any, **fields: str) -> None:
    """Fill fields in, by their names, wherever they are folded away."""
    page.evaluate("document.querySelectorAll('details.group').forEach((one) => (one.open = true))")
    for name, value in fields.items():
        field(page, name).fill(value)


def draw(page: Any, prompt: str, **fields: str) -> None:
    fill(page, prompt=prompt, **fields)
    page.get_by_role("button", name="Draw", exact=True).click()


def wait_for_pictures(page: Any, count: int) -> None:
    page.locator("#gallery > li").nth(count - 1).wait_for()


def seeds(page: Any) -> list[str]:
    """Of the pictures, newest first."""
    facts = page.locator("#gallery .facts").all_inner_texts()
    return [str(fact).split(" · ")[0].removeprefix("Seed ") for fact in facts]


def newest_input(endpoint: Any) -> dict[str, Any]:
    """What the newest job asks for, but for the previews that the page asks for itself."""
    newest = endpoint.http.get(f"{endpoint.url}/requests").json()["requests"][0]["id"]
    return {name: value for name, value in endpoint.status(newest)["input"].items() if name != "previews"}
