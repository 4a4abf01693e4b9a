// How many tokens the prompts have, as the worker's own code counts them, and where their chunks end.

import { ask } from "./api.js";
import { h } from "./dom.js";

const PAUSE_MS = 250;
const COUNTED = ["prompt", "negative_prompt"];
const LONGEST = 10_000; // pictures and the like say nothing of prompts

/** Put a counter beside each prompt of a form. */
export function showTokens(form, place) {
  const counters = new Map();
  for (const name of COUNTED.filter((one) => form.has(one))) {
    const counter = h("span", { class: "tokens", role: "status", "aria-label": `Tokens: ${form.label(name)}` });
    const ends = h("p", { class: "hint ends" });
    form.field(name).place.querySelector(".label-row label").after(counter);
    form.field(name).place.querySelector("textarea").after(ends);
    counters.set(name, { counter, ends });
  }
  let waiting = 0;
  let asked = "";

  async function count() {
    const input = Object.fromEntries(Object.entries(form.read()).filter(([, value]) => typeof value !== "object" && String(value).length < LONGEST));
    delete input.init_image;
    delete input.mask;
    // To count a negative prompt alone there has to be something to draw.
    const line = { ...input, prompt: input.prompt?.trim() ? input.prompt : "-" };
    const text = JSON.stringify(line, (_, value) => (typeof value === "bigint" ? 0 : value));
    if (text === asked) return;
    asked = text;
    try {
      const answer = await ask("POST", "/playground/explain", { prompts: JSON.parse(text) });
      if (text === asked) show(answer, Boolean(input.prompt?.trim()));
    } catch {
      asked = "";
      for (const { counter, ends } of counters.values()) counter.textContent = ends.textContent = "";
    }
  }

  function show(answer, hasPrompt) {
    for (const [name, { counter, ends }] of counters) {
      const told = answer[name];
      const mine = answer.error?.split("\n").find((line) => line.startsWith(`${name}:`));
      counter.classList.toggle("wrong", Boolean(mine));
      if (!told || (name === "prompt" && !hasPrompt)) {
        counter.textContent = mine ? "!" : "";
        ends.textContent = mine ?? "";
        continue;
      }
      const chunks = told.chunks.length;
      counter.textContent = told.tokens ? `${told.tokens} / ${Math.max(1, chunks) * told.room}` : "";
      counter.title = `${told.tokens} tokens; ${told.room} are read together`;
      ends.textContent = told.chunks
        .slice(0, -1)
        .map((chunk, number) => `Part ${number + 1} ends after “… ${chunk.end}”`)
        .join("; ");
    }
  }

  const later = () => {
    clearTimeout(waiting);
    waiting = setTimeout(count, PAUSE_MS);
  };
  for (const event of ["input", "change", "written"]) place.addEventListener(event, later);
  later();
}
