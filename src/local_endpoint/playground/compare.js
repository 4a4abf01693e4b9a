// Two pictures in one frame, with a slider between them.

import { dialog, h } from "./dom.js";
import { shortFacts } from "./facts.js";

/** Show two pictures of a history, the older one on the left. */
export function openCompare(history, ...two) {
  const [left, right] = two.sort((a, b) => a.createdAt - b.createdAt || a.number - b.number);
  const over = h("img", { src: history.href(left), alt: `Left: ${left.input.prompt}, seed ${left.seed}`, class: "over" });
  const under = h("img", { src: history.href(right), alt: `Right: ${right.input.prompt}, seed ${right.seed}` });
  const line = h("div", { class: "line", "aria-hidden": "true" });
  const slider = h("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "How much of the left picture" });
  const move = () => {
    over.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
    line.style.left = `${slider.value}%`;
  };
  slider.addEventListener("input", move);
  move();
  const frame = h("div", { class: "compare" }, h("div", { class: "both" }, under, over, line), slider);
  const words = (picture, side) => h("p", { class: "facts" }, h("strong", {}, `${side}: `), picture.input.prompt, h("br"), shortFacts(picture));
  const made = dialog("Compare", frame, h("div", { class: "sides" }, words(left, "Left"), words(right, "Right")));
  made.classList.add("wide");
  slider.focus();
}
