// What a picture was drawn with, in words.

import { readParameters } from "./parameters.js";
import { labelOf } from "./schema.js";
import { seconds } from "./dom.js";

const HIDDEN = ["prompt", "negative_prompt", "num_outputs"];

/** `[label, value]` of everything that is known: what was asked for, and what the file itself says. */
export function factsOf(picture, schema) {
  const said = picture.parameters ? readParameters(picture.parameters).facts : {};
  const facts = new Map(Object.entries(said).filter(([name]) => name !== "Version"));
  facts.set("Seed", String(picture.seed));
  const known = new Set([...facts.keys()].map((name) => name.toLowerCase()));
  const same = { num_inference_steps: "steps", guidance_scale: "cfg scale", scheduler: "sampler", schedule: "schedule type" };
  const size = facts.has("Size") ? ["width", "height"] : [];
  for (const [name, value] of Object.entries(picture.input)) {
    if (HIDDEN.includes(name) || name === "seed" || size.includes(name) || known.has(same[name])) continue;
    facts.set(labelOf(name, schema.properties?.[name]), worded(value));
  }
  for (const [name, value] of Object.entries(picture.also ?? {})) facts.set(labelOf(name), worded(value));
  facts.set("Drawn in", seconds(picture.executionMs));
  facts.set("When", new Date(picture.createdAt).toLocaleString());
  return [...facts];
}

/** The same in a line: what people compare pictures by. */
export function shortFacts(picture) {
  const { facts } = picture.parameters ? readParameters(picture.parameters) : { facts: {} };
  const { input } = picture;
  const parts = [
    `Seed ${picture.seed}`,
    facts.Sampler ?? input.scheduler,
    facts.Steps ?? input.num_inference_steps ? `${facts.Steps ?? input.num_inference_steps} steps` : null,
    facts["CFG scale"] ?? input.guidance_scale ? `guidance ${facts["CFG scale"] ?? input.guidance_scale}` : null,
    seconds(picture.executionMs),
  ];
  return parts.filter(Boolean).join(" · ");
}

function worded(value) {
  if (value === null || typeof value !== "object") return String(value);
  if ("$file" in value) return "given";
  if (Array.isArray(value)) return value.map(worded).join("; ");
  return Object.entries(value)
    .map(([name, item]) => `${name} ${worded(item)}`)
    .join(", ");
}
