// What fields mean: beside the button while one is in the field, and under a field's name while the mouse is over it.
// The words beside the button take room, so they change when a click is over: it would land elsewhere.

import { at, h } from "./dom.js";

const AFTER_CLICK_MS = 50;

/** Show the help of a form's fields. */
export function showHelp(form) {
  const tip = h("div", { class: "tip", "aria-hidden": "true", hidden: true });
  document.body.append(tip);

  let pressed = false;
  addEventListener("pointerdown", () => (pressed = true), { capture: true });
  addEventListener("pointerup", () => setTimeout(() => ((pressed = false), follow()), AFTER_CLICK_MS), { capture: true });
  const follow = () => pressed || tell(at("field-help"), form.querySelector(":focus")?.getAttribute("aria-describedby"));
  form.addEventListener("focusin", follow);
  form.addEventListener("focusout", () => setTimeout(follow, AFTER_CLICK_MS));

  form.addEventListener("pointerover", ({ target, pointerType }) => {
    const row = target.closest(".label-row");
    const mark = row?.querySelector("[data-hint]");
    tip.hidden = !mark || pointerType === "touch" || !tell(tip, mark.dataset.hint);
    if (tip.hidden) return;
    const { left, bottom, width } = row.getBoundingClientRect();
    Object.assign(tip.style, { left: `${left}px`, top: `${bottom + 4}px`, width: `${width}px` });
    if (tip.getBoundingClientRect().bottom > innerHeight) {
      tip.style.top = `${row.getBoundingClientRect().top - tip.offsetHeight - 4}px`;
    }
  });
  form.addEventListener("pointerleave", () => (tip.hidden = true));
  form.addEventListener("pointerdown", () => (tip.hidden = true));
  form.addEventListener("scroll", () => (tip.hidden = true), { capture: true });
}

/** Copy a hint's words; returns whether there are any. */
function tell(place, id) {
  const hint = document.getElementById(id ?? "");
  place.replaceChildren(...[...(hint?.childNodes ?? [])].map((node) => node.cloneNode(true)));
  return Boolean(hint);
}
