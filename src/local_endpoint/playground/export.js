// Pictures out of the browser: as single files, or as a zip with all parameters beside them.

import { h } from "./dom.js";
import { stringify } from "./json.js";
import { zip } from "./zip.js";

/** What a picture's file is called. */
export function fileName(picture) {
  return `${picture.id}.${picture.suffix}`;
}

/** Let the browser save a blob. */
export function save(blob, name) {
  const href = URL.createObjectURL(blob);
  h("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

/** Save pictures as one zip. Those that lie in a bucket are in its list with their addresses. */
export async function exportPictures(pictures) {
  const files = [];
  for (const picture of pictures.filter((one) => one.blob)) {
    const bytes = new Uint8Array(await picture.blob.arrayBuffer());
    files.push({ name: fileName(picture), bytes, date: new Date(picture.createdAt) });
  }
  const list = pictures.map((picture) => ({
    file: picture.blob ? fileName(picture) : undefined,
    url: picture.href,
    drawn: new Date(picture.createdAt).toISOString(),
    seed: picture.seed,
    input: picture.input,
    parameters: picture.parameters,
    ...picture.also,
  }));
  const bytes = new TextEncoder().encode(stringify(list, 2));
  files.push({ name: "pictures.json", bytes, date: new Date() });
  save(zip(files), `pictures-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.zip`);
}
