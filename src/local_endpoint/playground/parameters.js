// A picture's generation data: found in its file, and read as AUTOMATIC1111's web UI writes it.
//
// PNG has it in a text chunk called `parameters`, JPEG and WebP in the EXIF field UserComment (a code of eight bytes,
// then UTF-16). The text is the prompt, perhaps a line "Negative prompt: …", and a last line of "Name: value" pairs.

const EXIF_WITHIN = 400_000;
const UTF8 = new TextDecoder();

/** Bytes as Latin-1, each its own letter: what browsers call "latin1" is another code. */
function latin(bytes) {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

/** The text in a file's bytes (Uint8Array), or null where there is none. */
export async function parametersIn(bytes) {
  if (latin(bytes.subarray(1, 4)) === "PNG") return pngText(bytes);
  return exifText(bytes);
}

async function pngText(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = latin(bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    const end = data.indexOf(0);
    if (end > 0 && latin(data.subarray(0, end)) === "parameters") {
      if (kind === "tEXt") return latin(data.subarray(end + 1));
      if (kind === "zTXt") return latin(await inflated(data.subarray(end + 2)));
      if (kind === "iTXt") return internationalText(data, end);
    }
    at += length + 12;
  }
  return null;
}

async function internationalText(data, end) {
  const compressed = data[end + 1] === 1;
  const language = data.indexOf(0, end + 3);
  const text = data.subarray(data.indexOf(0, language + 1) + 1);
  return UTF8.decode(compressed ? await inflated(text) : text);
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The comment after its code; whether its letters have their high byte first is seen from them. */
function exifText(bytes) {
  const head = latin(bytes.subarray(0, EXIF_WITHIN));
  const at = head.indexOf("UNICODE\0");
  if (at < 0) return null;
  const rest = bytes.subarray(at + 8, at + 8 + exifLength(bytes, head, at));
  return new TextDecoder(rest[0] === 0 ? "utf-16be" : "utf-16le").decode(rest).replaceAll("\0", "").trim();
}

/** How long the EXIF directory says that the comment is, less its code: the file goes on behind it. */
function exifLength(bytes, head, at) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (const [tag, little] of [["\x92\x86\x00\x07", false], ["\x86\x92\x07\x00", true]]) {
    const found = head.lastIndexOf(tag, at);
    if (found >= 0) return Math.max(0, view.getUint32(found + 4, little) - 8) & ~1;
  }
  return 0;
}

const PAIR = /\s*([\w][\w \-/]*):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)/g;

/** The text's prompt, negative prompt and facts: `{prompt, negative, facts: {Name: value}}`. */
export function readParameters(text) {
  const lines = text.trim().split("\n");
  const last = lines.at(-1);
  const isFacts = [...last.matchAll(PAIR)].length >= 3 || /^Steps: \d/.test(last);
  const facts = {};
  if (isFacts) {
    lines.pop();
    for (const [, name, value] of last.matchAll(PAIR)) facts[name] = value.startsWith('"') ? unquoted(value) : value.trim();
  }
  const cut = lines.findIndex((line) => line.startsWith("Negative prompt:"));
  const prompt = lines.slice(0, cut < 0 ? undefined : cut).join("\n");
  const negative = cut < 0 ? "" : lines.slice(cut).join("\n").replace(/^Negative prompt:\s?/, "");
  return { prompt, negative, facts };
}

function unquoted(value) {
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

/**
 * The same as a job's input, with the fields that it has in common with this worker's. `known` tells what it serves:
 * `{models, controlnets}`, names; what is not among them is left out.
 */
export function inputOf({ prompt, negative, facts }, known = {}) {
  const input = { prompt };
  if (negative) input.negative_prompt = negative;
  const number = (name, field, change = (value) => value) => {
    if (facts[name] !== undefined && Number.isFinite(Number(facts[name]))) input[field] = change(Number(facts[name]));
  };
  number("Steps", "num_inference_steps");
  number("CFG scale", "guidance_scale");
  if (/^\d+$/.test(facts.Seed ?? "")) input.seed = Number.isSafeInteger(Number(facts.Seed)) ? Number(facts.Seed) : BigInt(facts.Seed);
  const size = facts.Size?.match(/^(\d+)x(\d+)$/);
  if (size) [input.width, input.height] = [Number(size[1]), Number(size[2])];
  if (facts.Sampler) input.scheduler = facts.Sampler;
  if (facts["Schedule type"]) input.schedule = facts["Schedule type"];
  number("Clip skip", "clip_skip", (value) => Math.max(0, value - 1));
  const hires = hiresOf(facts);
  if (hires) input.hires = hires;
  else number("Denoising strength", "prompt_strength");
  if (facts["Postprocess upscaler"]) {
    input.upscale = { model: facts["Postprocess upscaler"] };
    if (facts["Postprocess upscale by"]) input.upscale.scale = Number(facts["Postprocess upscale by"]);
  }
  const controls = Object.keys(facts)
    .filter((name) => /^ControlNet \d+$/.test(name))
    .map((name) => controlOf(facts[name]))
    .filter((control) => known.controlnets?.includes(control.model));
  if (controls.length > 0) input.controls = controls;
  const model = known.models?.find((name) => name?.toLowerCase() === facts.Model?.toLowerCase());
  if (model) input.model = model;
  if (facts.Emphasis === "None") input.prompt_syntax = "plain";
  if (facts.Emphasis === "No norm") input.emphasis = "no_norm";
  return input;
}

/** The second pass, or null where there was none. */
function hiresOf(facts) {
  const resize = facts["Hires resize"]?.match(/^(\d+)x(\d+)$/);
  if (!resize && !facts["Hires upscale"]) return null;
  const hires = resize ? {} : { scale: Number(facts["Hires upscale"]) };
  if (Number(resize?.[1])) hires.width = Number(resize[1]);
  if (Number(resize?.[2])) hires.height = Number(resize[2]);
  if (Number(facts["Hires steps"]) && facts["Hires steps"] !== facts.Steps) hires.steps = Number(facts["Hires steps"]);
  if (facts["Denoising strength"]) hires.strength = Number(facts["Denoising strength"]);
  const upscaler = facts["Hires upscaler"];
  if (upscaler) hires.upscaler = /^(latent|lanczos|nearest)\b/i.test(upscaler) ? upscaler.toLowerCase() : upscaler;
  return hires;
}

/** A ControlNet as the web UI's extension writes it; its picture is not in the text. */
function controlOf(text) {
  const facts = Object.fromEntries([...text.matchAll(PAIR)].map(([, name, value]) => [name, value.trim()]));
  return {
    model: facts.Model,
    preprocessor: facts.Module,
    scale: Number(facts.Weight ?? 1),
    start: Number(facts["Guidance Start"] ?? 0),
    end: Number(facts["Guidance End"] ?? 1),
    ...(facts["Control Mode"] === "ControlNet is more important" ? { guess_mode: true } : {}),
  };
}
