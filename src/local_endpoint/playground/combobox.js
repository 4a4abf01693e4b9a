// A text field with a list that narrows as one types: samplers, models, add-ons. Any text may be given.
// The keyboard is that of the ARIA Authoring Practices' editable combobox with list autocomplete.

import { h } from "./dom.js";

/** Turn a text input into one; `options` are texts. Returns the nodes to put into the page. */
export function combobox(input, options, label) {
  const id = `${input.id}-options`;
  const list = h("ul", { id, role: "listbox", "aria-label": label, class: "options", hidden: true });
  let active = -1;
  for (const [name, value] of Object.entries({
    role: "combobox",
    "aria-autocomplete": "list",
    "aria-expanded": "false",
    "aria-controls": id,
    autocomplete: "off",
  }))
    input.setAttribute(name, value);

  function shown() {
    return [...list.children];
  }

  function open(filter) {
    const wanted = filter.toLowerCase().replaceAll(/[^a-z0-9+]/g, "");
    const fitting = options.filter((text) => text.toLowerCase().replaceAll(/[^a-z0-9+]/g, "").includes(wanted));
    list.replaceChildren(
      ...fitting.map((text, number) =>
        h("li", { id: `${id}-${number}`, role: "option", "aria-selected": String(text === input.value) }, text),
      ),
    );
    list.hidden = fitting.length === 0;
    input.setAttribute("aria-expanded", String(!list.hidden));
    point(-1);
  }

  function close() {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    point(-1);
  }

  function point(number) {
    shown()[active]?.classList.remove("active");
    active = number;
    const option = shown()[active];
    if (!option) return input.removeAttribute("aria-activedescendant");
    option.classList.add("active");
    option.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", option.id);
  }

  function choose(text) {
    input.value = text;
    close();
    input.dispatchEvent(new Event("input", { bubbles: true }));
    close();
  }

  input.addEventListener("input", () => document.activeElement === input && open(input.value));
  input.addEventListener("click", () => list.hidden && open(""));
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const count = shown().length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) open("");
      const step = event.key === "ArrowDown" ? 1 : -1;
      point(active < 0 && step < 0 ? shown().length - 1 : (active + step + shown().length) % shown().length);
    } else if (event.key === "Enter" && active >= 0 && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      choose(shown()[active].textContent);
    } else if (event.key === "Escape" && !list.hidden) {
      event.stopPropagation();
      event.preventDefault();
      close();
    } else if (event.key === "Home" && count && active >= 0) point(0);
    else if (event.key === "End" && count && active >= 0) point(count - 1);
  });
  // Before the blur that a click would bring.
  list.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    const option = event.target.closest("[role=option]");
    if (option) choose(option.textContent);
  });
  return [h("div", { class: "combobox" }, input, list)];
}
