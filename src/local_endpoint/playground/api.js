// Asking the endpoint, with the kept key and in its own words when it refuses.

import { sleep } from "./dom.js";
import { parse, stringify } from "./json.js";
import { key } from "./key.js";

export const config = await (await fetch("/playground/config.json")).json();
export const base = `${location.origin}/v2`;
export const url = `${base}/${config.endpoint_id}`;

/** What the endpoint said instead of an answer; `status` is 0 where it said nothing. */
export class EndpointError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }

  /** Whether to ask again will do: it is away, or its disk or its proxy is. */
  get passing() {
    return this.status === 0 || this.status >= 502;
  }
}

async function answerOf(method, address, body) {
  try {
    return await fetch(address, {
      method,
      headers: { Authorization: `Bearer ${key()}`, "Content-Type": "application/json" },
      body: body === undefined ? undefined : stringify(body),
      cache: "no-store",
    });
  } catch {
    throw new EndpointError("The endpoint cannot be reached. Is it running?", 0);
  }
}

/** One answer; throws an `EndpointError`. A busy endpoint is asked again when it says so. */
export async function ask(method, path, body) {
  const address = path.startsWith("/") ? path : `${url}/${path}`;
  for (;;) {
    const answer = await answerOf(method, address, body);
    let text;
    try {
      text = await answer.text();
    } catch {
      throw new EndpointError("The connection broke off.", 0);
    }
    if (answer.ok) return parse(text);
    if (answer.status === 429) {
      await sleep(1000 * Number(answer.headers.get("Retry-After") ?? 1));
      continue;
    }
    let said = `the endpoint answered ${answer.status}`;
    try {
      said = JSON.parse(text).error ?? said;
    } catch {
      // Not the endpoint's own words, then.
    }
    throw new EndpointError(said, answer.status);
  }
}
