// Where the key is given, when the link did not bring it, and forgotten.

import { at } from "./dom.js";
import { keep, key, onKey } from "./key.js";

/** Wire it up; returns what asks for another key. */
export function showKey() {
  const [place, input, change] = [at("key-place"), at("key"), at("change-key")];
  const follow = () => {
    place.hidden = Boolean(key());
    input.required = !key();
    change.hidden = !key();
  };
  input.addEventListener("change", () => keep(input.value));
  // Sent by Enter: the browser tells of a change only later.
  input.closest("form").addEventListener("submit", () => !place.hidden && input.value && keep(input.value), { capture: true });
  change.addEventListener("click", () => {
    keep("");
    input.value = "";
    input.focus();
  });
  onKey(follow);
  follow();
  return () => {
    place.hidden = false;
    input.required = true;
    input.value = "";
    input.focus();
  };
}
