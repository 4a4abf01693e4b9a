// One picture large, with everything it was drawn with; arrows go to the next.

import { button, dialog, h, say } from "./dom.js";
import { openCompare } from "./compare.js";
import { fileName } from "./export.js";
import { factsOf } from "./facts.js";

/** Open it at a picture; `list()` tells which there are now. */
export function openLightbox(history, list, first, actions) {
  let picture = first;
  const img = h("img", {});
  const about = h("div", { class: "about" });
  const place = h("p", { class: "hint" });
  const pixels = h("span", {});
  img.addEventListener("load", () => (pixels.textContent = ` · ${img.naturalWidth} × ${img.naturalHeight}`));
  const made = dialog("Picture", h("div", { class: "lightbox" }, h("figure", {}, img, place), about));
  made.classList.add("wide");

  function go(step) {
    const all = list();
    const next = all[all.indexOf(picture) + step];
    if (next) show(next);
  }

  function show(next) {
    picture = next;
    const all = list();
    const number = all.indexOf(picture);
    img.src = history.href(picture);
    img.alt = `${picture.input.prompt ?? ""}, seed ${picture.seed}`;
    place.replaceChildren(
      button("← Newer", () => go(-1), { class: "quiet", disabled: number <= 0 }),
      ` ${number + 1} of ${all.length}`,
      pixels,
      " ",
      button("Older →", () => go(1), { class: "quiet", disabled: number + 1 >= all.length }),
    );
    const then = (act) => () => (made.close(), act(picture));
    const other = all[number + 1] ?? all[number - 1];
    const negative = picture.input.negative_prompt;
    about.replaceChildren(
      h("p", { class: "prompt" }, picture.input.prompt ?? ""),
      ...(negative ? [h("p", { class: "prompt" }, h("strong", {}, "Not: "), negative)] : []),
      h(
        "div",
        { class: "actions" },
        button("Vary", then(actions.vary), { class: "quiet" }),
        button("Reuse", then(actions.reuse), { class: "quiet" }),
        ...(actions.canStart ? [button("Use as start", then(actions.start), { class: "quiet" })] : []),
        ...(actions.enlarge ? [button("Enlarge", then(actions.enlarge), { class: "quiet" })] : []),
        ...(other ? [button("Compare with the one before", () => openCompare(history, picture, other), { class: "quiet" })] : []),
        h("a", { href: history.href(picture), download: fileName(picture), class: "button quiet" }, "Save"),
        ...(picture.parameters ? [button("Copy parameters", () => copy(picture.parameters), { class: "quiet" })] : []),
        button("Delete", () => (made.close(), history.delete([picture])), { class: "quiet" }),
      ),
      h("dl", {}, ...factsOf(picture, actions.schema).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    );
  }

  made.addEventListener("keydown", (event) => {
    if (event.target.closest("input, textarea")) return;
    if (event.key === "ArrowLeft") go(-1);
    if (event.key === "ArrowRight") go(1);
  });
  show(first);
}

async function copy(text) {
  await navigator.clipboard.writeText(text);
  say("Copied.");
}
