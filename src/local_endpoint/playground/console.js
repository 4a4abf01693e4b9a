// The console: what the endpoint is doing, asked again every second while somebody looks.

import { ask, config, url } from "./api.js";
import { at, button, complain, h, say, seconds, sleep } from "./dom.js";
import { showJob } from "./job_view.js";
import { onKey } from "./key.js";
import { showKey } from "./key_view.js";
import { fillTable } from "./table.js";

const PAUSE_MS = 1000;
const STATES = ["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"];
const askKey = showKey();
let shown = null;

for (const state of STATES) at("state").append(h("option", { value: state }, state));
at("state").addEventListener("change", () => shown && show(shown));
at("endpoint").textContent = url;
at("purge").addEventListener("click", () => confirm("Cancel every job that waits?") && act("purge-queue"));
at("key-place").addEventListener("submit", (event) => event.preventDefault());

/** Have the endpoint do something, and look at once. */
async function act(path) {
  try {
    const answer = await ask("POST", path);
    say(answer.removed === undefined ? `${answer.id}: ${answer.status}` : `${answer.removed} cancelled.`);
    await look();
  } catch (error) {
    complain(error.message);
  }
}

async function look() {
  shown = await ask("GET", "/playground/console.json");
  show(shown);
}

function show({ health, times, workers, jobs, webhooks }) {
  showFigures(health);
  fillTable(at("times"), ["", "p50", "p90", "p99", "most", "of"], [
    timesRow("In the queue", times.delay),
    timesRow("With a worker", times.execution),
  ]);
  fillTable(
    at("workers"),
    ["Worker", "State", "Jobs", "Busy in the last minute", "Done", "GPU", "Heard of"],
    workers.map((one) => ({
      key: one.id,
      cells: [one.id, one.state, one.jobs, share(one.busy), one.done, one.gpu ?? "–", `${seconds(one.heardMs)} ago`],
    })),
    "No worker is here: nothing is drawn until one comes.",
  );
  const wanted = at("state").value;
  fillTable(
    at("jobs"),
    ["Job", "State", "Prompt", "In the queue", "With a worker", "Worker", "Came", ""],
    jobs.filter((one) => !wanted || one.status === wanted).map(jobRow),
    "No job has come in the time that results are kept.",
  );
  fillTable(
    at("webhooks"),
    ["Job", "To", "Answer", "Try", "When", "Next"],
    webhooks.map((one) => ({
      key: `${one.job} ${one.tries}`,
      cells: [one.job, one.url, one.answer, one.tries, time(one.atMs), one.nextMs ? time(one.nextMs) : "–"],
    })),
    "None was sent since the endpoint was started.",
  );
}

function showFigures({ jobs, workers }) {
  const figures = [
    ["waiting", jobs.inQueue],
    ["under way", jobs.inProgress],
    ["completed", jobs.completed],
    ["failed", jobs.failed],
    ["tried again", jobs.retried],
    ["workers ready", workers.ready],
    ["workers busy", workers.running],
  ];
  at("figures").replaceChildren(...figures.map(([name, count]) => h("li", {}, h("strong", {}, String(count)), ` ${name}`)));
}

function timesRow(name, times) {
  const cell = (ms) => (ms === null ? "–" : seconds(ms));
  return { key: name, cells: [name, cell(times.p50), cell(times.p90), cell(times.p99), cell(times.most), times.count] };
}

function jobRow(job) {
  const live = STATES.indexOf(job.status) < 2;
  const steps = job.progress?.steps ? ` ${job.progress.step}/${job.progress.steps}` : "";
  const short = job.id.replace(/^(sync-)?([0-9a-f]{8})-.*/, "$1$2");
  const controls = [
    live && button("Cancel", () => act(`cancel/${job.id}`), { class: "quiet", "aria-label": `Cancel ${short}` }),
    ["FAILED", "TIMED_OUT"].includes(job.status) &&
      button("Retry", () => act(`retry/${job.id}`), { class: "quiet", "aria-label": `Retry ${short}` }),
  ];
  const open = button(short, () => showJob(job.id), { class: "link", "aria-label": `Open ${short}`, title: job.id });
  const state = h("span", { class: `state ${job.status.toLowerCase()}` }, job.status + steps);
  const prompt = h("span", { class: "prompt", title: job.error ?? job.prompt }, job.error ?? job.prompt ?? "–");
  const execution = job.executionTime ?? (job.status === "IN_PROGRESS" ? job.runningMs : null);
  return {
    key: job.id,
    same: [job.status, steps, seconds(job.delayTime), execution && seconds(execution)].join(),
    cells: [open, state, prompt, seconds(job.delayTime), execution === null || execution === undefined ? "–" : seconds(execution), job.workerId ?? "–", time(job.createdAt), controls],
  };
}

const share = (part) => `${Math.round(100 * part)} %`;
const time = (ms) => new Date(ms).toLocaleTimeString();

async function run() {
  for (;;) {
    try {
      if (!document.hidden) await look();
      if (at("error").textContent.startsWith("The endpoint cannot")) say("The endpoint is back.");
    } catch (error) {
      complain(error.message);
      if (error.status === 401) {
        askKey();
        await new Promise((resolve) => onKey(resolve));
        at("error").textContent = "";
      }
    }
    document.documentElement.dataset.ready = "";
    await sleep(PAUSE_MS);
  }
}

document.title = `Console, ${config.endpoint_id}`;
run();
