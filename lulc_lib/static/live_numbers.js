// Small functions of numbers, and how the page writes them.

// As `plots.describe_probability`: never 100 % for what only comes near.
const words = (value) => (value >= 0.9995 ? ">99.9 %" : `${(100 * value).toFixed(1)} %`);
const share = (value) => `${100 * value}%`;
const number = (value) => value.toPrecision(2).replace("-", "−");
const topOf = (values) => values.indexOf(Math.max(...values));
const meanOfAll = (values) => values.reduce((a, b) => a + b, 0) / values.length;

function softmax(logits) {
  const top = Math.max(...logits);
  const powers = Array.from(logits, (v) => Math.exp(v - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((v) => v / sum);
}

// The order in which a map's cells are taken away, its strongest first.
const mapOrder = (grid) => Array.from(grid.keys()).sort((a, b) => grid[b] - grid[a] || a - b);

function randomOrder(seed, count) {
  let at = seed + 1;
  const next = () => { // mulberry32
    at = (at + 0x6d2b79f5) | 0;
    let t = Math.imul(at ^ (at >>> 15), 1 | at);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const keys = Array.from({ length: count }, next);
  return Array.from(keys.keys()).sort((a, b) => keys[a] - keys[b]);
}

function ranksOf(values) {
  const order = Array.from(values.keys()).sort((a, b) => values[a] - values[b]);
  const ranks = new Float64Array(values.length);
  for (let i = 0; i < order.length;) {
    let end = i;
    while (end < order.length && values[order[end]] === values[order[i]]) end += 1;
    for (let j = i; j < end; j += 1) ranks[order[j]] = (i + end - 1) / 2;
    i = end;
  }
  return ranks;
}

// Spearman's rank correlation; 0 where one of the two is constant.
function spearman(a, b) {
  const [x, y] = [ranksOf(a), ranksOf(b)];
  const mean = (x.length - 1) / 2;
  let [xy, xx, yy] = [0, 0, 0];
  x.forEach((_, i) => {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) ** 2;
    yy += (y[i] - mean) ** 2;
  });
  return xx && yy ? xy / Math.sqrt(xx * yy) : 0;
}
