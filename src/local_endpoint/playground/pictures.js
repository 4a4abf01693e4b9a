// Pictures as files: what a result's base64 is, and what a file that a user gives becomes.

const KINDS = [
  ["iVBOR", "image/png", "png"],
  ["/9j/", "image/jpeg", "jpg"],
  ["UklGR", "image/webp", "webp"],
];
const LARGEST_BYTES = 7_000_000;

/** The bytes of base64 text. */
export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** A result's image: `{blob, suffix}` for base64, `{href, suffix}` for a URL. */
export function resultOf(image) {
  if (/^https?:\/\//.test(image)) return { href: image, suffix: image.match(/\.(png|jpe?g|webp)\b/)?.[1] ?? "png" };
  const bare = image.replace(/^data:[^,]*,/, "");
  const [, type, suffix] = KINDS.find(([head]) => bare.startsWith(head)) ?? [null, "image/png", "png"];
  return { blob: new Blob([bytesOf(bare)], { type }), suffix };
}

/** A file as a data URI, which is how it travels in a job. */
export function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** An image element that has loaded; rejects what is no picture. */
export async function loaded(src) {
  const img = new Image();
  img.src = src;
  try {
    await img.decode();
  } catch {
    throw new Error("That is no picture that this browser can read.");
  }
  return img;
}

/** A user's file as a data URI that fits into a request: a large one is made a smaller JPEG. */
export async function fitting(file) {
  if (!file.type.startsWith("image/")) throw new Error(`${file.name || "This"} is no picture.`);
  const whole = await dataUri(file);
  if (file.size <= LARGEST_BYTES) return whole;
  const img = await loaded(whole);
  const scale = Math.min(1, 2048 / Math.max(img.naturalWidth, img.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(img.naturalWidth * scale);
  canvas.height = Math.round(img.naturalHeight * scale);
  canvas.getContext("2d").drawImage(img, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.92);
}

/** The picture files in what was dropped or pasted. */
export function picturesIn(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}
