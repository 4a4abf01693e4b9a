// What a ControlNet will be shown: beside the picture that was given for it, what the preprocessor makes of that.

import { ask } from "./api.js";
import { h } from "./dom.js";
import { loaded } from "./pictures.js";

const PAUSE_MS = 300;
const MULTIPLE = 8;

/** Show it in each row of the form's `controls`. */
export function showHints(form, place) {
  if (!form.has("controls")) return;
  let waiting = 0;

  async function look() {
    const input = form.read();
    const rows = [...form.field("controls").place.querySelectorAll(".rows > li")];
    for (const [number, row] of rows.entries()) await show(row, input.controls?.[number] ?? {}, input);
  }

  async function show(row, control, input) {
    const shown = row.querySelector(".shown") ?? row.querySelector(".drop").appendChild(empty());
    const source = control.image ?? input.init_image;
    const made = control.preprocessor && control.preprocessor !== "none";
    const key = source && made ? JSON.stringify([source, control, input.width, input.height]) : "";
    if (shown.dataset.key === key) return;
    shown.dataset.key = key;
    shown.hidden = !key;
    if (!key) return;
    const [img, words] = shown.children;
    img.hidden = true;
    words.textContent = "Preparing …";
    try {
      const size = await sizeOf(input);
      const answer = await ask("POST", "/playground/explain", {
        hint: { ...size, controls: [{ model: "-", ...control, image: source }] },
      });
      if (shown.dataset.key !== key) return;
      if (answer.error) throw new Error(answer.error);
      img.src = answer.image;
      img.hidden = false;
      words.textContent = `What ${control.model || "the ControlNet"} is shown, ${answer.width} × ${answer.height}`;
    } catch (error) {
      if (shown.dataset.key === key) words.textContent = error.message;
    }
  }

  /** What the drawing's size will be. */
  async function sizeOf({ width, height, init_image }) {
    const usual = (name) => form.field(name)?.property.default ?? 512;
    if (!init_image || (width && height)) return { width: width ?? usual("width"), height: height ?? usual("height") };
    const img = await loaded(init_image);
    const fit = (length) => Math.max(64, Math.floor(length / MULTIPLE) * MULTIPLE);
    return {
      width: width ?? fit(height ? (img.naturalWidth * height) / img.naturalHeight : img.naturalWidth),
      height: height ?? fit(width ? (img.naturalHeight * width) / img.naturalWidth : img.naturalHeight),
    };
  }

  const later = () => {
    clearTimeout(waiting);
    waiting = setTimeout(look, PAUSE_MS);
  };
  for (const event of ["input", "change", "written"]) place.addEventListener(event, later);
  later();
}

function empty() {
  return h("figure", { class: "shown", hidden: true }, h("img", { alt: "What the ControlNet is shown" }), h("figcaption", { class: "hint", role: "status" }));
}
