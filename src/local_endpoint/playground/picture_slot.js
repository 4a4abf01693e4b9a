// A field whose value is a picture: a file chosen, dropped or pasted, or an address; with a preview.

import { button, complain, h } from "./dom.js";
import { openMaskEditor } from "./mask_editor.js";
import { fitting, loaded, picturesIn } from "./pictures.js";
import { labelOf } from "./schema.js";

/** The control; a mask is painted over the picture of the field `init_image`. */
export function pictureSlot({ name, property, id, described }) {
  const label = labelOf(name, property);
  const input = h("input", { ...described, type: "text", placeholder: "or the address of one", spellcheck: "false" });
  const file = h("input", { type: "file", accept: "image/*", class: "unseen", tabindex: "-1", "aria-hidden": "true" });
  const choose = button("Choose a picture", () => file.click(), { class: "quiet", "aria-label": `Choose a picture: ${label}` });
  const clear = button("Remove", () => set(""), { class: "quiet", "aria-label": `Remove: ${label}`, hidden: true });
  const image = h("img", { alt: `${label}: the picture given`, hidden: true });
  const facts = h("p", { class: "hint facts" });
  const paint = name === "mask" ? button("Paint", paintMask, { class: "quiet" }) : null;
  const drop = h("div", { class: "drop" }, image, facts, h("div", { class: "actions" }, choose, paint, clear, file));
  let data = ""; // a picture's data URI: too long for a text field

  function set(value) {
    data = value.startsWith("data:") ? value : "";
    input.value = data ? "" : value;
    input.hidden = Boolean(data);
    changed();
  }

  async function changed() {
    const source = data || input.value.trim();
    clear.hidden = !source;
    image.hidden = true;
    facts.textContent = "";
    drop.dispatchEvent(new Event("input", { bubbles: true }));
    if (!/^(data:|https?:)/.test(source)) return;
    try {
      const { naturalWidth, naturalHeight } = await loaded(source);
      if (source !== (data || input.value.trim())) return;
      image.src = source;
      image.hidden = false;
      const size = data ? `, ${Math.ceil((data.length * 3) / 4000)} kB` : "";
      facts.textContent = `${naturalWidth} × ${naturalHeight}${size}`;
    } catch {
      facts.textContent = data ? "This browser cannot show it." : "It cannot be shown from here.";
    }
  }

  async function take(files) {
    try {
      if (files[0]) set(await fitting(files[0]));
    } catch (error) {
      complain(error.message);
    }
  }

  async function paintMask() {
    const under = drop.closest("form")?.querySelector('[data-picture="init_image"] img:not([hidden])');
    if (!under) return complain("Give a picture to start from first: the mask is painted over it.");
    const painted = await openMaskEditor(under.src, data);
    if (painted !== null) set(painted);
  }

  file.addEventListener("change", async () => {
    await take(file.files);
    file.value = "";
  });
  input.addEventListener("change", changed);
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    event.stopPropagation();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    drop.classList.remove("over");
    document.body.classList.remove("dropping");
    take(picturesIn(event.dataTransfer));
  });
  input.addEventListener("paste", (event) => {
    const files = picturesIn(event.clipboardData);
    if (files.length === 0) return;
    event.preventDefault();
    event.stopPropagation();
    take(files);
  });
  drop.dataset.picture = name;
  return {
    nodes: [drop, input],
    read: () => data || input.value.trim() || undefined,
    write: (value) => set(typeof value === "string" ? value : ""),
    picture: true,
  };
}
