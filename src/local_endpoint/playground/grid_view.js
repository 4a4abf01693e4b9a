// A grid's pictures as a table with the values at its edges; it fills as they come, and can be saved as one picture.

import { button, dialog, h } from "./dom.js";
import { save } from "./export.js";
import { openLightbox } from "./lightbox.js";
import { loaded } from "./pictures.js";

const EDGE_PX = 28;

/** Show the grid that a picture belongs to. */
export function openGrid(history, grid, actions) {
  const rows = grid.y?.values ?? [undefined];
  const mine = () => history.all.filter((picture) => picture.grid?.id === grid.id);
  const pictureAt = (across, down) => mine().find(({ grid: { at } }) => at[0] === across && at[1] === down);
  const body = h("tbody", {});
  const head = h("tr", {}, grid.y ? h("td", {}) : null, ...grid.x.values.map((value) => h("th", { scope: "col" }, `${grid.x.label} ${value}`)));
  const table = h("table", { class: "xy" }, h("thead", {}, head), body);
  const made = dialog(
    `${grid.x.label}${grid.y ? ` × ${grid.y.label}` : ""}`,
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Grid" }, table),
    h("div", { class: "actions" }, button("Save as one picture", saveWhole, { class: "quiet" })),
  );
  made.classList.add("wide");

  function render() {
    body.replaceChildren(
      ...rows.map((down) =>
        h(
          "tr",
          {},
          grid.y ? h("th", { scope: "row" }, `${grid.y.label} ${down}`) : null,
          ...grid.x.values.map((across) => h("td", {}, cell(pictureAt(across, down)))),
        ),
      ),
    );
  }

  function cell(picture) {
    if (!picture) return h("span", { class: "hint" }, "…");
    const img = h("img", { src: history.href(picture), alt: `Seed ${picture.seed}` });
    return h("button", { type: "button", class: "open", onclick: () => openLightbox(history, mine, picture, actions) }, img);
  }

  async function saveWhole() {
    const images = await Promise.all(mine().map(async (picture) => [picture, await loaded(history.href(picture))]));
    const [width, height] = [Math.max(...images.map(([, img]) => img.naturalWidth)), Math.max(...images.map(([, img]) => img.naturalHeight))];
    const left = grid.y ? 120 : 0;
    const canvas = h("canvas", { width: left + width * grid.x.values.length, height: EDGE_PX + height * rows.length });
    const pen = canvas.getContext("2d");
    pen.fillStyle = "white";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = "black";
    pen.font = "14px sans-serif";
    grid.x.values.forEach((value, i) => pen.fillText(`${grid.x.label} ${value}`, left + i * width + 4, 19, width - 8));
    rows.forEach((value, i) => grid.y && pen.fillText(`${grid.y.label} ${value}`, 4, EDGE_PX + i * height + 19, left - 8));
    for (const [{ grid: one }, img] of images) {
      pen.drawImage(img, left + grid.x.values.indexOf(one.at[0]) * width, EDGE_PX + rows.indexOf(one.at[1]) * height);
    }
    canvas.toBlob((blob) => save(blob, `grid-${grid.id}.png`));
  }

  history.addEventListener("changed", render);
  made.addEventListener("close", () => history.removeEventListener("changed", render));
  render();
}
