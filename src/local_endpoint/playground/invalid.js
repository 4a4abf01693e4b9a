// A field that the browser finds wrong is shown, wherever it is folded away, and what is wrong is said by the button.

import { complain, say, toMiddle } from "./dom.js";

/** Have it said for a form. */
export function tellInvalid(form) {
  form.addEventListener(
    "invalid",
    (event) => {
      const { target } = event;
      event.preventDefault(); // the browser's own bubble would stand over the button
      if (target !== form.querySelector(":invalid")) return; // one after the other
      for (let one = target.closest("details"); one; one = one.parentElement.closest("details")) one.open = true;
      target.focus();
      toMiddle(target);
      const name = target.labels?.[0]?.textContent ?? target.ariaLabel;
      complain(`${name}: ${target.validationMessage}`);
      const mended = () => {
        if (!target.validity.valid || !target.isConnected) return;
        say("");
        form.removeEventListener("input", mended);
      };
      form.addEventListener("input", mended);
    },
    { capture: true },
  );
}
