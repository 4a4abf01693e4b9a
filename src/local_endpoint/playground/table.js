// A table that is filled again and again: rows that have not changed stay, and with them focus and selection.

import { h } from "./dom.js";

/** `rows` are `{key, cells, same}`; a row is made anew when `same` (otherwise its cells) says so. */
export function fillTable(table, headings, rows, otherwise = "") {
  if (!table.tHead) {
    const heads = headings.map((text) => (text ? h("th", { scope: "col" }, text) : h("td", {})));
    table.append(h("thead", {}, h("tr", {}, heads)), h("tbody"));
  }
  const [body] = table.tBodies;
  const old = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const made = rows.map((row) => rowOf(row, old.get(row.key)));
  if (made.length === 0 && otherwise) {
    made.push(h("tr", { "data-key": "" }, h("td", { colspan: headings.length, class: "hint" }, otherwise)));
  }
  made.forEach((row, place) => body.children[place] !== row && body.insertBefore(row, body.children[place] ?? null));
  while (body.rows.length > made.length) body.lastElementChild.remove();
}

function rowOf({ key, cells, same }, before) {
  const now = same ?? cells.join();
  if (before?.dataset.same === now) return before;
  const row = h(
    "tr",
    { "data-key": key, "data-same": now },
    cells.map((cell) => h("td", {}, [cell].flat().map((one) => (typeof one === "number" ? String(one) : one)))),
  );
  if (before?.contains(document.activeElement)) queueMicrotask(() => row.querySelector("button")?.focus());
  return row;
}
