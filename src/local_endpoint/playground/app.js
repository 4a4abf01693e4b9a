// The playground: the form's draws go to the queue, the queue's pictures to the history.

import { base, config, url } from "./api.js";
import { at, complain, say } from "./dom.js";
import { pickEmbeddings } from "./embeddings.js";
import { buildForm } from "./form.js";
import { showGallery } from "./gallery.js";
import { openGridForm } from "./grid.js";
import { FILLED, openGiven, watchForPictures } from "./given.js";
import { showHelp } from "./help.js";
import { showHints } from "./hint.js";
import { History } from "./history.js";
import { tellInvalid } from "./invalid.js";
import { Jobs } from "./jobs.js";
import { showKey } from "./key_view.js";
import { parametersIn } from "./parameters.js";
import { dataUri } from "./pictures.js";
import { showQueue } from "./queue.js";
import { anySeed } from "./seed.js";
import { snippets } from "./snippets.js";
import { addOnsOf } from "./schema.js";
import * as store from "./store.js";
import { showTokens } from "./tokens.js";

const form = buildForm(config.input_schema, at("main-fields"), at("more-fields"));
form.setDefault("previews", true); // what this page asks for, where nobody says otherwise
const jobs = new Jobs();
const history = new History();
const askKey = showKey();

/** Send one job; says what is wrong beside the button. Returns whether it was sent. */
async function draw(input, extras = {}) {
  say("Sending …");
  try {
    const job = await jobs.send(input, extras, form.has("previews") ? { previews: true } : {});
    say(jobs.live.length > 1 ? `Sent: ${jobs.live.length} jobs are under way.` : "Sent.");
    document.getElementById(`job-${job.id}`)?.scrollIntoView({ block: "nearest" });
    return true;
  } catch (error) {
    complain(error.message);
    if (error.status === 401) askKey();
    return false;
  }
}

const upscalers = addOnsOf("upscale", form.schema);
const actions = {
  schema: form.schema,
  canStart: form.has("init_image"),
  edit: (input) => write(input, "It is in the form."),
  again: (input, extras) => draw(input, extras),
  vary: async (picture) => draw({ ...(await inputOf(picture)), seed: anySeed() }),
  reuse: async (picture) => {
    write({ ...(await inputOf(picture)), seed: picture.seed }, FILLED);
  },
  start: async (picture) => {
    const start = { ...form.read(), init_image: await startOf(picture), mask: undefined };
    write(start, "It is the picture to start from.", "init_image");
  },
  enlarge: upscalers.length
    ? async (picture) => {
        const init_image = await startOf(picture);
        await draw({ prompt: picture.input.prompt, init_image, num_inference_steps: 0, upscale: { model: upscalers[0] } });
      }
    : null,
};

async function startOf(picture) {
  return picture.blob ? dataUri(picture.blob) : picture.href;
}

async function inputOf(picture) {
  const { num_outputs: _, ...input } = await store.bringBack(picture.input);
  return input;
}

/** Put an input into the form and say so, with a field of it in sight. */
function write(input, words = "", field = "prompt") {
  form.write(input);
  at("form").dispatchEvent(new Event("written"));
  keepDraft();
  say(words);
  form.reveal(field);
}

let drafting = 0;
function keepDraft() {
  clearTimeout(drafting);
  drafting = setTimeout(async () => store.put("drafts", { id: "form", input: await store.putAway(form.read()) }), 100);
}

at("form").addEventListener("input", keepDraft);
at("form").addEventListener("change", keepDraft);
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  draw(form.read());
});
addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  at("form").requestSubmit();
});
at("grid").addEventListener("click", () => openGridForm(form, draw));
at("info").addEventListener("click", () => at("info-file").click());
at("info-file").addEventListener("change", async () => {
  const [file] = at("info-file").files;
  at("info-file").value = "";
  if (file) await openGiven(file, form, write).catch((error) => complain(error.message));
});
at("clear").addEventListener("click", () => write({}));

for (const one of document.querySelectorAll("[data-copy]")) {
  one.addEventListener("click", async () => {
    const request = { base, url, endpointId: config.endpoint_id, input: form.read() };
    try {
      await navigator.clipboard.writeText(snippets[one.dataset.copy](request));
      say(`Copied as ${one.textContent}; the key is read from RUNPOD_API_KEY.`);
    } catch {
      complain("The browser does not let this page copy; pages need https or 127.0.0.1 for it.");
    }
  });
}

jobs.addEventListener("away", ({ detail: away }) => {
  if (away) complain("The endpoint is away. Your jobs are asked for again until it is back.");
  else say("The endpoint is back.");
});
jobs.addEventListener("pictures", async ({ detail: { job, pictures } }) => {
  for (const picture of pictures.filter((one) => one.blob)) {
    picture.parameters = await parametersIn(new Uint8Array(await picture.blob.arrayBuffer()));
    await store.put("pictures", picture);
  }
  history.add(pictures);
  const took = ((pictures[0]?.executionMs ?? 0) / 1000).toFixed(1);
  say(`Done: ${pictures.length} ${pictures.length === 1 ? "picture" : "pictures"} in ${took} s.`);
  if (jobs.live.length === 0) await comeIntoSight(document.getElementById(`picture-${job.id}_0`));
});
async function comeIntoSight(tile) {
  const img = tile?.querySelector("img");
  if (img) img.loading = "eager";
  await img?.decode().catch(() => {}); // it has no height before
  tile?.scrollIntoView({ block: "nearest" });
}

jobs.addEventListener("job", ({ detail: job }) => {
  if (job.status === "CANCELLED" && job.over) say("Cancelled.");
  if (!job.error || job.told) return;
  job.told = true;
  complain(job.error);
  document.getElementById(`job-${job.id}`)?.scrollIntoView({ block: "nearest" });
});

showHelp(at("form"));
tellInvalid(at("form"));
pickEmbeddings(form);
if (config.explains) {
  showTokens(form, at("form"));
  showHints(form, at("form"));
}
showQueue(jobs, at("queue"), actions);
showGallery(history, actions);
watchForPictures(form, write);
at("endpoint").textContent = url;
const draft = await store.get("drafts", "form");
if (draft) {
  form.write(await store.bringBack(draft.input));
  at("form").dispatchEvent(new Event("written"));
}
await history.load();
await jobs.resume();
// Where it brings no keyboard up over the page.
if (matchMedia("(min-width: 55rem) and (pointer: fine)").matches) form.field("prompt")?.place.querySelector("textarea").focus();
document.documentElement.dataset.ready = "";
