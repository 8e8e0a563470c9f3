// A drawing pad for galleries of small gray images. What is drawn is put where these have it: as
// large on the paper, its center of mass in the middle.

const FINE = 4; // drawn so many times larger, then made small

export function startPad(pad, button, drawn) {
  if (!pad) return;
  const canvas = pad.querySelector("canvas");
  const pen = canvas.getContext("2d");
  const paper = Object.fromEntries(Object.entries(pad.dataset).map(([name, value]) => [name, Number(value)]));
  let strokes = [];

  const gray = (value) => `rgb(${value} ${value} ${value})`;

  function redraw() {
    pen.fillStyle = gray(paper.ground);
    pen.fillRect(0, 0, canvas.width, canvas.height);
    lines(pen, strokes, (canvas.width * paper.stroke * paper.share) / paper.side, ([x, y]) => [x, y], gray(paper.pen));
  }

  async function tell(finished) {
    if (!strokes.length) return;
    const small = asPaper(strokes, paper, canvas.width, gray);
    small.toBlob((blob) => drawn(blob, finished), "image/png");
  }

  const place = (event) => {
    const area = canvas.getBoundingClientRect();
    return [((event.clientX - area.left) * canvas.width) / area.width, ((event.clientY - area.top) * canvas.height) / area.height];
  };

  canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    strokes.push([place(event)]);
    redraw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    strokes.at(-1).push(...event.getCoalescedEvents().map(place), place(event));
    redraw();
    tell(false);
  });
  canvas.addEventListener("pointerup", () => tell(true));
  pad.querySelector("#undo").addEventListener("click", () => {
    strokes.pop();
    redraw();
    tell(true);
  });
  pad.querySelector("#wipe").addEventListener("click", () => {
    strokes = [];
    redraw();
  });
  button.addEventListener("click", () => {
    pad.hidden = !pad.hidden;
    button.setAttribute("aria-expanded", String(!pad.hidden));
    redraw();
  });
}

function lines(pen, strokes, width, move, color) {
  pen.strokeStyle = pen.fillStyle = color;
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = width;
  for (const stroke of strokes) {
    pen.beginPath();
    const [first, ...rest] = stroke.map(move);
    pen.moveTo(...first);
    pen.lineTo(first[0] + 0.01, first[1]);
    for (const point of rest) pen.lineTo(...point);
    pen.stroke();
  }
}

function asPaper(strokes, paper, size, gray) {
  const all = strokes.flat();
  const range = (axis) => {
    const values = all.map((point) => point[axis]);
    return [Math.min(...values), Math.max(...values)];
  };
  const [[left, right], [top, bottom]] = [range(0), range(1)];
  const side = paper.side * FINE;
  const stroke = Math.max(1, paper.stroke) * FINE;
  const room = Math.max(1, side * paper.share - stroke);
  const scale = Math.min(room / Math.max(right - left, bottom - top, 1), side / size / 0.4);
  const large = canvasOf(side);
  const pen = large.getContext("2d", { willReadFrequently: true });
  const draw = (dx, dy) => {
    pen.fillStyle = gray(paper.ground);
    pen.fillRect(0, 0, side, side);
    lines(pen, strokes, stroke, ([x, y]) => [(x - (left + right) / 2) * scale + side / 2 + dx, (y - (top + bottom) / 2) * scale + side / 2 + dy], gray(paper.pen));
  };
  draw(0, 0);
  const [x, y] = center(pen.getImageData(0, 0, side, side), paper.ground);
  draw(side / 2 - x, side / 2 - y);
  const small = canvasOf(paper.side);
  const to = small.getContext("2d");
  to.imageSmoothingQuality = "high";
  to.drawImage(large, 0, 0, paper.side, paper.side);
  return small;
}

function canvasOf(side) {
  return Object.assign(document.createElement("canvas"), { width: side, height: side });
}

function center({ data, width }, ground) {
  let mass = 0, across = 0, down = 0;
  for (let i = 0; i < data.length; i += 4) {
    const weight = Math.abs(data[i] - ground);
    const at = i / 4;
    mass += weight;
    across += weight * (at % width);
    down += weight * Math.floor(at / width);
  }
  return mass ? [across / mass + 0.5, down / mass + 0.5] : [width / 2, width / 2];
}
