// Painting a mask over a picture: brush and eraser, undo, feather; with a mouse, a finger, a pen or the keyboard.
//
// What is painted is white and will be repainted, all else is black. The picture lies under the canvas and is never
// drawn into it, so that one from another site can be used too.

import { button, dialog, h } from "./dom.js";
import { feathered } from "./feather.js";
import { loaded } from "./pictures.js";

const LONGEST = 2048;
const PAINT = "#ff2d78";

/** Have a mask painted; resolves with its data URI, or null when it was left as it was. */
export async function openMaskEditor(picture, before) {
  const img = await loaded(picture);
  const scale = Math.min(1, LONGEST / Math.max(img.naturalWidth, img.naturalHeight));
  const width = Math.round(img.naturalWidth * scale);
  const height = Math.round(img.naturalHeight * scale);
  const canvas = h("canvas", { width, height, tabindex: "0", "aria-label": "Mask: arrows move the brush, space paints" });
  const cursor = h("div", { class: "brush", "aria-hidden": "true" });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  if (before) pen.putImageData(await painted(before, width, height), 0, 0);

  const size = range("Brush", 2, Math.round(Math.max(width, height) / 3), Math.round(Math.max(width, height) / 10));
  const feather = range("Feather", 0, 100, 8);
  const erase = h("input", { type: "checkbox", id: "mask-erase" });
  const undone = [];
  const done = [];
  let spot = { x: width / 2, y: height / 2 };
  let last = null;

  function remember() {
    done.push(pen.getImageData(0, 0, width, height));
    if (done.length > 40) done.shift();
    undone.length = 0;
    follow();
  }

  function step(from, to) {
    if (from.length === 0) return;
    to.push(pen.getImageData(0, 0, width, height));
    pen.putImageData(from.pop(), 0, 0);
    follow();
  }

  function stroke(to) {
    pen.globalCompositeOperation = erase.checked ? "destination-out" : "source-over";
    pen.strokeStyle = PAINT;
    pen.lineCap = pen.lineJoin = "round";
    pen.lineWidth = size.value();
    pen.beginPath();
    pen.moveTo(last?.x ?? to.x, last?.y ?? to.y);
    pen.lineTo(to.x, to.y + 0.01);
    pen.stroke();
    last = to;
  }

  function moveBrush(to) {
    spot = { x: Math.max(0, Math.min(width, to.x)), y: Math.max(0, Math.min(height, to.y)) };
    const shown = canvas.clientWidth / width;
    const across = size.value() * shown;
    Object.assign(cursor.style, {
      width: `${across}px`,
      height: `${across}px`,
      left: `${spot.x * shown - across / 2}px`,
      top: `${spot.y * shown - across / 2}px`,
    });
  }

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: ((event.clientX - box.left) * width) / box.width, y: ((event.clientY - box.top) * height) / box.height };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    remember();
    last = null;
    stroke(place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    moveBrush(place(event));
    if (last && event.buttons) for (const one of event.getCoalescedEvents?.() ?? [event]) stroke(place(one));
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));

  const tools = {
    undo: button("Undo", () => step(done, undone), { class: "quiet" }),
    redo: button("Redo", () => step(undone, done), { class: "quiet" }),
    clear: button("Clear", () => (remember(), pen.clearRect(0, 0, width, height)), { class: "quiet" }),
    invert: button("Invert", () => (remember(), invert()), { class: "quiet" }),
  };
  const follow = () => {
    tools.undo.disabled = done.length === 0;
    tools.redo.disabled = undone.length === 0;
  };

  function invert() {
    pen.globalCompositeOperation = "xor";
    pen.fillStyle = PAINT;
    pen.fillRect(0, 0, width, height);
  }

  const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const onKey = (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
      event.preventDefault();
      return event.shiftKey ? tools.redo.click() : tools.undo.click();
    }
    if (event.key === "[") size.set(size.value() * 0.8);
    else if (event.key === "]") size.set(size.value() * 1.25);
    else if (event.target !== canvas) return;
    else if (keys[event.key]) {
      event.preventDefault();
      const far = size.value() / 2;
      const from = spot;
      moveBrush({ x: spot.x + keys[event.key][0] * far, y: spot.y + keys[event.key][1] * far });
      if (event.shiftKey) ((last = from), stroke(spot), (last = null));
      return;
    } else if (event.key === " ") {
      event.preventDefault();
      remember();
      stroke(spot);
      last = null;
    } else return;
    moveBrush(spot);
  };

  return new Promise((resolve) => {
    let result = null;
    const use = button("Use this mask", () => ((result = exported()), made.close()), { class: "primary" });
    const eraser = h("label", { for: "mask-erase", class: "inline" }, erase, " Erase");
    const made = dialog(
      "Paint what shall change",
      h("div", { class: "mask-area" }, h("img", { src: picture, alt: "" }), canvas, cursor),
      h("div", { class: "mask-tools" }, size.place, feather.place, eraser, ...Object.values(tools), use),
      h("p", { class: "hint" }, "[ and ] change the brush, Ctrl+Z undoes. By keyboard: arrows move it, space paints, Shift+arrows draw."),
    );
    made.classList.add("mask-editor");
    made.addEventListener("keydown", onKey);
    made.addEventListener("close", () => resolve(result));
    follow();
    requestAnimationFrame(() => moveBrush(spot));
    canvas.focus();
  });

  function exported() {
    const { data } = pen.getImageData(0, 0, width, height);
    const alpha = new Float32Array(width * height);
    for (let i = 0; i < alpha.length; i++) alpha[i] = data[4 * i + 3];
    const soft = feathered(alpha, width, height, feather.value());
    const out = new ImageData(width, height);
    for (let i = 0; i < soft.length; i++) {
      out.data.fill(soft[i], 4 * i, 4 * i + 3);
      out.data[4 * i + 3] = 255;
    }
    const file = h("canvas", { width, height });
    file.getContext("2d").putImageData(out, 0, 0);
    return file.toDataURL("image/png");
  }
}

/** A mask that was given, as paint. */
async function painted(source, width, height) {
  const canvas = h("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(await loaded(source), 0, 0, width, height);
  const image = context.getImageData(0, 0, width, height);
  const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(PAINT.slice(at, at + 2), 16));
  for (let i = 0; i < image.data.length; i += 4) {
    const white = image.data[i];
    image.data.set([red, green, blue, white], i);
  }
  return image;
}

function range(label, min, max, value) {
  const id = `mask-${label.toLowerCase()}`;
  const input = h("input", { id, type: "range", min, max, value });
  return {
    place: h("label", { for: id, class: "inline" }, `${label} `, input),
    value: () => Number(input.value),
    set: (to) => (input.value = Math.round(to)),
  };
}
