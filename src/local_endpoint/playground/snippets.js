// The request of the form as code. The key is never in it: it comes from the environment.

import { stringify } from "./json.js";

function curl({ url, input }) {
  const body = stringify({ input }, 2).replaceAll("'", `'\\''`);
  return [
    `curl -X POST ${url}/runsync \\`,
    `    -H 'Content-Type: application/json' \\`,
    `    -H "Authorization: Bearer $RUNPOD_API_KEY" \\`,
    `    -d '${body}'`,
    "",
  ].join("\n");
}

/** A value as Python writes it. */
function pythonValue(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return stringify(value);
  const inner = `${indent}    `;
  const lines = Array.isArray(value)
    ? value.map((item) => `${inner}${pythonValue(item, inner)},\n`)
    : Object.entries(value).map(([key, item]) => `${inner}${JSON.stringify(key)}: ${pythonValue(item, inner)},\n`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return lines.length ? `${open}\n${lines.join("")}${indent}${close}` : `${open}${close}`;
}

function python({ base, endpointId, input }) {
  return `import os

import runpod

runpod.endpoint_url_base = ${JSON.stringify(base)}
endpoint = runpod.Endpoint(${JSON.stringify(endpointId)}, api_key=os.environ["RUNPOD_API_KEY"])
output = endpoint.run_sync({"input": ${pythonValue(input)}})
print(output)
`;
}

function javascript({ base, endpointId, input }) {
  return `import runpodSdk from "runpod-sdk";

const runpod = runpodSdk(process.env.RUNPOD_API_KEY, { baseUrl: ${JSON.stringify(base)} });
const endpoint = runpod.endpoint(${JSON.stringify(endpointId)});
const result = await endpoint.runSync({ input: ${stringify(input, 2)} });
console.log(result.output);
`;
}

/** `request` is `{base, url, endpointId, input}`; `language` one of the keys here. */
export const snippets = { curl, python, javascript };
