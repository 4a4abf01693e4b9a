// A soft edge: three box blurs, which come close to a Gaussian, in time that does not depend on the radius.

/** `alpha` [height * width], blurred so that the edge is about `radius` pixels wide on each side. */
export function feathered(alpha, width, height, radius) {
  const half = Math.round(radius / 2);
  let [from, to] = [Float32Array.from(alpha), new Float32Array(alpha.length)];
  if (half < 1) return from;
  for (let times = 0; times < 3; times++) {
    for (let y = 0; y < height; y++) blur(from, to, y * width, 1, width, half);
    for (let x = 0; x < width; x++) blur(to, from, x, width, height, half);
  }
  return from;
}

/** One line's running mean over `2 * half + 1` values; beyond its ends the line goes on as it ends. */
function blur(from, to, start, step, length, half) {
  const at = (i) => from[start + step * Math.max(0, Math.min(length - 1, i))];
  let sum = 0;
  for (let i = -half; i <= half; i++) sum += at(i);
  for (let i = 0; i < length; i++) {
    to[start + step * i] = sum / (2 * half + 1);
    sum += at(i + half + 1) - at(i - half);
  }
}
