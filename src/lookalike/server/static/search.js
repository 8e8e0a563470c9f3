// The search page: one query, its options, and the results.

import { element, parseHTML, Problem, problemBox, request } from "./http.js";
import { fetchBlob, loadImages } from "./images.js";
import { CropBox } from "./crop_box.js";
import { setUpDrawingPad } from "./drawing_pad.js";
import { setUpCamera } from "./camera.js";
import * as history from "./history.js";

let form, results, gallery, cropBox;
let query = null; // {kind: "id" | "url", value} or {kind: "image", blob, name, upload}; a text is in the form
let activeRequest = null;
let currentSearch = location.search;

export function start(main) {
  form = main.querySelector("#search-form");
  results = main.querySelector("#results");
  gallery = main.dataset.gallery;
  results.tabIndex = -1;
  cropBox = new CropBox(form, () => run());
  acceptImages(main);
  form.addEventListener("change", onOptionChange);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    form.querySelector("#clear").hidden = false;
    run({ remember: true });
  });
  form.querySelector("#search-url")?.addEventListener("click", () => {
    const value = form.querySelector("#url[type=url]").value.trim();
    if (value) setQuery({ kind: "url", value });
  });
  form.querySelector("#clear").addEventListener("click", () => {
    location.href = `/g/${gallery}`;
  });
  results.addEventListener("click", onResultClick);
  results.addEventListener("keydown", onResultKeyDown);
  addEventListener("popstate", () => location.search !== currentSearch && location.reload());
  setUpDrawingPad(form.querySelector("#drawing-pad"), form.querySelector("#draw"), onDraw);
  setUpCamera(main.querySelector("#camera-dialog"), form.querySelector("#camera"), (blob) => upload(blob, "camera.jpg"));
  if (matchMedia("(min-width: 60rem)").matches) form.querySelector("details.options").open = true;
  history.start(main.querySelector("#history"), gallery, setQuery);
  return restoreQuery();
}

// Restores the query from the page's URL.
async function restoreQuery() {
  const parameters = new URLSearchParams(location.search);
  const uploadId = parameters.get("upload");
  if (uploadId) {
    const entry = await history.find(uploadId);
    const text = parameters.get("text") ?? "";
    if (entry) return setQuery({ kind: "image", blob: entry.blob, name: entry.name, upload: uploadId }, { push: false, text });
    return showProblem(new Problem("Image not available", "The uploaded image isn't stored; upload it again."));
  }
  const kind = ["id", "url"].find((name) => parameters.get(name));
  if (kind) query = { kind, value: parameters.get(kind) };
  if (!query && !parameters.get("text")) return;
  await showQuery();
  history.add(query ?? { kind: "text", value: parameters.get("text") });
}

// ---- queries ---------------------------------------------------------------------------------

// Accepts images that are chosen, dropped or pasted.
function acceptImages(main) {
  const file = form.querySelector("#file");
  file.addEventListener("change", () => {
    if (file.files.length) upload(file.files[0], file.files[0].name);
    file.value = "";
  });
  const overlay = main.querySelector("#drop-overlay");
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].some((type) => type === "Files" || type === "text/uri-list");
  let depth = 0;
  addEventListener("dragenter", (event) => {
    if (!hasFile(event)) return;
    depth += 1;
    overlay.hidden = false;
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) overlay.hidden = true;
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    overlay.hidden = true;
    const dropped = [...event.dataTransfer.files].find((each) => each.size);
    if (dropped) return upload(dropped, dropped.name);
    showProblem(new Problem("Not an image file", "Drop an image file, or paste an image."));
  });
  addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (!pasted) return;
    event.preventDefault();
    upload(pasted, pasted.name || "pasted image");
  });
}

function upload(blob, name) {
  const maxBytes = Number(form.dataset.maxBytes);
  if (blob.size > maxBytes) {
    return showProblem(new Problem("Image too large", `${name} is ${(blob.size / 1e6).toFixed(1)} MB; the limit is ${maxBytes / 1e6} MB.`));
  }
  return setQuery({ kind: "image", blob, name });
}

// While drawing, only the latest state is searched, one request at a time.
let latestDrawing = null;
let drawingBusy = false;
async function onDraw(blob, finished) {
  latestDrawing = { blob, finished };
  if (drawingBusy) return;
  drawingBusy = true;
  while (latestDrawing) {
    const drawing = latestDrawing;
    latestDrawing = null;
    query = { kind: "image", blob: drawing.blob, name: "drawing" };
    await run({ push: drawing.finished, remember: drawing.finished });
  }
  drawingBusy = false;
}

// Replaces image and text by an image, or by a text: {kind: "text", value}.
async function setQuery(newQuery, { push = true, text = "" } = {}) {
  query = newQuery.kind === "text" ? null : newQuery;
  form.elements.text.value = query ? text : newQuery.value;
  cropBox.clear();
  await showQuery();
  await run({ push, remember: true });
}

// Shows the query beside the results.
async function showQuery() {
  const figure = form.querySelector("#query-image");
  const frame = form.querySelector("#query-frame");
  const hasImage = query?.kind === "image" || query?.kind === "id";
  for (const kind of ["id", "url"]) form.elements.namedItem(kind).value = query?.kind === kind ? query.value : "";
  figure.hidden = !hasImage;
  form.querySelector("#clear").hidden = false;
  if (!hasImage) return cropBox.disable();
  form.querySelector("#query-caption").textContent = query.kind === "image" ? query.name : query.value;
  const image = element("img", { alt: "Query image" });
  frame.replaceChildren(image);
  try {
    const blob = query.blob ?? (await fetchBlob(`/v1/galleries/${gallery}/item/image?id=${encodeURIComponent(query.value)}`));
    image.src = URL.createObjectURL(blob);
    await image.decode();
    cropBox.enable(frame, image);
  } catch {
    cropBox.disable();
    frame.replaceChildren(query.kind === "image" ? "No preview in this browser" : "Image not available");
  }
}

// ---- searches --------------------------------------------------------------------------------

function searchOptions() {
  const options = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (value.trim?.() && !["id", "url"].includes(name)) options.append(name, value);
  }
  return options;
}

let changeTimer = 0;
function onOptionChange(event) {
  if (["file", "text", "url"].includes(event.target.id)) return;
  clearTimeout(changeTimer);
  changeTimer = setTimeout(() => run(), event.target.type === "number" ? 250 : 0);
}

// Searches and shows the results; `push` adds to the browser's history, `remember` to recent queries.
async function run({ push = true, remember = false } = {}) {
  activeRequest?.abort();
  const controller = (activeRequest = new AbortController());
  const requestParameters = searchOptions();
  const pageParameters = new URLSearchParams(requestParameters);
  const busyTimer = setTimeout(() => results.setAttribute("aria-busy", "true"), 120);
  try {
    const options = { signal: controller.signal };
    if (query?.kind === "image") {
      Object.assign(options, { method: "POST", body: query.blob });
    } else if (query) {
      requestParameters.set(query.kind, query.value);
      pageParameters.set(query.kind, query.value);
    }
    const response = await request(`/g/${gallery}/results?${requestParameters}`, options);
    const page = parseHTML(await response.text());
    const text = requestParameters.get("text");
    if (remember && (query || text)) {
      const uploadId = await history.add(query ?? { kind: "text", value: text });
      if (uploadId) query.upload = uploadId;
    }
    if (query?.upload) pageParameters.set("upload", query.upload);
    if (controller.signal.aborted) return;
    results.replaceChildren(...page.body.childNodes);
    loadImages(results);
    if (push) {
      const unchanged = pageParameters.toString() === location.search.slice(1);
      window.history[unchanged ? "replaceState" : "pushState"]({}, "", `?${pageParameters}`);
    }
    currentSearch = location.search;
  } catch (problem) {
    if (problem.name !== "AbortError") showProblem(problem);
  } finally {
    clearTimeout(busyTimer);
    if (activeRequest === controller) results.removeAttribute("aria-busy");
  }
}

function showProblem(problem) {
  results.replaceChildren(problemBox(problem));
  results.removeAttribute("aria-busy");
}

// ---- results ---------------------------------------------------------------------------------

// Links to queries are searched in place; other links are followed.
function onResultClick(event) {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || link.target) return;
  const url = new URL(link.href);
  if (url.pathname !== location.pathname || !url.searchParams.get("id")) return;
  event.preventDefault();
  setQuery({ kind: "id", value: url.searchParams.get("id") });
  scrollTo({ top: 0 });
}

// Arrow keys move the focus from result to result.
function onResultKeyDown(event) {
  const links = [...results.querySelectorAll(".thumbnail")];
  const index = links.indexOf(document.activeElement);
  if (index < 0) return;
  const top = links[index].getBoundingClientRect().top;
  const perRow = Math.max(1, links.filter((link) => Math.abs(link.getBoundingClientRect().top - top) < 4).length);
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow, ArrowUp: -perRow }[event.key];
  if (!step || !links[index + step]) return;
  event.preventDefault();
  links[index + step].focus();
}
