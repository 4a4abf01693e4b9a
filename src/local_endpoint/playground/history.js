// All pictures that this browser keeps, newest first; others of this page are told when some come or go.

import * as store from "./store.js";

/** Tells `changed`. */
export class History extends EventTarget {
  #pictures = [];
  #hrefs = new Map();

  get all() {
    return this.#pictures;
  }

  async load() {
    this.#pictures = (await store.all("pictures")).sort(newestFirst);
    this.dispatchEvent(new Event("changed"));
  }

  /** Pictures that have just been kept. */
  add(pictures) {
    const ids = new Set(pictures.map((picture) => picture.id));
    this.#pictures = [...pictures, ...this.#pictures.filter((picture) => !ids.has(picture.id))].sort(newestFirst);
    this.dispatchEvent(new Event("changed"));
  }

  async delete(pictures) {
    for (const picture of pictures) {
      await store.remove("pictures", picture.id);
      if (this.#hrefs.has(picture.id)) URL.revokeObjectURL(this.#hrefs.get(picture.id));
      this.#hrefs.delete(picture.id);
    }
    const gone = new Set(pictures);
    this.#pictures = this.#pictures.filter((picture) => !gone.has(picture));
    this.dispatchEvent(new Event("changed"));
    await store.tidy();
  }

  /** An address for an `img`. */
  href(picture) {
    if (!picture.blob) return picture.href;
    if (!this.#hrefs.has(picture.id)) this.#hrefs.set(picture.id, URL.createObjectURL(picture.blob));
    return this.#hrefs.get(picture.id);
  }

  /** Those in whose parameters every word of a text is found. */
  matching(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length === 0) return this.#pictures;
    return this.#pictures.filter((picture) => {
      picture.searched ??= searchable(picture);
      const text = `${picture.searched} ${dayInWords(picture.createdAt)}`;
      return words.every((word) => text.includes(word));
    });
  }
}

function newestFirst(a, b) {
  return b.createdAt - a.createdAt || a.number - b.number;
}

function searchable(picture) {
  const date = new Date(picture.createdAt);
  const day = `${date.toLocaleDateString()} ${date.toLocaleDateString("en", { dateStyle: "full" })}`;
  const input = JSON.stringify(picture.input, (_, value) => (typeof value === "bigint" ? String(value) : value));
  return `${input} ${picture.seed} ${picture.parameters ?? ""} ${day} ${picture.id}`.toLowerCase();
}

/** `today`, `yesterday` or nothing. */
function dayInWords(ms) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (ms >= midnight) return "today";
  return ms >= new Date(midnight - 1).setHours(0, 0, 0, 0) ? "yesterday" : "";
}
