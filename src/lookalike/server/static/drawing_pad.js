// A drawing pad for galleries of small grayscale images. Drawings are normalized to the style of the
// gallery: the same size and stroke width, with the center of mass in the middle.

const SUPERSAMPLING = 4;

// `onDraw(blob, finished)` is called while drawing and at the end of each stroke.
export function setUpDrawingPad(pad, onDraw) {
  if (!pad) return;
  const canvas = pad.querySelector("canvas");
  const context = canvas.getContext("2d");
  // side, background, ink, extent and strokeWidth, see sketch.py
  const style = Object.fromEntries(Object.entries(pad.dataset).map(([name, value]) => [name, Number(value)]));
  let strokes = [];

  function redraw() {
    context.fillStyle = gray(style.background);
    context.fillRect(0, 0, canvas.width, canvas.height);
    drawStrokes(context, strokes, (canvas.width * style.strokeWidth * style.extent) / style.side, (point) => point, gray(style.ink));
  }

  function submit(finished) {
    if (!strokes.length) return;
    normalize(strokes, style, canvas.width).toBlob((blob) => onDraw(blob, finished), "image/png");
  }

  const position = (event) => {
    const bounds = canvas.getBoundingClientRect();
    return [((event.clientX - bounds.left) * canvas.width) / bounds.width, ((event.clientY - bounds.top) * canvas.height) / bounds.height];
  };

  canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    strokes.push([position(event)]);
    redraw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    strokes.at(-1).push(...event.getCoalescedEvents().map(position), position(event));
    redraw();
    submit(false);
  });
  canvas.addEventListener("pointerup", () => submit(true));
  pad.querySelector("#undo-stroke").addEventListener("click", () => {
    strokes.pop();
    redraw();
    submit(true);
  });
  pad.querySelector("#clear-drawing").addEventListener("click", () => {
    strokes = [];
    redraw();
  });
  redraw();
}

const gray = (value) => `rgb(${value} ${value} ${value})`;

function drawStrokes(context, strokes, width, transform, color) {
  context.strokeStyle = context.fillStyle = color;
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = width;
  for (const stroke of strokes) {
    context.beginPath();
    const [first, ...rest] = stroke.map(transform);
    context.moveTo(...first);
    context.lineTo(first[0] + 0.01, first[1]); // so that a single point is drawn
    for (const point of rest) context.lineTo(...point);
    context.stroke();
  }
}

// Returns a canvas with the drawing in the style of the gallery.
function normalize(strokes, style, padSize) {
  const points = strokes.flat();
  const range = (axis) => {
    const values = points.map((point) => point[axis]);
    return [Math.min(...values), Math.max(...values)];
  };
  const [[left, right], [top, bottom]] = [range(0), range(1)];
  const side = style.side * SUPERSAMPLING;
  const strokeWidth = Math.max(1, style.strokeWidth) * SUPERSAMPLING;
  const extent = Math.max(1, side * style.extent - strokeWidth);
  const scale = Math.min(extent / Math.max(right - left, bottom - top, 1), side / padSize / 0.4);
  const large = createCanvas(side);
  const context = large.getContext("2d", { willReadFrequently: true });
  const draw = (dx, dy) => {
    context.fillStyle = gray(style.background);
    context.fillRect(0, 0, side, side);
    const transform = ([x, y]) => [(x - (left + right) / 2) * scale + side / 2 + dx, (y - (top + bottom) / 2) * scale + side / 2 + dy];
    drawStrokes(context, strokes, strokeWidth, transform, gray(style.ink));
  };
  draw(0, 0);
  const [x, y] = centerOfMass(context.getImageData(0, 0, side, side), style.background);
  draw(side / 2 - x, side / 2 - y);
  const small = createCanvas(style.side);
  const target = small.getContext("2d");
  target.imageSmoothingQuality = "high";
  target.drawImage(large, 0, 0, style.side, style.side);
  return small;
}

function createCanvas(side) {
  return Object.assign(document.createElement("canvas"), { width: side, height: side });
}

function centerOfMass({ data, width }, background) {
  let [mass, sumX, sumY] = [0, 0, 0];
  for (let i = 0; i < data.length; i += 4) {
    const weight = Math.abs(data[i] - background);
    const pixel = i / 4;
    mass += weight;
    sumX += weight * (pixel % width);
    sumY += weight * Math.floor(pixel / width);
  }
  return mass ? [sumX / mass + 0.5, sumY / mass + 0.5] : [width / 2, width / 2];
}
