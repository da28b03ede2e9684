// What the page shows, as plain data, and as the words behind # in a link.

const START = { tile: 0, method: 0, target: null, against: null, strokes: [], turn: 0, flip: false, fill: "blur", other: 1, token: null, removed: 0, order: "map", whole: false };
const MOST_STROKES = 100; // that can be undone one by one
const STEPS = 16; // of a deletion

const startOf = (data) => ({ ...START, other: Math.min(START.other, data.tiles.names.length - 1) });

// A painting as text: a letter for what owns a pixel (K: kept, then those of FILLS) and, in base 36,
// how many pixels in a row it owns, unless it is one. It has side * side letters at most.
const OWNERS = "KBMTS";

function paintingOf(owner) {
  let text = "";
  for (let start = 0; start < owner.length;) {
    let end = start + 1;
    while (end < owner.length && owner[end] === owner[start]) end += 1;
    text += OWNERS[owner[start]] + (end - start > 1 ? (end - start).toString(36) : "");
    start = end;
  }
  return text;
}

// What owns each pixel of side x side, or null where the text is no such painting.
function readPainting(text, side) {
  if (!/^(?:[KBMTS][0-9a-z]{0,4})+$/.test(text)) return null;
  const owner = new Uint8Array(side * side);
  let at = 0;
  for (const [, letter, count] of text.matchAll(/([KBMTS])([0-9a-z]*)/g)) {
    const end = at + (count ? parseInt(count, 36) : 1);
    owner.fill(OWNERS.indexOf(letter), at, end);
    at = end;
  }
  return at === owner.length ? owner : null;
}

// Strokes, the oldest of them as one painting where there are too many.
function merged(strokes, side) {
  if (strokes.length <= MOST_STROKES) return strokes;
  const half = strokes.length - MOST_STROKES / 2;
  return [{ kind: "painting", cells: paintingOf(ownersOf(strokes.slice(0, half), side)) }, ...strokes.slice(half)];
}

const methodName = ({ method, layer }) => (layer === null ? method : `${method}@${layer}`);

function toLink(state, data) {
  const { side, names } = data.tiles;
  const words = new URLSearchParams();
  words.set("tile", names[state.tile]);
  words.set("method", methodName(data.methods[state.method]));
  if (state.target !== null) words.set("target", data.classes[state.target]);
  if (state.against !== null) words.set("against", data.classes[state.against]);
  if (state.token !== null) words.set("token", state.token);
  if (state.turn) words.set("turn", state.turn);
  if (state.flip) words.set("flip", 1);
  if (state.whole) words.set("whole", 1);
  if (state.fill !== START.fill) words.set("fill", state.fill);
  if (state.removed) words.set("removed", state.removed);
  if (state.order !== START.order) words.set("order", state.order);
  const owner = ownersOf(state.strokes, side);
  if (state.fill === "swap" || owner.includes(FILLS.indexOf("swap") + 1)) words.set("other", names[state.other]);
  if (owner.some(Boolean)) words.set("painting", paintingOf(owner));
  return words.toString();
}

// The state of a link, and in words what of it this page does not know.
function fromLink(text, data) {
  const state = startOf(data);
  const problems = [];
  const words = new URLSearchParams(text);
  const among = (name, known, use) => {
    const value = words.get(name);
    if (value === null) return;
    if (known.includes(value)) use(value);
    else problems.push(`this page has no ${name} “${value.slice(0, 80)}”`);
  };
  const position = (name, known) => among(name, known, (value) => { state[name] = known.indexOf(value); });
  const whole = (name, most, use) => among(name, Array.from({ length: most + 1 }, (_, i) => `${i}`), (value) => use(Number(value)));
  position("tile", data.tiles.names);
  position("other", data.tiles.names);
  position("method", data.methods.map(methodName));
  position("target", data.classes);
  position("against", data.classes);
  among("fill", FILLS, (value) => { state.fill = value; });
  among("order", ["map", "random"], (value) => { state.order = value; });
  whole("turn", 3, (value) => { state.turn = value; });
  whole("flip", 1, (value) => { state.flip = value === 1; });
  whole("whole", 1, (value) => { state.whole = value === 1; });
  whole("removed", STEPS, (value) => { state.removed = value; });
  whole("token", data.cells * data.cells - 1, (value) => { state.token = value; });
  const known = [...Object.keys(START), "painting"];
  for (const name of words.keys()) if (!known.includes(name)) problems.push(`a link has no “${name.slice(0, 80)}”`);
  const cells = words.get("painting");
  if (cells !== null && readPainting(cells, data.tiles.side)) state.strokes = [{ kind: "painting", cells }];
  else if (cells !== null) problems.push("the painting of the link cannot be read");
  return { state, problems };
}
