// What is under way, and what failed, as cards: preview, steps, time left, cancel.

import { button, complain, h, seconds } from "./dom.js";

/** Show `jobs` in `place`; `actions` are `{edit(input), again(input, extras)}`. */
export function showQueue(jobs, place, actions) {
  const cards = new Map();
  jobs.addEventListener("job", ({ detail: job }) => {
    const known = jobs.all.includes(job);
    if (!known) {
      cards.get(job.id)?.place.remove();
      cards.delete(job.id);
    } else {
      if (!cards.has(job.id)) {
        cards.set(job.id, card(job, jobs, actions));
        place.prepend(cards.get(job.id).place);
      }
      cards.get(job.id).update();
    }
    place.hidden = cards.size === 0;
  });
}

function card(job, jobs, actions) {
  const preview = h("img", { alt: "", hidden: true });
  const bar = h("progress", { max: 1, "aria-label": "Steps" });
  const state = h("p", { class: "state" });
  const error = h("p", { class: "wrong" });
  const cancel = button("Cancel", () => jobs.cancel(job).catch((failed) => complain(failed.message)), { class: "quiet" });
  const edit = button("Edit", () => actions.edit(job.input), { class: "quiet", hidden: true });
  const again = button("Draw again", () => retry(), { class: "quiet", hidden: true });
  const dismiss = button("Dismiss", () => jobs.dismiss(job), { class: "quiet", hidden: true });
  const prompt = h("p", { class: "prompt" }, String(job.input?.prompt ?? "(no prompt)"));
  const place = h(
    "li",
    { class: "job", id: `job-${job.id}` },
    h("div", { class: "thumb" }, preview),
    h("div", { class: "about" }, prompt, bar, state, error, h("div", { class: "actions" }, cancel, edit, again, dismiss)),
  );
  let shown = null;

  async function retry() {
    if (await actions.again(job.input, job.extras)) await jobs.dismiss(job);
  }

  function update() {
    place.classList.toggle("failed", job.over);
    for (const one of [edit, again, dismiss]) one.hidden = !job.over;
    cancel.hidden = bar.hidden = job.over;
    cancel.disabled = Boolean(job.cancelling);
    state.textContent = job.over ? "" : inWords(job);
    error.textContent = job.error ?? "";
    if (job.steps) [bar.max, bar.value] = [job.steps, job.step];
    else bar.removeAttribute("value");
    if (job.preview && job.preview !== shown) {
      shown = job.preview;
      preview.src = `data:image/jpeg;base64,${shown}`;
      preview.hidden = false;
    }
  }

  return { place, update };
}

/** How far a job is, for people. */
function inWords(job) {
  if (job.cancelling) return "Cancelling …";
  if (job.status === "IN_QUEUE") return `In the queue for ${seconds(job.delayMs ?? 0)}`;
  if (!job.steps) return "With a worker, before its first step";
  const left = job.eta.left(job.steps, Date.now());
  const time = left === null ? "" : left < 1000 ? ", almost done" : `, about ${seconds(left)} left`;
  return `Step ${job.step} of ${job.steps}${time}`;
}
