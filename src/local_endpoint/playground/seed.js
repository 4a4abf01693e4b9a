// The seed's dice: a seed drawn by lot that stays, or a new one with every draw.

import { button, h, icon } from "./dom.js";

/** A seed drawn by lot, 32 bit. */
export function anySeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

/** Put the tools beside a seed's field. */
export function seedTools({ place, write }) {
  const set = (value) => {
    write(value);
    place.querySelector("input").dispatchEvent(new Event("input", { bubbles: true }));
  };
  place.querySelector("input").placeholder = "by lot each time";
  const dice = button(icon("dice"), () => set(anySeed()), { class: "quiet tool", "aria-label": "Roll a seed", title: "Roll a seed" });
  const free = button(icon("renew"), () => set(undefined), {
    class: "quiet tool",
    "aria-label": "A new seed with every draw",
    title: "A new seed with every draw",
  });
  const input = place.querySelector("input");
  const row = h("div", { class: "with-tools" });
  input.replaceWith(row);
  row.append(input, dice, free);
}
