// One job as the endpoint has it: its input, its pictures or its error, as JSON where it is something else.

import { ask } from "./api.js";
import { complain, dialog, h, seconds } from "./dom.js";
import { stringify } from "./json.js";
import { resultOf } from "./pictures.js";

const LONGEST = 200;

export async function showJob(id) {
  let status;
  try {
    status = await ask("GET", `status/${id}`);
  } catch (error) {
    return complain(error.message);
  }
  const items = Array.isArray(status.output) ? status.output : [];
  const hrefs = [];
  const pictures = items
    .filter((item) => typeof item?.image === "string")
    .map((item) => {
      const { blob, href } = resultOf(item.image);
      if (blob) hrefs.push(URL.createObjectURL(blob));
      return h("img", { src: blob ? hrefs.at(-1) : href, alt: `Result, seed ${item.seed}` });
    });
  const facts = [
    ["State", status.status],
    ["In the queue", seconds(status.delayTime)],
    ["With a worker", status.executionTime === undefined ? "–" : seconds(status.executionTime)],
    ["Worker", status.workerId ?? "–"],
  ];
  const made = dialog(
    id,
    h("dl", {}, facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    status.error ? h("p", { class: "wrong" }, status.error) : null,
    h("div", { class: "pictures" }, pictures),
    status.input ? h("div", {}, h("h3", {}, "Input"), json(status.input)) : h("p", { class: "hint" }, "The input is shown when a worker has taken the job, unless it is very long."),
    pictures.length || status.output === undefined ? null : h("div", {}, h("h3", {}, "Output"), json(status.output)),
  );
  made.addEventListener("close", () => hrefs.forEach((href) => URL.revokeObjectURL(href)));
}

/** A value as JSON, with long texts cut. */
function json(value) {
  const cut = JSON.parse(stringify(value), (_, item) =>
    typeof item === "string" && item.length > LONGEST ? `${item.slice(0, LONGEST)}… (${item.length} characters)` : item,
  );
  return h("pre", { tabindex: "0" }, h("code", {}, JSON.stringify(cut, null, 2)));
}
