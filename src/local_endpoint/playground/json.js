// JSON with whole numbers of any size: seeds go up to 2^63, beyond what a double holds exactly.

const MARK = "\u0000integer:";

/** Like JSON.stringify, for values that may hold BigInts. */
export function stringify(value, indent) {
  const text = JSON.stringify(value, (_, item) => (typeof item === "bigint" ? `${MARK}${item}` : item), indent);
  return text.replaceAll(/"\\u0000integer:(\d+)"/g, "$1");
}

/** Like JSON.parse, but a seed too large for a double becomes a BigInt. */
export function parse(text) {
  return JSON.parse(text.replaceAll(/("seed":\s*)(\d{16,})/g, `$1"\\u0000integer:$2"`), (_, item) =>
    typeof item === "string" && item.startsWith(MARK) ? BigInt(item.slice(MARK.length)) : item,
  );
}
