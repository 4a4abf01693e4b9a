// The caller's key: from the link that `serve` prints (`#key=…`), kept in this browser until it is forgotten.

const NAME = "sdworker-key";
const listeners = new Set();

function fromLink() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given === null) return;
  keep(given);
  // Neither the address bar nor the history shall show it.
  history.replaceState(null, "", location.pathname + location.search);
}

/** The key, or an empty text. */
export function key() {
  try {
    return localStorage.getItem(NAME) ?? "";
  } catch {
    return kept;
  }
}

let kept = "";

/** Keep another key; an empty one forgets. */
export function keep(value) {
  kept = value.trim();
  try {
    if (kept) localStorage.setItem(NAME, kept);
    else localStorage.removeItem(NAME);
  } catch {
    // A browser that keeps nothing: then for as long as the page is open.
  }
  for (const listener of listeners) listener();
}

/** Be told when the key changes. */
export function onKey(listener) {
  listeners.add(listener);
}

fromLink();
addEventListener("hashchange", fromLink);
addEventListener("storage", (event) => event.key === NAME && listeners.forEach((listener) => listener()));
