// What the page shows, as plain data, and as the words behind # in a link.

const LETTERS = { b: "blur", m: "mean", t: "texture", s: "swap", e: "erase", c: "clear" };
const START = { tile: 0, method: 0, target: null, against: null, strokes: [], turn: 0, flip: false, other: 1, token: null, removed: 0, order: "map" };
const MOST_STROKES = 500;
const STEPS = 16; // of a deletion

function toLink(state, data) {
  const words = new URLSearchParams();
  words.set("tile", data.tiles.names[state.tile]);
  const method = data.methods[state.method];
  words.set("method", method.layer === null ? method.method : `${method.method}@${method.layer}`);
  if (state.target !== null) words.set("target", data.classes[state.target]);
  if (state.against !== null) words.set("against", data.classes[state.against]);
  if (state.token !== null) words.set("token", state.token);
  if (state.turn) words.set("turn", state.turn);
  if (state.flip) words.set("flip", 1);
  if (state.removed) words.set("removed", state.removed);
  if (state.removed && state.order === "random") words.set("order", "random");
  if (state.strokes.some((stroke) => stroke.kind === "swap")) words.set("other", data.tiles.names[state.other]);
  const letter = (kind) => Object.keys(LETTERS).find((key) => LETTERS[key] === kind);
  const points = (stroke) => stroke.points.map(([x, y]) => `${Math.round(x)}.${Math.round(y)}`).join("-");
  if (state.strokes.length) {
    words.set("strokes", state.strokes.map((stroke) => `${letter(stroke.kind)}${stroke.size}_${points(stroke)}`).join("~"));
  }
  return words.toString();
}

// The state of a link, and in words what of it this page does not know.
function fromLink(text, data) {
  const state = { ...START };
  const problems = [];
  const take = (name, key, among) => {
    const value = words.get(name);
    if (value === null) return;
    const at = among.indexOf(value);
    if (at >= 0) state[key] = at;
    else problems.push(`this page has no ${name} “${value.slice(0, 80)}”`);
  };
  const words = new URLSearchParams(text);
  take("tile", "tile", data.tiles.names);
  take("other", "other", data.tiles.names);
  take("method", "method", data.methods.map((m) => (m.layer === null ? m.method : `${m.method}@${m.layer}`)));
  take("target", "target", data.classes);
  take("against", "against", data.classes);
  const whole = (name, most) => (/^\d{1,5}$/.test(words.get(name) ?? "") && Number(words.get(name)) <= most ? Number(words.get(name)) : null);
  state.turn = whole("turn", 3) ?? 0;
  state.flip = whole("flip", 1) === 1;
  state.removed = whole("removed", STEPS) ?? 0;
  state.order = words.get("order") === "random" ? "random" : "map";
  state.token = whole("token", data.cells * data.cells - 1);
  const strokes = (words.get("strokes") ?? "").split("~").filter(Boolean).slice(0, MOST_STROKES);
  state.strokes = strokes.map((stroke) => readStroke(stroke, data.tiles.side)).filter(Boolean);
  if (state.strokes.length < strokes.length) problems.push("some strokes of the link cannot be read");
  return { state, problems };
}

function readStroke(text, side) {
  const found = /^([bmtsec])(\d{1,3})_((?:\d{1,4}\.\d{1,4}(?:-|$))*)$/.exec(text);
  if (!found) return null;
  const points = found[3].split("-").filter(Boolean).map((pair) => pair.split(".").map(Number));
  if (points.some((pair) => pair.some((value) => value > side))) return null;
  return { kind: LETTERS[found[1]], size: Math.min(side, Number(found[2])), points };
}
