// Two fields against each other: one job for each pair of values, all with the same seed.

import { button, complain, dialog, h } from "./dom.js";
import { anySeed } from "./seed.js";

const MOST = 64;

/** The values in a text: separated by commas, `5-30:5` for a range; quotes keep a comma. Numbers become numbers. */
export function valuesIn(text, property) {
  const numeric = property.type === "integer" || property.type === "number";
  const parts = (text.match(/"[^"]*"|[^,\n]+/g) ?? []).map((part) => part.trim().replace(/^"(.*)"$/, "$1")).filter(Boolean);
  if (property.type === "boolean") return parts.map((part) => part === "true");
  if (!numeric) return parts;
  return parts.flatMap((part) => {
    const range = part.match(/^(-?[\d.]+)-(-?[\d.]+):([\d.]+)$/);
    if (!range) {
      if (!Number.isFinite(Number(part))) throw new Error(`${part} is no number.`);
      return [Number(part)];
    }
    const [from, to, step] = range.slice(1).map(Number);
    if (!(step > 0)) throw new Error(`${part}: the step should be more than 0.`);
    const values = [];
    for (let value = from; value <= to + 1e-9 && values.length <= MOST; value += step) values.push(Number(value.toFixed(6)));
    return values;
  });
}

/** Ask for the fields and their values; `send(input, extras)` is called for each cell. */
export function openGridForm(form, send) {
  const names = form.names().filter((name) => !["object", "array"].includes(form.field(name).property.type) && !form.field(name).picture);
  const axes = ["x", "y"].map((axis) => axisOf(axis, names, form));
  const wrong = h("p", { role: "alert", class: "wrong" });
  const count = h("p", { class: "hint", role: "status" });
  const made = dialog(
    "X/Y grid",
    h("p", { class: "hint" }, "One picture for each pair of values, everything else as in the form. Separate values by commas; 5-30:5 is 5, 10, … 30."),
    ...axes.map((axis) => axis.place),
    count,
    wrong,
    h("div", { class: "actions" }, button("Draw the grid", draw, { class: "primary" })),
  );
  made.addEventListener("input", () => {
    try {
      const [x, y] = axes.map((axis) => axis.read());
      count.textContent = x ? `${x.values.length * (y?.values.length ?? 1)} pictures` : "";
      wrong.textContent = "";
    } catch {
      count.textContent = "";
    }
  });

  function draw() {
    try {
      const [x, y] = axes.map((axis) => axis.read());
      if (!x) throw new Error("Choose a field for X and give its values.");
      if (y && y.name === x.name) throw new Error("X and Y should be two fields.");
      const cells = x.values.length * (y?.values.length ?? 1);
      if (cells > MOST) throw new Error(`That would be ${cells} pictures; ${MOST} is the most.`);
      const input = { ...form.read(), ...(form.has("num_outputs") ? { num_outputs: 1 } : {}) };
      if (form.has("seed") && (input.seed === undefined || input.seed === -1)) input.seed = anySeed();
      const grid = { id: crypto.randomUUID?.() ?? String(anySeed()), x, y };
      made.close();
      for (const down of y?.values ?? [undefined])
        for (const across of x.values)
          send({ ...input, ...(y ? { [y.name]: down } : {}), [x.name]: across }, { grid: { ...grid, at: [across, down] } });
    } catch (error) {
      wrong.textContent = error.message;
    }
  }
  if (!form.read().prompt && form.has("prompt")) {
    made.close();
    complain("Write a prompt first: the grid draws it.");
    form.reveal("prompt");
  }
}

function axisOf(axis, names, form) {
  const options = names.map((name) => h("option", { value: name }, form.label(name)));
  const usual = { x: "scheduler", y: "guidance_scale" }[axis];
  const select = h("select", { id: `grid-${axis}` }, h("option", { value: "" }, axis === "x" ? "choose …" : "none"), ...options);
  const values = h("input", { id: `grid-${axis}-values`, type: "text", spellcheck: "false", autocomplete: "off" });
  const known = h("div", { class: "chips" });
  select.value = names.includes(usual) && axis === "x" ? usual : "";
  select.addEventListener("change", follow);

  function follow() {
    const property = form.field(select.value)?.property;
    const choices = property?.enum ?? property?.examples ?? [];
    known.replaceChildren(
      ...choices.map((choice) =>
        button(String(choice), () => {
          values.value = [values.value.trim().replace(/,$/, ""), String(choice)].filter(Boolean).join(", ");
          values.dispatchEvent(new Event("input", { bubbles: true }));
        }, { class: "quiet chip", "aria-label": `Add ${choice}` }),
      ),
    );
  }
  follow();
  return {
    place: h(
      "fieldset",
      {},
      h("legend", {}, axis.toUpperCase()),
      h("label", { for: select.id }, "Field"),
      select,
      h("label", { for: values.id }, "Values"),
      values,
      known,
    ),
    read: () => {
      if (!select.value) return null;
      const found = valuesIn(values.value, form.field(select.value).property);
      if (found.length === 0) throw new Error(`${axis.toUpperCase()} needs values.`);
      return { name: select.value, label: form.label(select.value), values: found };
    },
  };
}
