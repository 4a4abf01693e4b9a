// Making elements, without a framework.

/** An element with attributes (functions become listeners, null and false are left out) and children. */
export function h(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key.replace(/^on/, ""), value);
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** A button that does not send its form. */
export function button(text, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, text);
}

const ICONS = {
  dice: "M4 4h16v16H4zM8.5 8.5h.01M15.5 8.5h.01M12 12h.01M8.5 15.5h.01M15.5 15.5h.01",
  renew: "M4 12a8 8 0 0 1 13.7-5.6L20 8M20 4v4h-4M20 12a8 8 0 0 1-13.7 5.6L4 16M4 20v-4h4",
  lock: "M6 11h12v9H6zM9 11V8a3 3 0 0 1 6 0v3",
  turn: "M4 8h14M14 4l4 4-4 4M20 16H6M10 12l-4 4 4 4",
};

/** A small drawing; what it means is said by the button's name. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", "aria-hidden": "true", class: "icon" })) svg.setAttribute(key, value);
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

export const at = (id) => document.getElementById(id);

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Text in which `code` stands in backticks, as nodes. */
export function prose(text) {
  return String(text)
    .split("`")
    .map((part, number) => (number % 2 ? h("code", {}, part) : part));
}

/** Scroll a field to the middle: of the form where it has a scroll bar of its own, else of the window. */
export function toMiddle(place) {
  const scroller = place?.closest(".fields-scroll");
  if (!scroller) return;
  if (getComputedStyle(scroller).overflowY === "visible") return place.scrollIntoView({ block: "center" });
  const [outer, inner] = [scroller.getBoundingClientRect(), place.getBoundingClientRect()];
  scroller.scrollTop += inner.top - outer.top - Math.max(0, (outer.height - inner.height) / 2);
}

/** A dialog that closes with Escape, its button or a click beside it, and leaves nothing behind. */
export function dialog(title, ...children) {
  const id = `dialog-${Math.random().toString(36).slice(2)}`;
  const close = button("Close", () => made.close(), { class: "quiet close" });
  const head = h("div", { class: "dialog-head" }, h("h2", { id }, title), close);
  const made = h("dialog", { "aria-labelledby": id }, head, ...children);
  made.addEventListener("click", (event) => event.target === made && made.close());
  made.addEventListener("close", () => made.remove());
  document.body.append(made);
  made.showModal();
  return made;
}

/** `40 ms`, `1.2 s`, `3 min 5 s`. */
export function seconds(ms) {
  if (ms < 995) return `${Math.round(ms)} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  const whole = Math.round(ms / 1000);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

let saying = 0;
/** Say something to everyone: shown beside the button, and read out. */
export function say(text) {
  at("status").textContent = text;
  at("error").textContent = "";
  clearTimeout(saying);
  saying = setTimeout(() => (at("status").textContent = ""), 8000);
}

/** Say what went wrong; it stays until something else is said. */
export function complain(text) {
  clearTimeout(saying);
  at("status").textContent = "";
  at("error").textContent = text;
}
