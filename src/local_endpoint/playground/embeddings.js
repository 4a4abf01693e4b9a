// Embeddings of the deployment: picked by name, with a strength, and put into a prompt, where they work.

import { combobox } from "./combobox.js";
import { button, h, say } from "./dom.js";
import { addOnsOf } from "./schema.js";

/** Put a picker before the form's own field, where there are any. */
export function pickEmbeddings(form) {
  const names = addOnsOf("embeddings", form.schema);
  if (names.length === 0) return;
  const name = h("input", { id: "pick-embedding", type: "text", spellcheck: "false" });
  if (names.length === 1) name.value = names[0];
  const strength = h("input", { id: "embedding-strength", type: "range", min: 0.1, max: 2, step: 0.05, value: 1 });
  const shown = h("output", { for: strength.id }, "1");
  strength.addEventListener("input", () => (shown.textContent = strength.value));
  const targets = ["prompt", "negative_prompt"].filter(form.has);
  const picker = h(
    "div",
    { class: "field field-pick" },
    h("div", { class: "label-row" }, h("label", { for: name.id }, "Embedding for a prompt")),
    ...combobox(name, names, "Embeddings"),
    h("div", { class: "label-row" }, h("label", { for: strength.id }, "Strength"), shown),
    strength,
    h(
      "div",
      { class: "actions" },
      ...targets.map((target) => button(`Into the ${form.label(target).toLowerCase()}`, () => insert(target), { class: "quiet" })),
    ),
  );
  // What is picked here is no field of the form: it goes into one of them.
  picker.addEventListener("input", (event) => event.stopPropagation());
  form.field("embeddings").place.before(picker);

  function insert(target) {
    const picked = name.value.trim();
    if (!picked) return name.focus();
    const word = Number(strength.value) === 1 ? picked : `(${picked}:${strength.value})`;
    const text = form.field(target).place.querySelector("textarea");
    text.setRangeText(joined(text, word), text.selectionStart, text.selectionEnd, "end");
    text.dispatchEvent(new Event("input", { bubbles: true }));
    say(`${word} is in the ${form.label(target).toLowerCase()}.`);
  }
}

/** A word with the commas that part it from what stands beside it. */
function joined({ value, selectionStart, selectionEnd }, word) {
  const before = value.slice(0, selectionStart);
  const after = value.slice(selectionEnd);
  const left = before.trim() && !/,\s*$/.test(before) ? ", " : "";
  const right = after.trim() && !/^\s*,/.test(after) ? ", " : "";
  return `${left}${word}${right}`;
}
