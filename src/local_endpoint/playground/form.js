// The form, built from the JSON Schema of a job's input: a few fields that everybody uses, the others in groups.

import { h, toMiddle } from "./dom.js";
import { field } from "./fields.js";
import { canonical, fieldsOf, labelOf } from "./schema.js";
import { seedTools } from "./seed.js";
import { sizeTools } from "./size.js";

const FIRST = ["model", "prompt", "negative_prompt"];
// What belongs together; a field that is named nowhere is in the last group.
const GROUPS = [
  ["Size and number", ["width", "height", "num_outputs", "seed"]],
  ["Sampling", ["num_inference_steps", "guidance_scale", "scheduler", "schedule"]],
  ["From a picture", ["init_image", "mask", "prompt_strength", "resize"]],
  ["Add-ons", ["loras", "embeddings", "controls", "return_control"]],
  ["Larger and finer", ["hires", "upscale"]],
  ["How the prompt is read", ["prompt_syntax", "emphasis", "clip_skip"]],
  ["Files and everything else", ["output_format", "output_quality"]],
];
const OPEN = ["Size and number"];

/** Build all fields into the page; returns how to read and write the whole input. */
export function buildForm(schema, mainPlace, morePlace) {
  const usable = schema?.properties ? schema : { properties: { prompt: { type: "string" } }, required: ["prompt"] };
  const fields = new Map();
  for (const [name, property] of fieldsOf(usable, usable)) {
    const made = field(name, property, usable, `field-${name}`);
    fields.set(name, { ...made, property });
    if (usable.required?.includes(name)) made.place.querySelector("input, select, textarea").required = true;
  }
  mainPlace.append(...FIRST.filter((name) => fields.has(name)).map((name) => fields.get(name).place));
  const rest = new Set([...fields.keys()].filter((name) => !FIRST.includes(name)));
  const groups = GROUPS.map(([title, names], number) => {
    const mine = number === GROUPS.length - 1 ? [...rest] : names.filter((name) => rest.delete(name));
    return mine.length ? group(title, mine, fields) : null;
  }).filter(Boolean);
  morePlace.append(...groups.map((one) => one.place));

  const mostPixels = () => {
    const model = fields.get("model");
    return model?.property.maxPixelsOf?.[model.read() ?? model.property.default] ?? usable.maxPixels ?? Infinity;
  };
  let judgeSize = () => {};
  if (fields.has("width") && fields.has("height")) judgeSize = sizeTools(fields.get("width"), fields.get("height"), mostPixels);
  if (fields.has("seed")) seedTools(fields.get("seed"));

  const form = {
    schema: usable,
    has: (name) => fields.has(name),
    field: (name) => fields.get(name),
    names: () => [...fields.keys()],
    label: (name) => labelOf(name, fields.get(name)?.property),
    read: () => {
      const entries = [...fields].map(([name, made]) => [name, made.read()]);
      return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
    },
    write: (input) => {
      const named = canonical(input, usable);
      for (const [name, made] of fields) made.write(named[name]);
      if (model) followModel();
      judgeSize();
      form.summarise();
    },
    /** Show a field, wherever it is folded away. */
    reveal: (name) => {
      const place = fields.get(name)?.place;
      if (place?.closest("details")) place.closest("details").open = true;
      toMiddle(place);
    },
    summarise: () => groups.forEach((one) => one.summarise()),
    /** Have a field's default another than the schema says. */
    setDefault: (name, value) => {
      const made = fields.get(name);
      if (!made) return;
      made.property.default = value;
      made.setDefault?.(value);
    },
  };

  const model = fields.get("model");
  const followModel = () => {
    const defaults = model.property.defaultsOf?.[model.read() ?? model.property.default] ?? {};
    for (const [name, value] of Object.entries(defaults)) form.setDefault(name, value);
    judgeSize();
  };
  model?.place.addEventListener("change", followModel);
  form.summarise();
  return form;
}

/** Some fields under a heading that says, while it is closed, what is set in it. */
function group(title, names, fields) {
  const digest = h("span", { class: "digest" });
  const place = h(
    "details",
    { class: "group", open: OPEN.includes(title) && matchMedia("(min-width: 55rem)").matches },
    h("summary", {}, h("span", {}, title), digest),
    h("div", { class: "fields" }, ...names.map((name) => fields.get(name).place)),
  );
  const summarise = () => {
    const set = names.map((name) => [fields.get(name), fields.get(name).read()]).filter(([, value]) => value !== undefined);
    digest.textContent = set.map(([made, value]) => inWords(made, value)).join(" · ");
  };
  place.addEventListener("input", summarise);
  place.addEventListener("change", summarise);
  return { place, summarise };
}

function inWords(made, value) {
  const label = made.property.title ?? made.heading.textContent;
  if (made.picture) return label;
  if (Array.isArray(value)) return `${label}: ${value.length}`;
  if (typeof value === "object") return label;
  return `${label} ${value}`;
}
