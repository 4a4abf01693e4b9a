// One control for each kind of field. Every control is `{nodes, read, write}`; fields left empty are not sent.

import { combobox } from "./combobox.js";
import { button, h, prose, toMiddle } from "./dom.js";
import { parse, stringify } from "./json.js";
import { pictureSlot } from "./picture_slot.js";
import { fieldsOf, isPicture, labelOf, resolve } from "./schema.js";

const LONG = ["prompt", "negative_prompt"];
// Beyond these hardly anybody goes; the number beside the slider takes all that the worker does.
const SLIDER_END = { num_inference_steps: 100, clip_skip: 4, guidance_scale: 20 };
const STRENGTHS = [-1, 2]; // of what may be negative: LoRAs
const NO_SLIDER = ["seed", "width", "height", "low_threshold", "high_threshold"];
// Of objects' fields, those that hardly anybody needs: folded away.
const RARE = [
  "text_scale", "sha256", "start", "end", "resize", "low_threshold", "high_threshold", "guess_mode",
  "width", "height", "steps",
];

function shown(value) {
  return value === undefined || value === null || value === "" || typeof value === "object" ? undefined : String(value);
}

/** The control of one field of an object in `schema`; `id` is the page's name for it. */
export function control(name, property, schema, id) {
  const described = { id, name, "aria-describedby": property.description ? `${id}-hint` : undefined };
  const context = { name, property, schema, id, described, placeholder: shown(property.default) };
  if (property.type === "boolean") return yesOrNo(context);
  if (property.enum) return choice(context);
  if (property.type === "integer" || property.type === "number") return number(context);
  if (isPicture(name, property)) return pictureSlot(context);
  if (LONG.includes(name)) return longText(context);
  if (property.type === "array") {
    const items = resolve(property.items ?? {}, schema);
    return items.properties ? list(context, items) : json(context, "[…]");
  }
  if (property.type === "object") return property.properties ? object(context) : json(context, "{…}");
  return text(context);
}

/** A control with its label and its help, as it stands in a form. */
export function field(name, property, schema, id) {
  const made = control(name, property, schema, id);
  const label = labelOf(name, property);
  const heading = made.group
    ? h("span", { class: "label", id: `${id}-label` }, label)
    : h("label", { for: id }, label);
  const row = h("div", { class: "label-row" }, made.lead, heading);
  const place = h("div", { class: `field field-${name}` }, row, ...made.nodes);
  if (property.description) help(place, label, property.description, `${id}-hint`);
  return { ...made, place, heading };
}

/** What a field means: for good by a click on its `?`; `help.js` shows it on hover, and while one is in the field. */
function help(place, label, description, id) {
  const hint = h("p", { class: "hint help", id }, ...prose(description));
  const about = { class: "help-mark", "aria-label": `Help: ${label}`, "data-hint": id, tabindex: "-1" };
  const mark = button("?", () => mark.setAttribute("aria-pressed", String(place.classList.toggle("helped"))), about);
  place.querySelector(".label-row").append(mark);
  place.append(hint);
}

function choice({ property, described, placeholder }) {
  const input = h("select", described);
  const usual = h("option", { value: "" }, placeholder ? `default (${placeholder})` : "default");
  input.append(usual);
  for (const value of property.enum) input.append(h("option", { value: JSON.stringify(value) }, String(value)));
  return {
    setDefault: (value) => (usual.textContent = `default (${value})`),
    nodes: [input],
    read: () => (input.value === "" ? undefined : JSON.parse(input.value)),
    write: (value) => (input.value = value === undefined || value === null ? "" : JSON.stringify(value)),
  };
}

function yesOrNo({ property, described }) {
  const input = h("input", { ...described, type: "checkbox" });
  let usual = Boolean(property.default);
  input.checked = usual;
  return {
    lead: input,
    nodes: [],
    setDefault: (value) => {
      if (input.checked === usual) input.checked = Boolean(value);
      usual = Boolean(value);
    },
    read: () => (input.checked === usual ? undefined : input.checked),
    write: (value) => (input.checked = value ?? usual),
  };
}

function number({ name, property, described, placeholder }) {
  const whole = property.type === "integer";
  const { maximum } = property;
  const minimum = property.minimum ?? property.exclusiveMinimum;
  // Browsers count multiples from the minimum; others are the endpoint's to judge.
  const multiple = minimum % property.multipleOf === 0 ? property.multipleOf : undefined;
  const input = h("input", {
    ...described,
    type: "number",
    inputmode: whole ? "numeric" : "decimal",
    min: minimum,
    max: maximum,
    step: multiple ?? (whole ? 1 : "any"),
    placeholder,
  });
  const made = {
    nodes: [input],
    setDefault: (value) => (input.placeholder = value),
    // A seed may be larger than a double holds exactly; it goes as the digits that were typed.
    read: () => (input.value === "" ? undefined : exact(input.value)),
    write: (value) => (input.value = value ?? ""),
  };
  if (NO_SLIDER.includes(name) || minimum === undefined || maximum === undefined) return made;
  const [first, end] = minimum < 0 ? STRENGTHS : [minimum, Math.min(maximum, SLIDER_END[name] ?? maximum)];
  const step = whole ? 1 : end - first <= 3 ? 0.01 : 0.5;
  const start = first === property.exclusiveMinimum ? first + step : first;
  let usual = property.default ?? Math.max(start, 0);
  const slider = h("input", {
    type: "range",
    min: start,
    max: end,
    step,
    value: usual,
    "aria-label": `${labelOf(name, property)}, slider`,
  });
  slider.addEventListener("input", () => {
    input.value = slider.value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
  const follow = () => (slider.value = input.value === "" ? usual : input.value);
  input.addEventListener("input", follow);
  const write = made.write;
  return {
    ...made,
    nodes: [h("div", { class: "with-slider" }, slider, input)],
    setDefault: (value) => {
      made.setDefault(value);
      usual = value;
      follow();
    },
    write: (value) => {
      write(value);
      follow();
    },
  };
}

function exact(text) {
  const value = Number(text);
  return Number.isInteger(value) && !Number.isSafeInteger(value) ? BigInt(text) : value;
}

function longText({ name, property, described, placeholder }) {
  const limits = { minlength: property.minLength, maxlength: property.maxLength };
  const input = h("textarea", { ...described, ...limits, rows: name === "prompt" ? 4 : 2, placeholder });
  return { nodes: [input], read: () => input.value || undefined, write: (value) => (input.value = value ?? "") };
}

function text({ name, property, described, placeholder }) {
  const input = h("input", { ...described, type: "text", placeholder, spellcheck: "false" });
  const nodes = property.examples?.length
    ? combobox(input, property.examples.map(String), labelOf(name, property))
    : [input];
  return {
    nodes,
    setDefault: (value) => (input.placeholder = value ?? ""),
    read: () => input.value || undefined,
    write: (value) => (input.value = value ?? ""),
  };
}

function json({ described }, example) {
  const input = h("textarea", { ...described, rows: 2, placeholder: `JSON: ${example}`, spellcheck: "false" });
  return {
    nodes: [input],
    read: () => (input.value.trim() === "" ? undefined : jsonOrText(input.value)),
    write: (value) => (input.value = value === undefined || value === null ? "" : stringify(value)),
  };
}

/** What is no JSON goes as it is: the worker says better than a form what is wrong with it. */
function jsonOrText(text) {
  try {
    return parse(text);
  } catch {
    return text;
  }
}

/** The controls of an object's fields; those that hardly anybody needs are folded away. */
function parts(object, schema, id) {
  const made = fieldsOf(object, schema).map(([name, property]) => {
    const one = field(name, property, schema, `${id}-${name}`);
    if (object.required?.includes(name)) one.place.querySelector("input, select, textarea")?.setAttribute("required", "");
    return [name, one, property];
  });
  const [rare, usual] = [made.filter(([name]) => RARE.includes(name)), made.filter(([name]) => !RARE.includes(name))];
  const more = h("details", { class: "rare" }, h("summary", {}, "More"), ...rare.map(([, one]) => one.place));
  return {
    nodes: [...usual.map(([, one]) => one.place), rare.length ? more : null],
    read: () => {
      const entries = made.map(([name, one]) => [name, one.read()]);
      return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
    },
    write: (value) => {
      for (const [name, one] of made) one.write(value?.[name]);
      if (rare.some(([, one]) => one.read() !== undefined)) more.open = true;
    },
    /** Where something must be chosen and there is only one thing to choose, it is chosen. */
    begin: () => {
      for (const [name, one, { examples }] of made)
        if (object.required?.includes(name) && examples?.length === 1 && one.read() === undefined) one.write(examples[0]);
    },
  };
}

/** An object that is there or not: one switches it on. */
function object({ property, schema, id, described }) {
  const inside = parts(property, schema, id);
  const body = h("div", { class: "inside", hidden: true }, ...inside.nodes);
  const on = h("input", { ...described, type: "checkbox", role: "switch" });
  // A hidden field must not stand in the way of sending the form.
  const show = () => {
    body.hidden = !on.checked;
    for (const one of body.querySelectorAll("input, select, textarea")) one.disabled = !on.checked;
  };
  on.addEventListener("change", () => {
    if (on.checked) inside.begin();
    show();
  });
  show();
  return {
    lead: on,
    nodes: [body],
    read: () => (on.checked ? inside.read() : undefined),
    write: (value) => {
      on.checked = value !== undefined && value !== null;
      inside.write(value ?? {});
      show();
    },
  };
}

/** A list of objects: each with its controls, added and removed. */
function list({ name, property, schema, id }, items) {
  const label = labelOf(name, property);
  const rows = h("ol", { class: "rows" });
  const made = [];
  let count = 0;
  const single = label.replace(/s$/, "").replace(/^[A-Z](?=[a-z]+\b)/, (letter) => letter.toLowerCase());
  const add = button(`Add ${single}`, begin, { class: "quiet", id, name });
  const most = property.maxItems ?? 1000;

  function append(value) {
    const inside = parts(items, schema, `${id}-${count++}`);
    const row = h("li", {}, h("div", { class: "inside" }, ...inside.nodes));
    const drop = button("Remove", () => remove(inside, row), { class: "quiet", "aria-label": `Remove ${single}` });
    row.append(drop);
    rows.append(row);
    made.push(inside);
    if (value) inside.write(value);
    changed();
    return row;
  }

  function begin() {
    const row = append();
    made.at(-1).begin();
    changed();
    const first = row.querySelector("input, select, textarea");
    first?.focus();
    if (first?.role === "combobox" && !first.value) first.click(); // what there is to choose
    toMiddle(row);
  }

  function remove(inside, row) {
    made.splice(made.indexOf(inside), 1);
    row.remove();
    changed();
    add.focus();
  }

  function changed() {
    add.disabled = made.length >= most;
    rows.dispatchEvent(new Event("input", { bubbles: true }));
  }

  return {
    group: true,
    nodes: [h("div", { role: "group", "aria-labelledby": `${id}-label` }, rows, add)],
    read: () => (made.length ? made.map((inside) => inside.read()) : undefined),
    write: (value) => {
      made.length = 0;
      rows.replaceChildren();
      for (const one of Array.isArray(value) ? value : []) append(one);
      changed();
    },
  };
}
