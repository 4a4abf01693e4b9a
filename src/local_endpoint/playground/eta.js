// How long a job will still take, from the steps that it has taken so far.

const REMEMBERED = 30;

export class Eta {
  #seen = [];

  /** Note how many steps are done at a time in ms. */
  note(step, ms) {
    const last = this.#seen.at(-1);
    if (last && step < last.step) this.#seen = []; // begun anew, by another worker
    if (this.#seen.at(-1)?.step === step) return;
    this.#seen.push({ step, ms });
    if (this.#seen.length > REMEMBERED) this.#seen.shift();
  }

  /** Milliseconds left at a time in ms, or null while that cannot be told. */
  left(steps, ms) {
    const [first, last] = [this.#seen[0], this.#seen.at(-1)];
    if (!first || last.step === first.step) return null;
    const each = (last.ms - first.ms) / (last.step - first.step);
    return Math.max(0, (steps - last.step) * each - (ms - last.ms));
  }
}
