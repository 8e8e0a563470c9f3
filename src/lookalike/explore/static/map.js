// The map of a collection: drag to move, wheel or pinch to zoom, point for the image, lasso to
// choose. Used by the page of the service and by the file that lookalike explore map writes.

const COLORS = ["#3b76af", "#ef8636", "#519e3e", "#c53a32", "#8d69b8", "#84584e", "#d57dbe", "#8a8a2f", "#40a8b9", "#1f9e74", "#b0469f", "#6f7fd8", "#a96b1d", "#4d8f96", "#d1605e", "#5d7d3a"];
const NOWHERE = "#9aa1a8";
const SHOWN_AS_IMAGES = 400;
const MOST_SHOTS = 48;
const REACH = 14;

// Draws `data`, the document of lookalike.explore, into `root`. `how.thumbnail(row)` gives a picture
// and the part of it to draw, `how.side` its pixels; `how.most` of them are drawn on the map at a time.
// `how.search(id)` is the address of a search.
export function showMap(root, data, how = {}) {
  const ids = data.ids;
  const count = ids.length;
  const steps = numbers(data.points, Uint16Array);
  const neighbors = numbers(data.neighbors, Uint32Array);
  const lofScores = numbers(data.lof_scores, Float32Array);
  const inCluster = numbers(data.membership, Int16Array);
  const [xs, ys] = [new Float32Array(count), new Float32Array(count)];
  for (let i = 0; i < count; i++) [xs[i], ys[i]] = [steps[2 * i] / 65535, steps[2 * i + 1] / 65535];
  const grid = new Grid(xs, ys);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // ---- what is on the screen -----------------------------------------------------------------

  const sea = make("div", { class: "sea" });
  const canvas = make("canvas", { tabindex: "0", role: "img", "aria-label": `Map of ${count.toLocaleString("en")} images. Arrow keys move, plus and minus zoom, 0 shows all; the clusters are listed beside it.` });
  const tip = make("div", { class: "tip", hidden: "" });
  const colorBy = make("select");
  const lassoButton = button("Lasso", () => setLasso(!lassoing));
  const tools = make("div", { class: "tools" }, make("label", {}, "Color ", colorBy), button("+", () => zoom(1.5), "Zoom in"), button("−", () => zoom(1 / 1.5), "Zoom out"), button("All", fit, "Show all"), lassoButton);
  lassoButton.setAttribute("aria-pressed", "false");
  const legend = make("ul", { class: "legend" });
  const about = make("p", { class: "soft" }, `${count.toLocaleString("en")} images. Trustworthiness ${data.trustworthiness.toFixed(3)}: near on this map is near by the encoder, if it is close to 1; far apart says little. Of each image's nearest, ${Math.round(100 * data.neighborhood_preservation)} % are nearest here too.`);
  const chosenBox = make("section", { "aria-label": "Chosen", hidden: "" });
  const heading = make("h2", { tabindex: "-1" });
  const said = make("p", { class: "soft", role: "status" });
  const shots = make("ul", { class: "shots" });
  const doing = make("div", { class: "doing" });
  chosenBox.append(heading, said, doing, shots);
  sea.append(canvas, tip);
  root.classList.add("map");
  root.replaceChildren(make("div", {}, tools, sea), make("aside", {}, chosenBox, make("section", { "aria-label": "Colors" }, legend), about));

  // ---- colors -------------------------------------------------------------------------------

  const schemes = [
    { name: "clusters", none: "unclustered", values: data.clusters.map((each) => each.name), codes: inCluster },
    ...data.columns.map(({ name, values, codes }) => ({ name, values, codes: numbers(codes, Int16Array) })),
    outlierScheme(),
  ];
  for (const [i, each] of schemes.entries()) colorBy.append(make("option", { value: i }, each.name));
  let scheme = schemes[0];
  let only = null; // the code that alone is shown in color
  colorBy.addEventListener("change", () => {
    [scheme, only] = [schemes[colorBy.value], null];
    showLegend();
    draw();
  });

  function outlierScheme() {
    const order = Float32Array.from(lofScores).sort();
    const [some, many] = [order[Math.floor(count * 0.95)], order[Math.floor(count * 0.99)]];
    const codes = Int16Array.from(lofScores, (value) => (value > many ? 0 : value > some ? 1 : 2));
    return { name: "outliers", values: ["the farthest 1 %", "the next 4 %", "the rest"], codes, colors: ["#c53a32", "#ef8636", NOWHERE] };
  }

  const colorOf = (code) => (code < 0 ? NOWHERE : (scheme.colors ?? COLORS)[code % (scheme.colors ?? COLORS).length]);

  function showLegend() {
    const sizes = new Map();
    for (const code of scheme.codes) sizes.set(code, (sizes.get(code) ?? 0) + 1);
    const order = [...sizes.keys()].sort((a, b) => (a < 0) - (b < 0) || a - b);
    legend.replaceChildren(...order.map((code) => {
      const dot = make("i");
      dot.style.background = colorOf(code);
      const name = code < 0 ? (scheme.none ?? "no value") : scheme.values[code];
      const entry = button("", () => {
        only = only === code ? null : code;
        for (const each of legend.querySelectorAll("button")) each.setAttribute("aria-pressed", String(only !== null && each === entry));
        if (only !== null) choose(rowsOf((i) => scheme.codes[i] === code), `${name}`);
        draw();
      });
      entry.setAttribute("aria-pressed", "false");
      entry.append(dot, name, make("span", {}, sizes.get(code).toLocaleString("en")));
      return make("li", {}, entry);
    }));
  }

  // ---- drawing -------------------------------------------------------------------------------

  const context = canvas.getContext("2d");
  const view = { x: 0.5, y: 0.5, scale: 1 }; // the middle of the screen, and pixels for 1
  let [width, height, ratio, picture, words] = [0, 0, 1, null, null];
  let [chosen, lassoing, path, pending] = [new Set(), false, null, false];
  const thumbnails = new Map();

  function resize() {
    ratio = Math.min(devicePixelRatio || 1, 2);
    [width, height] = [Math.max(1, Math.round(sea.clientWidth * ratio)), Math.max(1, Math.round(sea.clientHeight * ratio))];
    [canvas.width, canvas.height] = [width, height];
    picture = context.createImageData(width, height);
    words = new Uint32Array(picture.data.buffer);
    draw();
  }

  function fit() {
    const bounds = [Math.min(...extent(xs)), Math.max(...extent(xs)), Math.min(...extent(ys)), Math.max(...extent(ys))];
    [view.x, view.y] = [(bounds[0] + bounds[1]) / 2, (bounds[2] + bounds[3]) / 2];
    view.scale = 0.92 * Math.min(width / Math.max(bounds[1] - bounds[0], 1e-3), height / Math.max(bounds[3] - bounds[2], 1e-3));
    draw();
  }

  const toX = (x) => (x - view.x) * view.scale + width / 2;
  const toY = (y) => (y - view.y) * view.scale + height / 2;

  function draw() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      paint();
    });
  }

  function paint() {
    const whole = Math.min(width, height) / view.scale;
    const size = Math.max(1, Math.round(ratio * Math.min(4, 0.9 / Math.sqrt(whole) * (count < 5000 ? 2.4 : 1.2))));
    const visible = grid.inside(view.x - width / 2 / view.scale, view.y - height / 2 / view.scale, view.x + width / 2 / view.scale, view.y + height / 2 / view.scale, how.most ?? SHOWN_AS_IMAGES);
    const fade = (color) => (dark.matches ? mix(color, 20, 0.75) : mix(color, 255, 0.75));
    const table = new Map();
    for (const code of new Set(scheme.codes)) {
      const color = colorOf(code);
      table.set(code, packed(only === null || only === code ? color : fade(color)));
    }
    words.fill(0);
    const put = (i, color, wide) => {
      const [left, top] = [Math.round(toX(xs[i]) - wide / 2), Math.round(toY(ys[i]) - wide / 2)];
      const [right, bottom] = [Math.min(left + wide, width), Math.min(top + wide, height)];
      for (let y = Math.max(0, top); y < bottom; y++) for (let x = Math.max(0, left); x < right; x++) words[y * width + x] = color;
    };
    for (let i = 0; i < count; i++) if (only !== null && scheme.codes[i] !== only) put(i, table.get(scheme.codes[i]), size);
    for (let i = 0; i < count; i++) if (only === null || scheme.codes[i] === only) put(i, table.get(scheme.codes[i]), size);
    if (chosen.size) {
      const mark = packed(dark.matches ? "#ffffff" : "#000000");
      for (const i of chosen) put(i, mark, size + 2 * Math.max(1, Math.round(ratio)));
      for (const i of chosen) put(i, table.get(scheme.codes[i]), size);
    }
    context.putImageData(picture, 0, 0);
    if (visible && how.thumbnail) for (const i of visible) paintImage(i);
    if (path) paintPath();
  }

  function paintImage(i) {
    const found = thumbnails.get(i);
    if (!found) {
      load(i).then(draw, () => {});
      return;
    }
    const room = Math.min(how.side, 40) * ratio * Math.min(1, Math.max(0.5, view.scale / width / 12));
    const scale = room / Math.max(found.width, found.height);
    const [wide, high] = [found.width * scale, found.height * scale];
    const [left, top] = [toX(xs[i]) - wide / 2, toY(ys[i]) - high / 2];
    context.drawImage(found.image, found.x, found.y, found.width, found.height, left, top, wide, high);
    context.strokeStyle = chosen.has(i) ? (dark.matches ? "#fff" : "#000") : colorOf(scheme.codes[i]);
    context.lineWidth = (chosen.has(i) ? 3 : 1.5) * ratio;
    context.strokeRect(left, top, wide, high);
  }

  function paintPath() {
    context.beginPath();
    for (const [x, y] of path) context.lineTo(toX(x), toY(y));
    context.closePath();
    context.strokeStyle = dark.matches ? "#fff" : "#000";
    context.lineWidth = 1.5 * ratio;
    context.setLineDash([5 * ratio, 4 * ratio]);
    context.stroke();
    context.setLineDash([]);
  }

  const loading = new Map();
  function load(i) {
    if (!loading.has(i)) {
      const asked = how.thumbnail(i);
      loading.set(i, asked);
      asked.then((found) => thumbnails.set(i, found), () => {});
    }
    return loading.get(i);
  }

  // ---- moving --------------------------------------------------------------------------------

  function zoom(by, x = width / 2, y = height / 2) {
    const scale = Math.min(Math.max(view.scale * by, Math.min(width, height) / 3), Math.min(width, height) * 4000);
    const [atX, atY] = [view.x + (x - width / 2) / view.scale, view.y + (y - height / 2) / view.scale];
    view.scale = scale;
    [view.x, view.y] = [atX - (x - width / 2) / scale, atY - (y - height / 2) / scale];
    draw();
  }

  function move(dx, dy) {
    [view.x, view.y] = [view.x - dx / view.scale, view.y - dy / view.scale];
    draw();
  }

  const fingers = new Map();
  let traveled = 0;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * (width / box.width), (event.clientY - box.top) * (height / box.height)];
  };
  const onMap = ([x, y]) => [view.x + (x - width / 2) / view.scale, view.y + (y - height / 2) / view.scale];

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.002)), ...place(event));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, place(event));
    traveled = 0;
    if (lassoing || event.shiftKey) path = [onMap(place(event))];
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = place(event);
    const before = fingers.get(event.pointerId);
    if (!before) return hover(now);
    traveled += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (path) {
      path.push(onMap(now));
      draw();
    } else if (fingers.size === 1) move(now[0] - before[0], now[1] - before[1]);
    else {
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
      const [was, is] = [Math.hypot(before[0] - other[0], before[1] - other[1]), Math.hypot(now[0] - other[0], now[1] - other[1])];
      zoom(is / Math.max(was, 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    fingers.set(event.pointerId, now);
  });
  const lifted = (event) => {
    if (!fingers.delete(event.pointerId)) return;
    if (path) {
      const drawn = path;
      path = null;
      if (drawn.length > 2 && event.type === "pointerup") choose(rowsOf((i) => within(xs[i], ys[i], drawn)), "Lasso");
      setLasso(false);
      draw();
    } else if (traveled < 5 * ratio && event.type === "pointerup") {
      const row = nearest(place(event));
      if (row === null) choose([], "");
      else lookAt(row);
    }
  };
  canvas.addEventListener("pointerup", lifted);
  canvas.addEventListener("pointercancel", lifted);
  canvas.addEventListener("pointerleave", () => (tip.hidden = true));
  canvas.addEventListener("keydown", (event) => {
    const step = 60 * ratio;
    const keys = { "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: fit, ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0), ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step), Escape: () => choose([], "") };
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });

  function nearest(at) {
    const [x, y] = onMap(at);
    return grid.nearest(x, y, (REACH * ratio) / view.scale);
  }

  let hovered = null;
  async function hover(at) {
    const row = nearest(at);
    tip.hidden = row === null;
    if (row === null) {
      hovered = null;
      return;
    }
    const [left, top] = [at[0] / ratio, at[1] / ratio];
    tip.style.left = `${left > sea.clientWidth / 2 ? left - tip.offsetWidth - 14 : left + 14}px`;
    tip.style.top = `${Math.max(4, Math.min(top, sea.clientHeight - tip.offsetHeight - 4))}px`;
    if (row === hovered) return;
    hovered = row;
    tip.replaceChildren(named(row));
    if (!how.thumbnail) return;
    const shot = await drawn(row).catch(() => null);
    if (hovered === row && shot) tip.prepend(shot);
  }

  function named(row) {
    const value = scheme.codes[row] < 0 ? "" : scheme.values[scheme.codes[row]];
    return make("span", {}, value ? `${value} · ${title(ids[row])}` : title(ids[row]));
  }

  async function drawn(row) {
    const found = await load(row);
    const shot = make("canvas", { width: found.width, height: found.height });
    shot.getContext("2d").drawImage(found.image, found.x, found.y, found.width, found.height, 0, 0, found.width, found.height);
    return shot;
  }

  // ---- choosing ------------------------------------------------------------------------------

  function setLasso(on) {
    lassoing = on;
    lassoButton.setAttribute("aria-pressed", String(on));
    sea.classList.toggle("lasso", on);
  }

  const rowsOf = (test) => {
    const rows = [];
    for (let i = 0; i < count; i++) if (test(i)) rows.push(i);
    return rows;
  };

  function lookAt(row) {
    const around = Array.from(neighbors.subarray(row * data.k, (row + 1) * data.k));
    show([row, ...around], title(ids[row]), `${ids[row]}; outlier factor ${lofScores[row].toFixed(2)}. After it, the images that look most like it.`);
    doing.replaceChildren(...(how.search ? [make("a", { href: how.search(ids[row]), class: "button" }, "Search with this")] : []), button("Close", () => choose([], "")));
  }

  function choose(rows, name) {
    chosenBox.hidden = rows.length === 0;
    if (rows.length === 0) {
      chosen = new Set();
      draw();
      return;
    }
    show(rows, name, `${rows.length.toLocaleString("en")} images${rows.length > MOST_SHOTS ? `; ${MOST_SHOTS} of them` : ""}`);
    const label = make("input", { type: "text", autocomplete: "off" });
    doing.replaceChildren(make("label", {}, "Label in the file", label), button("Save as CSV", () => save(rows, label.value)), button("Close", () => choose([], "")));
  }

  function show(rows, name, text) {
    chosen = new Set(rows);
    chosenBox.hidden = false;
    heading.textContent = name;
    said.textContent = text;
    const step = Math.max(1, rows.length / MOST_SHOTS);
    const some = Array.from({ length: Math.min(rows.length, MOST_SHOTS) }, (_, i) => rows[Math.floor(i * step)]);
    shots.replaceChildren(...some.map((row) => {
      const entry = button(how.thumbnail ? "" : title(ids[row]), () => lookAt(row), title(ids[row]));
      if (how.thumbnail) drawn(row).then((shot) => entry.append(shot), () => entry.append("cannot be read"));
      return make("li", {}, entry);
    }));
    draw();
  }

  function save(rows, label) {
    const cell = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = ["id,label", ...rows.map((row) => `${cell(ids[row])},${cell(label)}`)];
    const url = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
    make("a", { href: url, download: "chosen.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  new ResizeObserver(() => {
    const first = width === 0;
    resize();
    if (first) fit();
  }).observe(sea);
  dark.addEventListener("change", draw);
  showLegend();
}

// ---- help --------------------------------------------------------------------------------------

// Points in squares, for those near a place.
class Grid {
  constructor(xs, ys) {
    [this.xs, this.ys] = [xs, ys];
    this.side = Math.max(1, Math.ceil(Math.sqrt(xs.length / 4)));
    this.start = new Uint32Array(this.side * this.side + 1);
    const cells = Uint32Array.from(xs, (x, i) => this.cell(ys[i]) * this.side + this.cell(x));
    for (const cell of cells) this.start[cell + 1]++;
    for (let i = 0; i < this.side * this.side; i++) this.start[i + 1] += this.start[i];
    this.rows = new Uint32Array(xs.length);
    const next = this.start.slice();
    for (let i = 0; i < xs.length; i++) this.rows[next[cells[i]]++] = i;
  }

  cell(value) {
    return Math.min(this.side - 1, Math.max(0, Math.floor(value * this.side)));
  }

  *cells(left, top, right, bottom) {
    for (let y = this.cell(top); y <= this.cell(bottom); y++) {
      const row = y * this.side;
      for (let i = this.start[row + this.cell(left)]; i < this.start[row + this.cell(right) + 1]; i++) yield this.rows[i];
    }
  }

  nearest(x, y, reach) {
    let [best, least] = [null, reach * reach];
    for (const i of this.cells(x - reach, y - reach, x + reach, y + reach)) {
      const apart = (this.xs[i] - x) ** 2 + (this.ys[i] - y) ** 2;
      if (apart <= least) [best, least] = [i, apart];
    }
    return best;
  }

  // The points in a rectangle, null if they are more than `most`.
  inside(left, top, right, bottom, most) {
    const found = [];
    for (const i of this.cells(left, top, right, bottom)) {
      if (this.xs[i] < left || this.xs[i] > right || this.ys[i] < top || this.ys[i] > bottom) continue;
      if (found.push(i) > most) return null;
    }
    return found;
  }
}

function numbers(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  return new Kind(bytes.buffer);
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return [low, high];
}

// Whether a place is inside a closed path: how often a ray from it crosses the path.
function within(x, y, path) {
  let inside = false;
  for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
    const [[ax, ay], [bx, by]] = [path[i], path[j]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

const channels = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
const packed = (color) => {
  const [red, green, blue] = channels(color);
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
};
const mix = (color, towards, share) => `#${channels(color).map((each) => Math.round(each + (towards - each) * share).toString(16).padStart(2, "0")).join("")}`;
const title = (id) => id.slice(id.lastIndexOf(":") + 1).split("/").pop() || id;

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function button(text, work, called = "") {
  const made = make("button", { type: "button", ...(called ? { "aria-label": called, title: called } : {}) }, text);
  made.addEventListener("click", work);
  return made;
}
