// The pictures as tiles: search, select, delete, export, and what can be made of each.

import { at, button, h } from "./dom.js";
import { openCompare } from "./compare.js";
import { shortFacts } from "./facts.js";
import { exportPictures, fileName } from "./export.js";
import { openGrid } from "./grid_view.js";
import { openLightbox } from "./lightbox.js";

const AT_FIRST = 24;

/** Show a history in the page; `actions` are those of a picture. */
export function showGallery(history, actions) {
  const [list, search, tools] = [at("gallery"), at("search"), at("selection")];
  const selected = new Set();
  const tiles = new Map();
  let most = AT_FIRST;

  function render() {
    const found = history.matching(search.value);
    for (const picture of [...selected]) if (!history.all.includes(picture)) selected.delete(picture);
    const shown = found.slice(0, most);
    for (const [picture, tile] of tiles) {
      if (shown.includes(picture)) continue;
      tile.remove();
      tiles.delete(picture);
    }
    shown.forEach((picture, place) => {
      if (!tiles.has(picture)) tiles.set(picture, tileOf(picture));
      const tile = tiles.get(picture);
      if (list.children[place] !== tile) list.insertBefore(tile, list.children[place] ?? null);
    });
    at("more-pictures").hidden = found.length <= most;
    at("history").hidden = history.all.length === 0;
    at("welcome").hidden = history.all.length > 0;
    at("count").textContent = found.length === history.all.length ? `${found.length}` : `${found.length} of ${history.all.length}`;
    follow();
  }

  function follow() {
    const count = selected.size;
    tools.hidden = history.all.length === 0;
    at("selected").textContent = count ? `${count} selected` : "";
    at("compare").hidden = count !== 2;
    at("delete").hidden = at("unselect").hidden = count === 0;
    at("export").textContent = count ? "Export these" : "Export all";
  }

  function tileOf(picture) {
    const label = `${picture.input.prompt ?? ""}, seed ${picture.seed}`;
    const img = h("img", { src: history.href(picture), alt: label, loading: "lazy" });
    const open = () => openLightbox(history, () => history.matching(search.value), picture, actions);
    const select = h("input", { type: "checkbox", class: "select", "aria-label": `Select ${label}` });
    select.addEventListener("change", () => {
      if (select.checked) selected.add(picture);
      else selected.delete(picture);
      follow();
    });
    const tools = [
      button("Vary", () => actions.vary(picture), { "aria-label": `Vary ${label}`, title: "The same with another seed" }),
      button("Reuse", () => actions.reuse(picture), { "aria-label": `Reuse ${label}`, title: "Its parameters into the form" }),
      actions.canStart && button("Start", () => actions.start(picture), { "aria-label": `Start from ${label}`, title: "Draw from this picture" }),
      h("a", { href: history.href(picture), download: fileName(picture), class: "button", "aria-label": `Save ${label}` }, "Save"),
      picture.grid && button("Grid", () => openGrid(history, picture.grid, actions), { "aria-label": `Grid of ${label}` }),
    ];
    return h(
      "li",
      { class: "tile", id: `picture-${picture.id}` },
      h("button", { type: "button", class: "open", onclick: open, "aria-label": `Open ${label}` }, img),
      select,
      h("p", { class: "prompt" }, picture.input.prompt ?? ""),
      h("p", { class: "facts" }, shortFacts(picture)),
      h("div", { class: "actions" }, ...tools),
    );
  }

  function unselect() {
    selected.clear();
    for (const box of list.querySelectorAll(".select")) box.checked = false;
    follow();
  }

  search.addEventListener("input", () => {
    most = AT_FIRST;
    render();
  });
  at("more-pictures").addEventListener("click", () => {
    most += AT_FIRST;
    render();
  });
  at("unselect").addEventListener("click", unselect);
  at("compare").addEventListener("click", () => openCompare(history, ...selected));
  at("delete").addEventListener("click", async () => {
    const pictures = [...selected];
    if (!confirm(`Delete ${pictures.length} ${pictures.length === 1 ? "picture" : "pictures"} from this browser?`)) return;
    await history.delete(pictures);
    unselect();
  });
  at("export").addEventListener("click", () => exportPictures(selected.size ? [...selected] : history.matching(search.value)));
  history.addEventListener("changed", render);
  render();
}
