// The form, built from the JSON Schema of a job's input. Fields left empty are not sent.

import { parse, stringify } from "./json.js";

const FIRST = ["prompt", "negative_prompt"];
const PICTURES = new Set(["init_image", "mask"]);

/** Whether a property belongs into a form: not another name of one that is there, nor one of yesterday's. */
function offered(property) {
  return !property.deprecated && !property.$ref?.startsWith("#/properties/");
}

/** A property with its references and its "or null" taken away. */
function resolve(property, schema) {
  if (property.$ref) {
    const target = property.$ref.replace("#/", "").split("/");
    const { $ref, ...own } = property;
    property = { ...target.reduce((at, name) => at?.[name], schema), ...own };
  }
  const choices = (property.anyOf ?? property.oneOf ?? []).filter((choice) => choice.type !== "null");
  if (choices.length > 0) property = { ...resolve(choices[0], schema), ...property };
  if (Array.isArray(property.type)) property = { ...property, type: property.type.find((type) => type !== "null") };
  if (property.enum) property = { ...property, enum: property.enum.filter((value) => value !== null) };
  return property;
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function shown(value) {
  return value === undefined || value === null || value === "" ? undefined : String(value);
}

/** The control of one field, and how its value is read and written. */
function control(name, property, id) {
  const placeholder = shown(property.default);
  const described = { id, name, "aria-describedby": property.description ? `${id}-hint` : undefined };
  if (property.enum || property.type === "boolean") {
    const values = property.enum ?? [true, false];
    const input = element("select", described);
    input.append(element("option", { value: "" }, placeholder ? `default (${placeholder})` : "default"));
    for (const value of values) input.append(element("option", { value: JSON.stringify(value) }, String(value)));
    return {
      nodes: [input],
      read: () => (input.value === "" ? undefined : JSON.parse(input.value)),
      write: (value) => (input.value = value === undefined ? "" : JSON.stringify(value)),
    };
  }
  if (property.type === "integer" || property.type === "number") {
    const whole = property.type === "integer";
    const input = element("input", {
      ...described,
      type: "number",
      inputmode: whole ? "numeric" : "decimal",
      min: property.minimum,
      max: property.maximum,
      // Multiples are the endpoint's to judge: browsers count them from the minimum.
      step: whole ? 1 : "any",
      placeholder,
    });
    return {
      nodes: [input],
      // A seed may be larger than a double holds exactly; it goes as the digits that were typed.
      read: () => (input.value === "" ? undefined : exact(input.value)),
      write: (value) => (input.value = value ?? ""),
    };
  }
  if (FIRST.includes(name)) {
    const limits = { minlength: property.minLength, maxlength: property.maxLength };
    const input = element("textarea", { ...described, ...limits, rows: name === "prompt" ? 4 : 2, placeholder });
    return { nodes: [input], read: () => input.value || undefined, write: (value) => (input.value = value ?? "") };
  }
  if (property.type === "object" || property.type === "array") {
    const example = property.type === "array" ? "[{…}, …]" : "{…}";
    const input = element("textarea", { ...described, rows: 2, placeholder: `JSON: ${example}`, spellcheck: "false" });
    return {
      nodes: [input],
      read: () => (input.value.trim() === "" ? undefined : jsonOrText(input.value)),
      write: (value) => (input.value = value === undefined ? "" : stringify(value)),
    };
  }
  const list = property.examples?.length ? `${id}-list` : undefined;
  const input = element("input", { ...described, type: "text", placeholder, list, spellcheck: "false" });
  const nodes = [input];
  if (list) {
    const options = property.examples.map((value) => element("option", { value: String(value) }));
    nodes.push(element("datalist", { id: list }, ...options));
  }
  if (PICTURES.has(name)) nodes.push(picker(name, input));
  return { nodes, read: () => input.value || undefined, write: (value) => (input.value = value ?? "") };
}

/** What is no JSON goes as it is: the worker says better than a form what is wrong with it. */
function jsonOrText(text) {
  try {
    return parse(text);
  } catch {
    return text;
  }
}

function exact(text) {
  const number = Number(text);
  return Number.isInteger(number) && !Number.isSafeInteger(number) ? BigInt(text) : number;
}

/** A file chooser that puts the file into the text field as a data URI. */
function picker(name, input) {
  const file = element("input", { type: "file", accept: "image/*", "aria-label": `${label(name)} from a file` });
  file.addEventListener("change", () => {
    if (!file.files[0]) return;
    const reader = new FileReader();
    reader.addEventListener("load", () => (input.value = reader.result));
    reader.readAsDataURL(file.files[0]);
  });
  return file;
}

function label(name) {
  const words = name.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

/** Build all fields into the page; returns how to read and write the whole input. */
export function buildForm(schema, mainPlace, morePlace) {
  const usable = schema?.properties ? schema : { properties: { prompt: { type: "string" } }, required: ["prompt"] };
  const controls = new Map();
  for (const [name, raw] of Object.entries(usable.properties).filter(([, property]) => offered(property))) {
    const property = resolve(raw, usable);
    const id = `field-${name}`;
    const made = control(name, property, id);
    controls.set(name, made);
    if (usable.required?.includes(name)) made.nodes[0].required = true;
    const field = element("div", { class: "field" }, element("label", { for: id }, label(name)), ...made.nodes);
    if (property.description) field.append(element("p", { class: "hint", id: `${id}-hint` }, property.description));
    (FIRST.includes(name) ? mainPlace : morePlace).append(field);
  }
  return {
    has: (name) => controls.has(name),
    read: () => {
      const entries = [...controls].map(([name, made]) => [name, made.read()]);
      return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
    },
    write: (input) => {
      for (const [name, made] of controls) made.write(input[name]);
    },
  };
}
