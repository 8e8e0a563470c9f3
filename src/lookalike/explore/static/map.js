// The map of a gallery: drag to pan, wheel or pinch to zoom, point at an image to see it, select with
// the lasso. Used by the page of the service and by the file that lookalike explore map writes.

const COLORS = ["#3b76af", "#ef8636", "#519e3e", "#c53a32", "#8d69b8", "#84584e", "#d57dbe", "#8a8a2f", "#40a8b9", "#1f9e74", "#b0469f", "#6f7fd8", "#a96b1d", "#4d8f96", "#d1605e", "#5d7d3a"];
const NO_VALUE_COLOR = "#9aa1a8";
const MAX_THUMBNAILS = 400; // drawn on the map at a time
const MAX_SELECTED_SHOWN = 48;
const POINTER_RADIUS = 14; // pixels

// Shows `data`, the document of lookalike.explore.map, in `root`. Options:
// `thumbnail(row)` returns an image and the part of it to draw, `thumbnailSize` is its size in pixels,
// `maxThumbnails` how many to draw on the map at a time, `searchURL(id)` the URL of a search.
export function showMap(root, data, options = {}) {
  const ids = data.ids;
  const count = ids.length;
  const coordinates = decode(data.points, Uint16Array);
  const neighbors = decode(data.neighbors, Uint32Array);
  const lofScores = decode(data.lof_scores, Float32Array);
  const membership = decode(data.membership, Int16Array);
  const [xs, ys] = [new Float32Array(count), new Float32Array(count)];
  for (let i = 0; i < count; i++) [xs[i], ys[i]] = [coordinates[2 * i] / 65535, coordinates[2 * i + 1] / 65535];
  const grid = new Grid(xs, ys);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // ---- elements -----------------------------------------------------------------

  const viewport = element("div", { class: "viewport" });
  const canvas = element("canvas", { tabindex: "0", role: "img", "aria-label": `Map of ${count.toLocaleString("en")} images. Arrow keys pan, plus and minus zoom, 0 fits all images. The legend lists the clusters.` });
  const tooltip = element("div", { class: "tooltip", hidden: "" });
  const colorBy = element("select");
  const lassoButton = button("Lasso", () => setLasso(!lassoing));
  const toolbar = element("div", { class: "toolbar" }, element("label", {}, "Color by ", colorBy), button("+", () => zoom(1.5), "Zoom in"), button("−", () => zoom(1 / 1.5), "Zoom out"), button("Fit", fit, "Fit all images"), lassoButton);
  lassoButton.setAttribute("aria-pressed", "false");
  const legend = element("ul", { class: "legend" });
  const about = element("p", { class: "muted" }, data.trustworthiness === null ? `${plural(count)}. All embeddings are the same.` : `${plural(count)}. Trustworthiness ${data.trustworthiness.toFixed(3)}: the closer to 1, the more images that are close on the map are similar. Large distances mean little. The map preserves ${Math.round(100 * data.neighborhood_preservation)} % of nearest neighbors.`);
  const selectionPanel = element("section", { "aria-label": "Selection", hidden: "" });
  const heading = element("h2", { tabindex: "-1" });
  const status = element("p", { class: "muted", role: "status" });
  const thumbnailList = element("ul", { class: "thumbnails" });
  const selectionActions = element("div", { class: "selection-actions" });
  selectionPanel.append(heading, status, selectionActions, thumbnailList);
  viewport.append(canvas, tooltip);
  root.classList.add("map");
  root.replaceChildren(element("div", {}, toolbar, viewport), element("aside", {}, selectionPanel, element("section", { "aria-label": "Legend" }, legend), about));

  // ---- colors -------------------------------------------------------------------------------

  const schemes = [
    { name: "clusters", none: "unclustered", values: data.clusters.map((each) => each.name), codes: membership },
    ...data.columns.map(({ name, values, codes }) => ({ name, values, codes: decode(codes, Int16Array) })),
    outlierScheme(),
  ];
  for (const [i, each] of schemes.entries()) colorBy.append(element("option", { value: i }, each.name));
  let scheme = schemes[0];
  let highlighted = null; // the code in color; all others are faded
  colorBy.addEventListener("change", () => {
    [scheme, highlighted] = [schemes[colorBy.value], null];
    showLegend();
    draw();
  });

  function outlierScheme() {
    const order = Float32Array.from(lofScores).sort();
    const [percentile95, percentile99] = [order[Math.floor(count * 0.95)], order[Math.floor(count * 0.99)]];
    const codes = Int16Array.from(lofScores, (value) => (value > percentile99 ? 0 : value > percentile95 ? 1 : 2));
    return { name: "outliers", values: ["top 1 %", "next 4 %", "other images"], codes, colors: ["#c53a32", "#ef8636", NO_VALUE_COLOR] };
  }

  const colorOf = (code) => (code < 0 ? NO_VALUE_COLOR : (scheme.colors ?? COLORS)[code % (scheme.colors ?? COLORS).length]);

  function showLegend() {
    const sizes = new Map();
    for (const code of scheme.codes) sizes.set(code, (sizes.get(code) ?? 0) + 1);
    const order = [...sizes.keys()].sort((a, b) => (a < 0) - (b < 0) || a - b);
    legend.replaceChildren(...order.map((code) => {
      const dot = element("i");
      dot.style.background = colorOf(code);
      const name = code < 0 ? (scheme.none ?? "no value") : scheme.values[code];
      const entry = button("", () => {
        highlighted = highlighted === code ? null : code;
        for (const each of legend.querySelectorAll("button")) each.setAttribute("aria-pressed", String(highlighted !== null && each === entry));
        if (highlighted !== null) select(rowsOf((i) => scheme.codes[i] === code), name);
        draw();
      });
      entry.setAttribute("aria-pressed", "false");
      entry.append(dot, name, element("span", {}, sizes.get(code).toLocaleString("en")));
      return element("li", {}, entry);
    }));
  }

  // ---- drawing -------------------------------------------------------------------------------

  const context = canvas.getContext("2d");
  const view = { x: 0.5, y: 0.5, scale: 1 }; // the center of the viewport, and pixels per unit
  let [width, height, ratio, frame, pixels] = [0, 0, 1, null, null];
  let [selected, lassoing, path, pending] = [new Set(), false, null, false];
  const thumbnails = new Map();

  function resize() {
    ratio = Math.min(devicePixelRatio || 1, 2);
    [width, height] = [Math.max(1, Math.round(viewport.clientWidth * ratio)), Math.max(1, Math.round(viewport.clientHeight * ratio))];
    [canvas.width, canvas.height] = [width, height];
    frame = context.createImageData(width, height);
    pixels = new Uint32Array(frame.data.buffer);
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
    const visibleExtent = Math.min(width, height) / view.scale;
    const base = Math.min(2.4, Math.max(1.2, 1.2 * Math.sqrt(20_000 / count)));
    const size = Math.max(1, Math.round(ratio * Math.min(4, (0.9 / Math.sqrt(visibleExtent)) * base)));
    const visible = grid.inside(view.x - width / 2 / view.scale, view.y - height / 2 / view.scale, view.x + width / 2 / view.scale, view.y + height / 2 / view.scale, options.maxThumbnails ?? MAX_THUMBNAILS);
    const fade = (color) => (dark.matches ? mix(color, 20, 0.75) : mix(color, 255, 0.75));
    const table = new Map();
    for (const code of new Set(scheme.codes)) {
      const color = colorOf(code);
      table.set(code, toPixel(highlighted === null || highlighted === code ? color : fade(color)));
    }
    pixels.fill(0);
    const fillSquare = (i, color, wide) => {
      const [left, top] = [Math.round(toX(xs[i]) - wide / 2), Math.round(toY(ys[i]) - wide / 2)];
      const [right, bottom] = [Math.min(left + wide, width), Math.min(top + wide, height)];
      for (let y = Math.max(0, top); y < bottom; y++) for (let x = Math.max(0, left); x < right; x++) pixels[y * width + x] = color;
    };
    for (let i = 0; i < count; i++) if (highlighted !== null && scheme.codes[i] !== highlighted) fillSquare(i, table.get(scheme.codes[i]), size);
    for (let i = 0; i < count; i++) if (highlighted === null || scheme.codes[i] === highlighted) fillSquare(i, table.get(scheme.codes[i]), size);
    if (selected.size) {
      const mark = toPixel(dark.matches ? "#ffffff" : "#000000");
      for (const i of selected) fillSquare(i, mark, size + 2 * Math.max(1, Math.round(ratio)));
      for (const i of selected) fillSquare(i, table.get(scheme.codes[i]), size);
    }
    context.putImageData(frame, 0, 0);
    if (visible && options.thumbnail) for (const i of visible) paintThumbnail(i);
    if (path) paintLasso();
  }

  function paintThumbnail(i) {
    const thumbnail = thumbnails.get(i);
    if (!thumbnail) {
      load(i).then(draw, () => {});
      return;
    }
    const size = Math.min(options.thumbnailSize, 40) * ratio * Math.min(1, Math.max(0.5, view.scale / width / 12));
    const scale = size / Math.max(thumbnail.width, thumbnail.height);
    const [drawnWidth, drawnHeight] = [thumbnail.width * scale, thumbnail.height * scale];
    const [left, top] = [toX(xs[i]) - drawnWidth / 2, toY(ys[i]) - drawnHeight / 2];
    context.drawImage(thumbnail.image, thumbnail.x, thumbnail.y, thumbnail.width, thumbnail.height, left, top, drawnWidth, drawnHeight);
    context.strokeStyle = selected.has(i) ? (dark.matches ? "#fff" : "#000") : colorOf(scheme.codes[i]);
    context.lineWidth = (selected.has(i) ? 3 : 1.5) * ratio;
    context.strokeRect(left, top, drawnWidth, drawnHeight);
  }

  function paintLasso() {
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
      const promise = options.thumbnail(i);
      loading.set(i, promise);
      promise.then((thumbnail) => thumbnails.set(i, thumbnail), () => {});
    }
    return loading.get(i);
  }

  // ---- navigation --------------------------------------------------------------------------------

  function zoom(factor, x = width / 2, y = height / 2) {
    const scale = Math.min(Math.max(view.scale * factor, Math.min(width, height) / 3), Math.min(width, height) * 4000);
    const [atX, atY] = [view.x + (x - width / 2) / view.scale, view.y + (y - height / 2) / view.scale];
    view.scale = scale;
    [view.x, view.y] = [atX - (x - width / 2) / scale, atY - (y - height / 2) / scale];
    draw();
  }

  function pan(dx, dy) {
    [view.x, view.y] = [view.x - dx / view.scale, view.y - dy / view.scale];
    draw();
  }

  const pointers = new Map();
  let dragged = 0;
  const position = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * (width / box.width), (event.clientY - box.top) * (height / box.height)];
  };
  const toMap = ([x, y]) => [view.x + (x - width / 2) / view.scale, view.y + (y - height / 2) / view.scale];

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.002)), ...position(event));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, position(event));
    dragged = 0;
    if (lassoing || event.shiftKey) path = [toMap(position(event))];
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = position(event);
    const before = pointers.get(event.pointerId);
    if (!before) return hover(now);
    dragged += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (path) {
      path.push(toMap(now));
      draw();
    } else if (pointers.size === 1) pan(now[0] - before[0], now[1] - before[1]);
    else {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const [was, is] = [Math.hypot(before[0] - other[0], before[1] - other[1]), Math.hypot(now[0] - other[0], now[1] - other[1])];
      zoom(is / Math.max(was, 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    pointers.set(event.pointerId, now);
  });
  const onPointerUp = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (path) {
      const polygon = path;
      path = null;
      if (polygon.length > 2 && event.type === "pointerup") select(rowsOf((i) => insidePolygon(xs[i], ys[i], polygon)), "Lasso");
      setLasso(false);
      draw();
    } else if (dragged < 5 * ratio && event.type === "pointerup") {
      const row = nearest(position(event));
      if (row === null) select([], "");
      else showNeighbors(row);
    }
  };
  canvas.addEventListener("pointerup", onPointerUp);
  canvas.addEventListener("pointercancel", onPointerUp);
  canvas.addEventListener("pointerleave", () => (tooltip.hidden = true));
  canvas.addEventListener("keydown", (event) => {
    const step = 60 * ratio;
    const keys = { "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: fit, ArrowLeft: () => pan(step, 0), ArrowRight: () => pan(-step, 0), ArrowUp: () => pan(0, step), ArrowDown: () => pan(0, -step), Escape: () => select([], "") };
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });

  function nearest(at) {
    const [x, y] = toMap(at);
    return grid.nearest(x, y, (POINTER_RADIUS * ratio) / view.scale);
  }

  let hovered = null;
  async function hover(at) {
    const row = nearest(at);
    tooltip.hidden = row === null;
    if (row === null) {
      hovered = null;
      return;
    }
    const [left, top] = [at[0] / ratio, at[1] / ratio];
    tooltip.style.left = `${left > viewport.clientWidth / 2 ? left - tooltip.offsetWidth - 14 : left + 14}px`;
    tooltip.style.top = `${Math.max(4, Math.min(top, viewport.clientHeight - tooltip.offsetHeight - 4))}px`;
    if (row === hovered) return;
    hovered = row;
    tooltip.replaceChildren(tooltipText(row));
    if (!options.thumbnail) return;
    const image = await thumbnailCanvas(row).catch(() => null);
    if (hovered === row && image) tooltip.prepend(image);
  }

  function tooltipText(row) {
    const value = scheme.codes[row] < 0 ? "" : scheme.values[scheme.codes[row]];
    return element("span", {}, value ? `${value} · ${title(ids[row])}` : title(ids[row]));
  }

  async function thumbnailCanvas(row) {
    const thumbnail = await load(row);
    const { x, y, width: w, height: h } = thumbnail;
    const copy = element("canvas", { width: w, height: h });
    copy.getContext("2d").drawImage(thumbnail.image, x, y, w, h, 0, 0, w, h);
    return copy;
  }

  // ---- selection ------------------------------------------------------------------------------

  function setLasso(on) {
    lassoing = on;
    lassoButton.setAttribute("aria-pressed", String(on));
    viewport.classList.toggle("lasso", on);
  }

  const rowsOf = (test) => {
    const rows = [];
    for (let i = 0; i < count; i++) if (test(i)) rows.push(i);
    return rows;
  };

  function showNeighbors(row) {
    const nearestRows = Array.from(neighbors.subarray(row * data.k, (row + 1) * data.k));
    showSelection([row, ...nearestRows], title(ids[row]), `${ids[row]}, followed by its nearest neighbors. Outlier score (LOF): ${lofScores[row].toFixed(2)}`);
    selectionActions.replaceChildren(...(options.searchURL ? [element("a", { href: options.searchURL(ids[row]), class: "button" }, "Search with this image")] : []), button("Close", () => select([], "")));
  }

  function select(rows, name) {
    selectionPanel.hidden = rows.length === 0;
    if (rows.length === 0) {
      selected = new Set();
      draw();
      return;
    }
    showSelection(rows, name, `${plural(rows.length)}${rows.length > MAX_SELECTED_SHOWN ? `, ${MAX_SELECTED_SHOWN} shown` : ""}`);
    const label = element("input", { type: "text", autocomplete: "off" });
    selectionActions.replaceChildren(element("label", {}, "Label", label), button("Download CSV", () => save(rows, label.value)), button("Close", () => select([], "")));
  }

  function showSelection(rows, name, text) {
    selected = new Set(rows);
    selectionPanel.hidden = false;
    heading.textContent = name;
    status.textContent = text;
    const step = Math.max(1, rows.length / MAX_SELECTED_SHOWN);
    const shown = Array.from({ length: Math.min(rows.length, MAX_SELECTED_SHOWN) }, (_, i) => rows[Math.floor(i * step)]);
    thumbnailList.replaceChildren(...shown.map((row) => {
      const entry = button(options.thumbnail ? "" : title(ids[row]), () => showNeighbors(row), title(ids[row]));
      if (options.thumbnail) thumbnailCanvas(row).then((image) => entry.append(image), () => entry.append("Image not available"));
      return element("li", {}, entry);
    }));
    draw();
  }

  function save(rows, label) {
    // A text that a spreadsheet would take for a formula gets an apostrophe, see csv_text.py.
    const isFormula = (text) => /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(text) && !/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text);
    const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const cell = (text) => quoted(isFormula(text) ? `'${text}` : text);
    const lines = ["id,label", ...rows.map((row) => `${cell(ids[row])},${cell(label)}`)];
    const url = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
    element("a", { href: url, download: "selection.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  new ResizeObserver(() => {
    const first = width === 0;
    resize();
    if (first) fit();
  }).observe(viewport);
  dark.addEventListener("change", draw);
  showLegend();
}

// ---- helpers --------------------------------------------------------------------------------------

// Points in a grid of cells, to find those near a position.
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

  // The nearest point within a radius, or null.
  nearest(x, y, radius) {
    let [best, smallest] = [null, radius * radius];
    for (const i of this.cells(x - radius, y - radius, x + radius, y + radius)) {
      const squared = (this.xs[i] - x) ** 2 + (this.ys[i] - y) ** 2;
      if (squared <= smallest) [best, smallest] = [i, squared];
    }
    return best;
  }

  // The points in a rectangle; null if they are more than `limit`.
  inside(left, top, right, bottom, limit) {
    const points = [];
    for (const i of this.cells(left, top, right, bottom)) {
      if (this.xs[i] < left || this.xs[i] > right || this.ys[i] < top || this.ys[i] > bottom) continue;
      if (points.push(i) > limit) return null;
    }
    return points;
  }
}

// Decodes base64 of little-endian numbers.
function decode(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  return new Kind(bytes.buffer);
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return [low, high];
}

// Whether a point is inside a polygon: whether a ray from it crosses the outline an odd number of times.
function insidePolygon(x, y, polygon) {
  let inside = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [[ax, ay], [bx, by]] = [polygon[i], polygon[j]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

const channels = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
const toPixel = (color) => {
  const [red, green, blue] = channels(color);
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
};
const mix = (color, towards, share) => `#${channels(color).map((each) => Math.round(each + (towards - each) * share).toString(16).padStart(2, "0")).join("")}`;
const title = (id) => id.slice(id.lastIndexOf(":") + 1).split("/").pop() || id;

function plural(count) {
  return `${count.toLocaleString("en")} image${count === 1 ? "" : "s"}`;
}

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  node.append(...children);
  return node;
}

function button(text, onClick, label = "") {
  const node = element("button", { type: "button", ...(label ? { "aria-label": label, title: label } : {}) }, text);
  node.addEventListener("click", onClick);
  return node;
}
