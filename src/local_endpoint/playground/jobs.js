// A queue of one's own: jobs sent, followed to their end, and found again after a reload.

import { ask } from "./api.js";
import { sleep } from "./dom.js";
import { Eta } from "./eta.js";
import { key, onKey } from "./key.js";
import { resultOf } from "./pictures.js";
import * as store from "./store.js";

const FINAL = ["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"];
const POLL_MS = 250;
const POLL_AT_MOST_MS = 2000;
const AWAY_PAUSE_MS = 1500;

/** Tells `job` (something about one changed), `pictures` (a job's are there) and `away` (whether nobody answers). */
export class Jobs extends EventTarget {
  #jobs = new Map();
  #away = false;

  get all() {
    return [...this.#jobs.values()];
  }

  get live() {
    return this.all.filter((job) => !job.over);
  }

  /** Send a job. `extras` goes with its pictures, `beside` to the worker alone. Throws what `ask` throws. */
  async send(input, extras = {}, beside = {}) {
    const { id } = await ask("POST", "run", { input: { ...beside, ...input } });
    const job = { id, input, extras, createdAt: Date.now(), status: "IN_QUEUE", eta: new Eta(), over: false };
    await store.put("jobs", { id, input: await store.putAway(input), extras, createdAt: job.createdAt });
    this.#begin(job);
    return job;
  }

  /** Go on with the jobs that an earlier page left. */
  async resume() {
    for (const kept of (await store.all("jobs")).sort((a, b) => a.createdAt - b.createdAt)) {
      if (this.#jobs.has(kept.id)) continue;
      const input = await store.bringBack(kept.input);
      this.#begin({ ...kept, input, status: kept.status ?? "IN_QUEUE", eta: new Eta(), over: Boolean(kept.error) });
    }
  }

  async cancel(job) {
    job.cancelling = true;
    this.#tell(job);
    try {
      await ask("POST", `cancel/${job.id}`);
    } catch (error) {
      job.cancelling = false;
      this.#tell(job);
      throw error;
    }
  }

  /** Forget a job that is over. */
  async dismiss(job) {
    this.#jobs.delete(job.id);
    await store.remove("jobs", job.id);
    this.#tell(job);
  }

  #begin(job) {
    this.#jobs.set(job.id, job);
    this.#tell(job);
    if (!job.over) this.#follow(job);
  }

  #tell(job) {
    this.dispatchEvent(new CustomEvent("job", { detail: job }));
  }

  #setAway(away) {
    if (away === this.#away) return;
    this.#away = away;
    this.dispatchEvent(new CustomEvent("away", { detail: away }));
  }

  async #follow(job) {
    while (!job.over) {
      try {
        await this.#look(job);
        this.#setAway(false);
      } catch (error) {
        if (error.status === 401) await keyChanged();
        else if (error.passing) {
          this.#setAway(true);
          await sleep(AWAY_PAUSE_MS);
        } else {
          const lost = "its result was kept for a while only and is gone, or the endpoint never had it";
          await this.#fail(job, error.status === 404 ? `The endpoint does not know this job: ${lost}.` : error.message);
        }
        continue;
      }
      if (!job.over) await sleep(Math.min(POLL_AT_MOST_MS, POLL_MS * Math.max(1, this.live.length / 3)));
    }
  }

  async #look(job) {
    const status = await ask("GET", `status/${job.id}`);
    job.status = status.status;
    job.delayMs = status.delayTime;
    job.executionMs = status.executionTime;
    if (job.status === "IN_PROGRESS" && status.output?.steps > 0) {
      job.step = status.output.step;
      job.steps = status.output.steps;
      job.preview = status.output.preview ?? job.preview;
      job.eta.note(job.step, Date.now());
    }
    if (!FINAL.includes(job.status)) this.#tell(job);
    else if (job.status === "COMPLETED") await this.#complete(job, status);
    else if (job.status === "CANCELLED") {
      job.over = true;
      await this.dismiss(job);
    } else await this.#fail(job, status.error ?? `The job is ${job.status}.`);
  }

  async #complete(job, status) {
    const items = Array.isArray(status.output) ? status.output : [];
    const input = await store.putAway(job.input);
    const pictures = items.map((item, number) => ({
      ...job.extras,
      ...resultOf(String(item.image)),
      id: `${job.id}_${number}`,
      job: job.id,
      number,
      seed: item.seed,
      also: Object.fromEntries(Object.entries(item).filter(([name]) => !["image", "seed"].includes(name))),
      input,
      createdAt: job.createdAt,
      executionMs: status.executionTime ?? 0,
      delayMs: status.delayTime ?? 0,
    }));
    for (const picture of pictures) await store.put("pictures", picture);
    job.over = true;
    await this.dismiss(job);
    this.dispatchEvent(new CustomEvent("pictures", { detail: { job, pictures } }));
  }

  async #fail(job, error) {
    Object.assign(job, { over: true, error });
    const { id, extras, createdAt, status } = job;
    await store.put("jobs", { id, extras, createdAt, status, error, input: await store.putAway(job.input) });
    this.#tell(job);
  }
}

function keyChanged() {
  const before = key();
  return new Promise((resolve) => {
    onKey(() => key() !== before && resolve());
  });
}
