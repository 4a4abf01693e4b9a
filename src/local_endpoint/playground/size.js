// Tools for width and height: shapes to pick, turned round, and a lock that keeps the shape.

import { button, h, icon } from "./dom.js";

const SHAPES = [
  ["1:1", 1, 1],
  ["4:3", 4, 3],
  ["3:2", 3, 2],
  ["16:9", 16, 9],
];
const SIZES = [1, 1.5, 2];
const MULTIPLE = 8;

/** Sides of a shape with the area of a square of `side`, as multiples of 8. */
export function sidesOf(side, across, down) {
  const fit = (length) => Math.max(64, Math.round(length / MULTIPLE) * MULTIPLE);
  return [fit(side * Math.sqrt(across / down)), fit(side * Math.sqrt(down / across))];
}

/** Put the tools under the two fields; `mostPixels` tells the largest width × height. Returns what judges them anew. */
export function sizeTools(width, height, mostPixels) {
  const inputs = [width, height].map((one) => one.place.querySelector("input"));
  const usual = () => [width.property.default ?? 512, height.property.default ?? 512];
  const usualSide = () => Math.sqrt(usual()[0] * usual()[1]);
  const sides = () => inputs.map((input, number) => Number(input.value) || usual()[number]);
  let ratio = null;
  let times = 1;

  function set(across, down) {
    width.write(across);
    height.write(down);
    inputs[0].dispatchEvent(new Event("input", { bubbles: true }));
  }

  const shapes = SHAPES.map(([name, across, down]) =>
    button(name, () => reshape(across, down), { class: "quiet chip", "aria-label": `Shape ${name}` }),
  );
  const scales = SIZES.map((one) =>
    button(`×${one}`, () => rescale(one), { class: "quiet chip", "aria-label": `${one} times the model's own size` }),
  );
  const turn = button(icon("turn"), () => turnRound(), { class: "quiet chip", "aria-label": "Turn round", title: "Turn round" });
  const lock = button(icon("lock"), () => toggle(), {
    class: "quiet chip",
    "aria-pressed": "false",
    "aria-label": "Keep the shape",
    title: "Keep the shape",
  });

  function reshape(across, down) {
    if (ratio) ratio = across / down;
    set(...sidesOf(usualSide() * times, across, down));
  }

  function rescale(to) {
    const [across, down] = sides();
    times = to;
    set(...sidesOf(usualSide() * times, across, down));
  }

  function judge() {
    const [across, down] = sides();
    const most = Math.floor(Math.sqrt(mostPixels()));
    const tooLarge = across * down > mostPixels();
    scales.forEach((scale, number) => (scale.hidden = (usualSide() * SIZES[number]) ** 2 > mostPixels()));
    inputs[0].setCustomValidity(tooLarge ? `${across} × ${down} is more than is drawn here: ${most} × ${most} pixels in all.` : "");
  }

  function turnRound() {
    const [across, down] = sides();
    if (ratio) ratio = 1 / ratio;
    set(down, across);
  }

  function toggle() {
    const [across, down] = sides();
    ratio = ratio ? null : across / down;
    lock.setAttribute("aria-pressed", String(Boolean(ratio)));
  }

  function follow(number) {
    if (!ratio || inputs[number].value === "") return;
    const other = number === 0 ? Number(inputs[0].value) / ratio : Number(inputs[1].value) * ratio;
    const whole = Math.max(64, Math.round(other / MULTIPLE) * MULTIPLE);
    (number === 0 ? height : width).write(whole);
  }

  inputs.forEach((input, number) => {
    input.addEventListener("input", judge);
    input.addEventListener("change", () => {
      follow(number);
      judge();
    });
  });
  const group = h("div", { class: "chips", role: "group", "aria-label": "Sizes" }, ...shapes, ...scales, turn, lock);
  height.place.after(group);
  judge();
  return judge;
}
