// The playground: one job at a time, from the form to the gallery.

import { buildForm } from "./form.js";
import { parse, stringify } from "./json.js";
import { snippets } from "./snippets.js";

const POLL_MS = 300;
const FINAL = ["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"];
const KINDS = [
  ["iVBOR", "image/png", "png"],
  ["/9j/", "image/jpeg", "jpg"],
  ["UklGR", "image/webp", "webp"],
];

const at = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const config = await (await fetch("/playground/config.json")).json();
const base = `${location.origin}/v2`;
const url = `${base}/${config.endpoint_id}`;
const form = buildForm(config.input_schema, at("main-fields"), at("more-fields"));
at("more").hidden = at("more-fields").childElementCount === 0;
at("endpoint").textContent = url;
let jobId = null;

/** Ask the endpoint; throws an Error with its own words. A busy endpoint is asked again when it says so. */
async function ask(method, path, body) {
  for (;;) {
    const answer = await fetch(`${url}/${path}`, {
      method,
      headers: { Authorization: `Bearer ${at("key").value}`, "Content-Type": "application/json" },
      body: body === undefined ? undefined : stringify(body),
    });
    const text = await answer.text();
    if (answer.ok) return parse(text);
    if (answer.status === 429) {
      await sleep(1000 * Number(answer.headers.get("Retry-After") ?? 1));
      continue;
    }
    if (answer.status === 401) at("key").focus();
    let said = `the endpoint answered ${answer.status}`;
    try {
      said = JSON.parse(text).error;
    } catch {
      // Not the endpoint's own words, then.
    }
    throw Object.assign(new Error(said), { answered: true });
  }
}

/** The status, asked again while the connection is away for a moment. */
async function askStatus(id) {
  for (let tries = 0; ; tries++) {
    try {
      return await ask("GET", `status/${id}`);
    } catch (error) {
      if (error.answered || tries === 10) throw error;
      say("The connection is lost; trying again …");
      await sleep(1000);
    }
  }
}

function say(text) {
  if (at("status").textContent !== text) at("status").textContent = text;
}

function setRunning(running) {
  at("generate").disabled = running;
  at("cancel").disabled = !running;
  at("progress").hidden = !running;
  for (const button of document.querySelectorAll("[data-again]")) button.disabled = running;
}

function showProgress(status) {
  const bar = at("progress");
  const { step, steps } = status.output ?? {};
  if (status.status === "IN_QUEUE") {
    bar.removeAttribute("value");
    say(`In the queue for ${(status.delayTime / 1000).toFixed(0)} s`);
  } else if (steps > 0) {
    bar.max = steps;
    bar.value = step;
    say(`Step ${step} of ${steps}`);
  } else {
    bar.removeAttribute("value");
    say("Starting …");
  }
}

async function generate(input) {
  at("error").textContent = "";
  setRunning(true);
  say("Sending …");
  try {
    ({ id: jobId } = await ask("POST", "run", { input }));
    let status = await askStatus(jobId);
    while (!FINAL.includes(status.status)) {
      showProgress(status);
      await sleep(POLL_MS);
      status = await askStatus(jobId);
    }
    if (status.status === "COMPLETED") showImages(status, input);
    else if (status.status === "CANCELLED") say("Cancelled.");
    else throw new Error(status.error ?? `the job is ${status.status}`);
  } catch (error) {
    say("Nothing is running.");
    at("error").textContent = error.answered || jobId ? error.message : "The endpoint cannot be reached.";
  } finally {
    jobId = null;
    setRunning(false);
  }
}

function showImages(status, input) {
  const images = Array.isArray(status.output) ? status.output : [];
  at("gallery").prepend(...images.map((item, number) => figure(item, input, `${status.id}_${number}`)));
  const took = ((status.executionTime ?? 0) / 1000).toFixed(1);
  say(`Done: ${images.length} ${images.length === 1 ? "image" : "images"} in ${took} s.`);
}

/** Where an image is, and what to call it: base64 becomes a blob, a URL stays one. */
function source(image) {
  if (/^https?:\/\//.test(image)) return { href: image, suffix: "png" };
  const [, type, suffix] = KINDS.find(([head]) => image.startsWith(head)) ?? [null, "image/png", "png"];
  const bytes = Uint8Array.from(atob(image), (letter) => letter.charCodeAt(0));
  return { href: URL.createObjectURL(new Blob([bytes], { type })), suffix };
}

function figure(item, input, name) {
  const { href, suffix } = source(String(item.image));
  const li = document.createElement("li");
  const img = document.createElement("img");
  img.src = href;
  img.alt = `${input.prompt}, seed ${item.seed}`;
  const caption = document.createElement("p");
  caption.textContent = `Seed ${item.seed}`;
  const download = document.createElement("a");
  download.href = href;
  download.download = `${name}.${suffix}`;
  download.textContent = "Download";
  download.setAttribute("aria-label", `Download the image with seed ${item.seed}`);
  const again = document.createElement("button");
  again.type = "button";
  again.className = "quiet";
  again.dataset.again = "";
  again.textContent = "Same seed again";
  again.addEventListener("click", () => {
    const one = form.has("num_outputs") ? { num_outputs: 1 } : {};
    const repeated = { ...input, ...one, seed: item.seed };
    form.write(repeated);
    generate(repeated);
  });
  const actions = document.createElement("div");
  actions.className = "actions";
  actions.append(download, again);
  li.append(img, caption, actions);
  return li;
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!at("generate").disabled) generate(form.read());
});

at("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
});

// A field that the browser finds wrong must be seen to be corrected.
at("more").addEventListener("invalid", () => (at("more").open = true), { capture: true });

at("cancel").addEventListener("click", async () => {
  if (jobId === null) return;
  say("Cancelling …");
  try {
    await ask("POST", `cancel/${jobId}`);
  } catch (error) {
    at("error").textContent = error.message;
  }
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const request = { base, url, endpointId: config.endpoint_id, input: form.read() };
    try {
      await navigator.clipboard.writeText(snippets[button.dataset.copy](request));
      say(`Copied as ${button.textContent}; the key is read from RUNPOD_API_KEY.`);
    } catch {
      at("error").textContent = "The browser does not let this page copy; pages need https or 127.0.0.1 for it.";
    }
  });
}
