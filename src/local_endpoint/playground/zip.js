// A zip file of files that are compressed already: stored as they are (PKWARE's APPNOTE, method 0).

const TABLE = Uint32Array.from({ length: 256 }, (_, number) => {
  for (let bit = 0; bit < 8; bit++) number = number & 1 ? 0xedb88320 ^ (number >>> 1) : number >>> 1;
  return number;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** Numbers as little-endian bytes: `[size in bytes, value]` each. */
function packed(...numbers) {
  return Uint8Array.from(numbers.flatMap(([size, value]) => Array.from({ length: size }, (_, i) => (value >>> (8 * i)) & 255)));
}

/** The time as DOS writes it, to two seconds. */
function dosTime(date) {
  const time = (date.getHours() << 11) | (date.getMinutes() << 5) | (date.getSeconds() >> 1);
  const day = ((date.getFullYear() - 1980) << 9) | ((date.getMonth() + 1) << 5) | date.getDate();
  return [
    [2, time],
    [2, day],
  ];
}

/** `files` are `{name, bytes, date}`; returns a Blob. */
export function zip(files) {
  const [parts, directory] = [[], []];
  let offset = 0;
  for (const { name, bytes, date } of files) {
    const path = new TextEncoder().encode(name);
    // Version 2.0, names in UTF-8, stored; then time, CRC and sizes.
    const common = [[2, 20], [2, 0x800], [2, 0], ...dosTime(date), [4, crc32(bytes)], [4, bytes.length], [4, bytes.length]];
    const local = packed([4, 0x04034b50], ...common, [2, path.length], [2, 0]);
    directory.push(
      packed([4, 0x02014b50], [2, 20], ...common, [2, path.length], [2, 0], [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]),
      path,
    );
    parts.push(local, path, bytes);
    offset += local.length + path.length + bytes.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const count = files.length;
  const end = packed([4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, size], [4, offset], [2, 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
