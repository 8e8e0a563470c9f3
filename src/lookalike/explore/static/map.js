// The map of a gallery: drag to pan, wheel or pinch to zoom, point at an image to see it, select with
// the lasso. Used by the page of the service and by the file that lookalike explore map writes.

const COLORS = ["#3b76af", "#ef8636", "#519e3e", "#c53a32", "#8d69b8", "#84584e", "#d57dbe", "#8a8a2f", "#40a8b9", "#1f9e74", "#b0469f", "#6f7fd8", "#a96b1d", "#4d8f96", "#d1605e", "#5d7d3a"];
const NO_VALUE_COLOR = "#9aa1a8";
const MAX_THUMBNAILS = 400; // drawn on the map at a time
const MAX_AMONG_THUMBNAILS = 4_000; // points in view up to which some are drawn as thumbnails
const MAX_SELECTED_SHOWN = 48;
const MAX_COLORED = COLORS.length; // values with a color of their own, the most frequent ones
const POINTER_RADIUS = 14; // pixels
const MARGIN = 0.04; // around all images, as a share of the window

// Shows `data`, the document of lookalike.explore.map, in `root`. Options:
// `t(key, values)` returns texts, `thumbnail(row)` an image and the part of it to draw, `thumbnailSize`
// is its size in pixels, `maxThumbnails` how many to draw on the map at a time, `searchURL(id)` the URL
// of a search, and `onSelect(ids)` adds images to a selection elsewhere.
export function showMap(root, data, options = {}) {
  const { t } = options;
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
  const canvas = element("canvas", { tabindex: "0", role: "img", "aria-label": t("map-keys", { n: count }) });
  const tooltip = element("div", { class: "tooltip", hidden: "" });
  const colorBy = element("select");
  const lassoButton = button(t("map-lasso"), () => setLasso(!lassoing));
  const toolbar = element("div", { class: "toolbar" }, element("label", {}, t("map-color-by"), " ", colorBy), button("+", () => zoom(1.5), t("zoom-in")), button("−", () => zoom(1 / 1.5), t("zoom-out")), button(t("fit-image"), fit, t("map-fit")), lassoButton);
  lassoButton.setAttribute("aria-pressed", "false");
  const legend = element("ul", { class: "legend" });
  const about = element("p", { class: "muted" }, data.trustworthiness === null ? t("map-same", { n: count }) : t("map-quality", { n: count, trustworthiness: data.trustworthiness.toFixed(3), preserved: Math.round(100 * data.neighborhood_preservation) }));
  const selectionPanel = element("section", { "aria-label": t("selection"), hidden: "" });
  const heading = element("h2", { tabindex: "-1" });
  const status = element("p", { class: "muted", role: "status" });
  const thumbnailList = element("ul", { class: "thumbnails" });
  const selectionActions = element("div", { class: "selection-actions" });
  selectionPanel.append(heading, status, selectionActions, thumbnailList);
  viewport.append(canvas, tooltip);
  root.classList.add("map");
  root.replaceChildren(element("div", {}, toolbar, viewport), element("aside", {}, selectionPanel, element("section", { "aria-label": t("map-legend") }, legend), about));

  // ---- colors -------------------------------------------------------------------------------

  const schemes = [
    { name: t("map-clusters"), none: t("map-unclustered"), values: distinct(data.clusters.map((each) => each.name)), codes: membership },
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
    return { name: t("map-outliers"), values: [t("map-top"), t("map-next"), t("map-others")], codes, colors: ["#c53a32", "#ef8636", NO_VALUE_COLOR] };
  }

  // The codes of a scheme, the most frequent first; values without a color of their own are gray.
  function ranked() {
    if (!scheme.ranked) {
      const sizes = new Map();
      for (const code of scheme.codes) sizes.set(code, (sizes.get(code) ?? 0) + 1);
      const codes = [...sizes.keys()].sort((a, b) => (a < 0) - (b < 0) || (scheme.colors ? a - b : sizes.get(b) - sizes.get(a) || a - b));
      const colors = new Map(codes.map((code, place) => [code, code < 0 || place >= MAX_COLORED ? NO_VALUE_COLOR : (scheme.colors ?? COLORS)[scheme.colors ? code : place]]));
      scheme.ranked = { sizes, codes, colors };
    }
    return scheme.ranked;
  }

  const colorOf = (code) => ranked().colors.get(code);

  function showLegend() {
    const { sizes, codes } = ranked();
    const entries = codes.map((code) => {
      const dot = element("i");
      dot.style.background = colorOf(code);
      const name = code < 0 ? (scheme.none ?? t("no-value")) : scheme.values[code];
      const entry = button("", () => {
        highlighted = highlighted === code ? null : code;
        for (const each of legend.querySelectorAll("button")) each.setAttribute("aria-pressed", String(highlighted !== null && each === entry));
        if (highlighted !== null) select(rowsOf((i) => scheme.codes[i] === code), name);
        draw();
      });
      entry.setAttribute("aria-pressed", "false");
      entry.append(dot, name, element("span", {}, t("number", { value: sizes.get(code) })));
      return element("li", {}, entry);
    });
    legend.replaceChildren(...entries.slice(0, MAX_COLORED));
    const others = entries.slice(MAX_COLORED);
    if (others.length) {
      const list = element("ul", { class: "legend" });
      list.append(...others);
      legend.append(element("li", {}, element("details", {}, element("summary", {}, t("map-more", { n: others.length })), list)));
    }
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

  const bounds = { x: extent(xs), y: extent(ys) };
  const center = { x: (bounds.x[0] + bounds.x[1]) / 2, y: (bounds.y[0] + bounds.y[1]) / 2 };

  // The scale at which all images fill the window.
  function fitScale() {
    const [across, down] = [bounds.x[1] - bounds.x[0], bounds.y[1] - bounds.y[0]];
    return (1 - 2 * MARGIN) * Math.min(width / Math.max(across, 1e-3), height / Math.max(down, 1e-3));
  }

  function fit() {
    Object.assign(view, center, { scale: fitScale() });
    draw();
  }

  // Keeps the view on the images: no smaller than all of them, and not beside them.
  function bound() {
    const least = fitScale();
    const closest = Math.max(8, 1.5 * Math.sqrt(count)); // a few images fill the window
    view.scale = Math.min(Math.max(view.scale, least), least * closest);
    for (const [axis, length] of [["x", width], ["y", height]]) {
      const [low, high] = bounds[axis];
      const room = ((0.5 - MARGIN) * length) / view.scale;
      view[axis] = high - low <= 2 * room ? center[axis] : Math.min(Math.max(view[axis], low + room), high - room);
    }
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
    bound();
    const visible = grid.inside(view.x - width / 2 / view.scale, view.y - height / 2 / view.scale, view.x + width / 2 / view.scale, view.y + height / 2 / view.scale, MAX_AMONG_THUMBNAILS);
    const spacing = Math.sqrt((width * height) / (visible?.length || count * Math.min(1, (width * height) / (fitScale() * view.scale))));
    const size = Math.round(Math.min(9 * ratio, Math.max(1.5 * ratio, 0.22 * spacing)));
    const fade = (color) => (dark.matches ? mix(color, 20, 0.75) : mix(color, 255, 0.75));
    const table = new Map();
    for (const code of ranked().codes) {
      const color = colorOf(code);
      table.set(code, toPixel(highlighted === null || highlighted === code ? color : fade(color)));
    }
    pixels.fill(0);
    const fillDisk = (i, color, wide) => {
      const [x, y, radius] = [toX(xs[i]), toY(ys[i]), wide / 2];
      const [left, right] = [Math.max(0, Math.round(x - radius)), Math.min(width, Math.round(x + radius))];
      const [top, bottom] = [Math.max(0, Math.round(y - radius)), Math.min(height, Math.round(y + radius))];
      for (let row = top; row < bottom; row++) {
        for (let column = left; column < right; column++) {
          if (wide > 4 && (column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2 > radius * radius) continue;
          pixels[row * width + column] = color;
        }
      }
    };
    for (let i = 0; i < count; i++) if (highlighted !== null && scheme.codes[i] !== highlighted) fillDisk(i, table.get(scheme.codes[i]), size);
    for (let i = 0; i < count; i++) if (highlighted === null || scheme.codes[i] === highlighted) fillDisk(i, table.get(scheme.codes[i]), size);
    if (selected.size) {
      const mark = toPixel(dark.matches ? "#ffffff" : "#000000");
      for (const i of selected) fillDisk(i, mark, size + 2 * Math.max(1, Math.round(ratio)));
      for (const i of selected) fillDisk(i, table.get(scheme.codes[i]), size);
    }
    context.putImageData(frame, 0, 0);
    if (visible && options.thumbnail) paintThumbnails(visible);
    if (path) paintLasso();
  }

  // Draws some of the points in view as thumbnails, the most central one of each cell of a grid that is
  // fixed to the map, so that they stay where they are while it is moved, and overlap little.
  function paintThumbnails(visible) {
    const cell = 2 ** Math.ceil(Math.log2((0.8 * options.thumbnailSize * ratio) / view.scale));
    const central = new Map();
    for (const i of visible) {
      const [x, y] = [xs[i] / cell, ys[i] / cell];
      const key = Math.floor(x) * 65_536 + Math.floor(y);
      const distance = Math.hypot(x - Math.floor(x) - 0.5, y - Math.floor(y) - 0.5);
      if (!(central.get(key)?.distance <= distance)) central.set(key, { i, distance });
    }
    if (central.size > (options.maxThumbnails ?? MAX_THUMBNAILS)) return;
    for (const { i } of central.values()) paintThumbnail(i, 0.8 * cell * view.scale);
  }

  function paintThumbnail(i, space) {
    const thumbnail = thumbnails.get(i);
    if (!thumbnail) {
      load(i).then(draw, () => {});
      return;
    }
    const scale = Math.min(space, 2 * options.thumbnailSize * ratio) / Math.max(thumbnail.width, thumbnail.height);
    const [drawnWidth, drawnHeight] = [thumbnail.width * scale, thumbnail.height * scale];
    const [left, top] = [toX(xs[i]) - drawnWidth / 2, toY(ys[i]) - drawnHeight / 2];
    context.globalAlpha = highlighted === null || scheme.codes[i] === highlighted ? 1 : 0.25;
    context.drawImage(thumbnail.image, thumbnail.x, thumbnail.y, thumbnail.width, thumbnail.height, left, top, drawnWidth, drawnHeight);
    context.strokeStyle = selected.has(i) ? (dark.matches ? "#fff" : "#000") : colorOf(scheme.codes[i]);
    context.lineWidth = (selected.has(i) ? 3.5 : 2) * ratio;
    context.strokeRect(left, top, drawnWidth, drawnHeight);
    context.globalAlpha = 1;
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
    const [atX, atY] = [view.x + (x - width / 2) / view.scale, view.y + (y - height / 2) / view.scale];
    view.scale *= factor;
    bound();
    [view.x, view.y] = [atX - (x - width / 2) / view.scale, atY - (y - height / 2) / view.scale];
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
      if (polygon.length > 2 && event.type === "pointerup") select(rowsOf((i) => insidePolygon(xs[i], ys[i], polygon)), t("map-lasso"));
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
    if (row !== hovered) {
      hovered = row;
      tooltip.replaceChildren(tooltipText(row));
    }
    placeTooltip(at);
    if (!options.thumbnail || tooltip.querySelector("canvas")) return;
    const image = await thumbnailCanvas(row).catch(() => null);
    if (hovered !== row || !image || tooltip.querySelector("canvas")) return;
    tooltip.prepend(image);
    placeTooltip(at);
  }

  // Beside the pointer, and inside the window.
  function placeTooltip(at) {
    const [left, top] = [at[0] / ratio, at[1] / ratio];
    const beside = left > viewport.clientWidth / 2 ? left - tooltip.offsetWidth - 14 : left + 14;
    const inside = (value, size, room) => Math.max(4, Math.min(value, room - size - 4));
    tooltip.style.left = `${inside(beside, tooltip.offsetWidth, viewport.clientWidth)}px`;
    tooltip.style.top = `${inside(top, tooltip.offsetHeight, viewport.clientHeight)}px`;
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
    showSelection([row, ...nearestRows], title(ids[row]), t("map-neighbors", { id: ids[row], score: lofScores[row].toFixed(2) }));
    selectionActions.replaceChildren(...(options.searchURL ? [element("a", { href: options.searchURL(ids[row]), class: "button" }, t("similar"))] : []), button(t("close"), () => select([], "")));
  }

  function select(rows, name) {
    selectionPanel.hidden = rows.length === 0;
    if (rows.length === 0) {
      selected = new Set();
      draw();
      return;
    }
    const shown = rows.length > MAX_SELECTED_SHOWN ? `, ${t("map-shown", { n: MAX_SELECTED_SHOWN })}` : "";
    showSelection(rows, name, `${t("items-count", { n: rows.length })}${shown}`);
    const label = element("input", { type: "text", autocomplete: "off" });
    const add = options.onSelect ? [button(t("select"), () => options.onSelect(rows.map((row) => ids[row])))] : [];
    selectionActions.replaceChildren(element("label", {}, t("label"), label), button(t("map-download"), () => save(rows, label.value)), ...add, button(t("close"), () => select([], "")));
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
      if (options.thumbnail) thumbnailCanvas(row).then((image) => entry.append(image), () => entry.append(t("image-missing")));
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

// Names, with a number after those that occur again.
function distinct(names) {
  const seen = new Map();
  return names.map((name) => {
    seen.set(name, (seen.get(name) ?? 0) + 1);
    return seen.get(name) > 1 ? `${name} (${seen.get(name)})` : name;
  });
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
