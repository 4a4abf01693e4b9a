// The OpenAPI document as a page on which every operation can be tried, with its curl line filled in.

import { at, button, complain, h, prose, say } from "./dom.js";
import { key, onKey } from "./key.js";
import { showKey } from "./key_view.js";

const LONGEST = 300;
const openapi = await (await fetch("/openapi.json")).json();
const askKey = showKey();
const curlLines = [];

function code(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return h("pre", { tabindex: "0" }, h("code", {}, text));
}

/** One parameter: what it is, and a field to give it. */
function parameter(one, id) {
  const input = h("input", { id, type: "text", value: one.in === "path" ? "" : undefined, placeholder: String(one.example) });
  const label = h("label", { for: id }, one.name);
  const meaning = h("p", { class: "hint" }, `in the ${one.in}. `, ...prose(one.description));
  return { place: h("div", { class: "field" }, label, input, meaning), name: one.name, where: one.in, input, example: one.example };
}

/** The request as it stands in the fields: `{path, body}`; examples stand in for what is not given. */
function written(path, parameters, body) {
  const query = new URLSearchParams();
  for (const { name, where, input, example } of parameters) {
    if (where === "path") path = path.replace(`{${name}}`, encodeURIComponent(input.value.trim() || example));
    else if (input.value.trim()) query.set(name, input.value.trim());
  }
  return { path: query.size ? `${path}?${query}` : path, body: body?.value };
}

function curl(method, { path, body }) {
  const known = at("with-key").checked && key();
  const secret = known ? `'Authorization: Bearer ${key().replaceAll("'", "'\\''")}'` : '"Authorization: Bearer $RUNPOD_API_KEY"';
  const lines = [`curl -X ${method} '${location.origin}${path}'`, `-H ${secret}`];
  if (body !== undefined) lines.push("-H 'Content-Type: application/json'", `-d '${body.replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n    ");
}

/** An answer's JSON, with long texts cut; what is none as it is. */
function readable(text) {
  try {
    return JSON.stringify(
      JSON.parse(text),
      (_, item) => (typeof item === "string" && item.length > LONGEST ? `${item.slice(0, 60)}… (${item.length} characters)` : item),
      2,
    );
  } catch {
    return text;
  }
}

/** Fields, curl line and button of an operation. */
function tryIt(method, path, operation, id) {
  const parameters = (operation.parameters ?? []).map((one, number) => parameter(one, `${id}-${number}`));
  const example = operation.requestBody?.content["application/json"].schema.example;
  const body = example && h("textarea", { id: `${id}-body`, rows: 6, spellcheck: "false" }, JSON.stringify(example, null, 2));
  const line = h("code", {});
  const answer = h("div", { role: "status" });
  const send = button("Send", run, { class: "primary", "aria-label": `Send ${method} ${path}` });
  const copy = button("Copy", async () => {
    await navigator.clipboard.writeText(line.textContent);
    say("Copied.");
  }, { class: "quiet", "aria-label": `Copy the curl line of ${path}` });
  const place = h(
    "div",
    { class: "try" },
    ...parameters.map((one) => one.place),
    body ? h("div", { class: "field" }, h("label", { for: body.id }, "Body"), body) : null,
    h("pre", { tabindex: "0" }, line),
    h("div", { class: "actions" }, send, copy),
    answer,
  );
  const follow = () => (line.textContent = curl(method, written(path, parameters, body)));
  place.addEventListener("input", follow);
  curlLines.push(follow);
  follow();

  async function run() {
    const missing = parameters.find(({ where, input }) => where === "path" && !input.value.trim());
    if (missing) {
      answer.replaceChildren(h("p", { class: "wrong" }, `Give ${missing.name}.`));
      return missing.input.focus();
    }
    const request = written(path, parameters, body);
    const start = performance.now();
    send.disabled = true;
    answer.replaceChildren(h("p", { class: "hint" }, "Waiting for the answer …"));
    try {
      const headers = { Authorization: `Bearer ${key()}`, "Content-Type": "application/json" };
      const got = await fetch(request.path, { method, headers, body: request.body });
      const text = await got.text();
      const took = Math.round(performance.now() - start);
      answer.replaceChildren(h("p", { class: got.ok ? "hint" : "wrong" }, `${got.status} after ${took} ms`), code(readable(text)));
      if (got.status === 401) askKey();
    } catch {
      answer.replaceChildren(h("p", { class: "wrong" }, "The endpoint cannot be reached."));
    } finally {
      send.disabled = false;
    }
  }
  return place;
}

function answers(operation) {
  return Object.entries(operation.responses).map(([status, response]) => {
    const examples = Object.values(response.content?.["application/json"]?.examples ?? {});
    return h("details", {}, h("summary", {}, `${status}: ${response.description}`), ...examples.map((example) => code(example.value)));
  });
}

function operationOf(path, item) {
  const methods = Object.keys(item).sort();
  const operation = item[methods[0]];
  const schema = operation.requestBody?.content["application/json"].schema;
  const whole = schema && h("details", {}, h("summary", {}, "Everything that a request may hold"), code(schema));
  return h(
    "article",
    { id: operation.operationId },
    h("h2", {}, `${methods.join(" or ").toUpperCase()} ${path}`),
    h("p", {}, operation.summary),
    tryIt(methods[0].toUpperCase(), path, operation, operation.operationId),
    whole,
    h("h3", {}, "Answers"),
    ...answers(operation),
  );
}

const followAll = () => curlLines.forEach((follow) => follow());
at("with-key").addEventListener("change", followAll);
at("key-place").addEventListener("submit", (event) => event.preventDefault());
onKey(followAll);
for (const [path, item] of Object.entries(openapi.paths)) {
  const made = operationOf(path, item);
  at("operations").append(made);
  at("contents").append(h("li", {}, h("a", { href: `#${made.id}` }, path.split("/").slice(3).join("/"))));
}
if (at("operations").childElementCount === 0) complain("The API document is empty.");
document.documentElement.dataset.ready = "";
