// What the browser keeps: pictures with all that made them, jobs under way, the form's draft. IndexedDB; where a
// browser has none, memory.
//
// Pictures that came with a job (data URIs) are kept once, in `files`, whatever number of jobs share them; inputs
// have `{$file: id}` in their place.

import { config } from "./api.js";

const STORES = { pictures: "id", jobs: "id", files: "id", drafts: "id" };
const db = await open().catch(() => null);
const memory = Object.fromEntries(Object.keys(STORES).map((name) => [name, new Map()]));

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(`playground ${config.endpoint_id}`, 1);
    request.onupgradeneeded = () => {
      for (const [name, keyPath] of Object.entries(STORES)) request.result.createObjectStore(name, { keyPath });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("blocked"));
  });
}

function ask(name, mode, operate) {
  return new Promise((resolve, reject) => {
    const transaction = db.transaction(name, mode);
    const request = operate(transaction.objectStore(name));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}

export async function put(name, value) {
  if (db) await ask(name, "readwrite", (store) => store.put(value));
  else memory[name].set(value.id, value);
}

export async function get(name, id) {
  return db ? ask(name, "readonly", (store) => store.get(id)) : memory[name].get(id);
}

export async function all(name) {
  return db ? ask(name, "readonly", (store) => store.getAll()) : [...memory[name].values()];
}

export async function remove(name, id) {
  if (db) await ask(name, "readwrite", (store) => store.delete(id));
  else memory[name].delete(id);
}

/** A value in which every data URI has been put away. */
export async function putAway(value) {
  if (typeof value === "string" && value.startsWith("data:")) {
    const id = fingerprint(value);
    await put("files", { id, data: value });
    return { $file: id };
  }
  if (Array.isArray(value)) return Promise.all(value.map(putAway));
  if (value === null || typeof value !== "object") return value;
  const entries = await Promise.all(Object.entries(value).map(async ([key, item]) => [key, await putAway(item)]));
  return Object.fromEntries(entries);
}

/** The same value with its data URIs back; one that is lost is left out. */
export async function bringBack(value) {
  if (Array.isArray(value)) return (await Promise.all(value.map(bringBack))).filter((item) => item !== undefined);
  if (value === null || typeof value !== "object") return value;
  if (typeof value.$file === "string") return (await get("files", value.$file))?.data;
  const entries = await Promise.all(Object.entries(value).map(async ([key, item]) => [key, await bringBack(item)]));
  return Object.fromEntries(entries.filter(([, item]) => item !== undefined));
}

/** Forget the files that nothing refers to any more. */
export async function tidy() {
  const text = JSON.stringify(
    [await all("pictures"), await all("jobs"), await all("drafts")].flat().map((item) => item.input),
    (_, item) => (typeof item === "bigint" ? String(item) : item),
  );
  for (const { id } of await all("files")) if (!text.includes(id)) await remove("files", id);
}

/** 106 bits of a text, as cyrb53 counts twice; not for secrets. */
function fingerprint(text) {
  return `file-${cyrb53(text, 1)}-${cyrb53(text, 2)}-${text.length}`;
}

function cyrb53(text, seed) {
  let [a, b] = [0xdeadbeef ^ seed, 0x41c6ce57 ^ seed];
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    a = Math.imul(a ^ code, 2654435761);
    b = Math.imul(b ^ code, 1597334677);
  }
  a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
  b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
  return (4294967296 * (2097151 & b) + (a >>> 0)).toString(36);
}
