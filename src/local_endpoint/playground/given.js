// A picture dropped on the page or pasted into it: its parameters into the form, or itself into a field.

import { button, complain, dialog, h } from "./dom.js";
import { inputOf, parametersIn, readParameters } from "./parameters.js";
import { fitting, picturesIn } from "./pictures.js";
import { addOnsOf } from "./schema.js";

export const FILLED = "Its parameters are in the form.";

/** Watch the page for pictures that are given to it; `write(input, words, field)` puts an input into the form. */
export function watchForPictures(form, write) {
  addEventListener("dragover", (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    open(picturesIn(event.dataTransfer));
  });
  addEventListener("paste", (event) => {
    const files = picturesIn(event.clipboardData);
    if (files.length === 0) return;
    event.preventDefault();
    open(files);
  });

  async function open(files) {
    if (files.length === 0) return complain("That is no picture.");
    try {
      await openGiven(files[0], form, write);
    } catch (error) {
      complain(error.message);
    }
  }
}

/** Ask what shall become of a picture file. */
export async function openGiven(file, form, write) {
  const text = await parametersIn(new Uint8Array(await file.arrayBuffer()));
  const data = await fitting(file);
  const found = text ? readParameters(text) : null;
  const then = (act) => () => {
    made.close();
    act();
  };
  const slots = form.names().filter((name) => form.field(name).picture);
  const uses = slots.map((name) =>
    button(`Use as: ${form.label(name)}`, then(() => write({ ...form.read(), [name]: data }, `It is in the form: ${form.label(name)}.`, name)), { class: "quiet" }),
  );
  const nets = addOnsOf("controls", form.schema);
  if (form.has("controls")) {
    const hint = then(() => {
      const controls = form.read().controls ?? [];
      const free = controls.findIndex((control) => !control.image);
      if (free >= 0) controls[free] = { ...controls[free], image: data };
      else controls.push({ ...(nets.length === 1 ? { model: nets[0] } : {}), image: data });
      write({ ...form.read(), controls }, "It is what a ControlNet is shown.", "controls");
    });
    uses.push(button("Use as: ControlNet hint", hint, { class: "quiet" }));
  }
  const models = form.field("model")?.property.enum;
  const fill = found
    ? button("Fill the form with its parameters", then(() => write(inputOf(found, { models, controlnets: nets }), FILLED, "prompt")), { class: "primary" })
    : h("p", { class: "hint" }, "It says nothing of how it was drawn.");
  const facts = found ? [["Prompt", found.prompt], ["Not", found.negative], ...Object.entries(found.facts)] : [];
  const made = dialog(
    "A picture was given",
    h(
      "div",
      { class: "lightbox" },
      h("figure", {}, h("img", { src: data, alt: "The picture given" })),
      h(
        "div",
        { class: "about" },
        h("div", { class: "actions" }, fill, ...uses),
        h("dl", {}, ...facts.filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      ),
    ),
  );
  made.classList.add("wide");
}
