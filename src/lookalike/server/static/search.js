// The search page: one query, its options, and the answer to both.

import { ask, element, parsed, Problem, problemBox } from "./http.js";
import { fetched, show } from "./pictures.js";
import { Cutter } from "./cutter.js";
import { startPad } from "./pad.js";
import { startCamera } from "./camera.js";
import * as recent from "./recent.js";

let form, results, gallery, cutter;
let query = null; // {kind: "id" | "text" | "url", value} or {kind: "image", blob, name, local}
let running = null;
let at = location.search;

export function start(main) {
  form = main.querySelector("#ask");
  results = main.querySelector("#results");
  gallery = main.dataset.gallery;
  cutter = new Cutter(form, () => run());
  takeImages(main);
  form.addEventListener("change", changed);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = form.elements.text?.value.trim();
    if (text && text !== (query?.kind === "text" ? query.value : "")) put({ kind: "text", value: text });
    else run();
  });
  form.querySelector("#fetch")?.addEventListener("click", () => {
    const value = form.querySelector("#url[type=url]").value.trim();
    if (value) put({ kind: "url", value });
  });
  form.querySelector("#clear").addEventListener("click", () => {
    location.href = `/g/${gallery}`;
  });
  results.addEventListener("click", followed);
  results.addEventListener("keydown", moved);
  addEventListener("popstate", () => location.search !== at && location.reload());
  startPad(form.querySelector("#pad"), form.querySelector("#draw"), drawn);
  startCamera(main.querySelector("#snap"), form.querySelector("#camera"), (blob) => take(blob, "camera.jpg"));
  if (matchMedia("(min-width: 60rem)").matches) form.querySelector("details.options").open = true;
  recent.start(main.querySelector("#recent"), gallery, put);
  return arrive();
}

// What the address already asks for.
async function arrive() {
  const asked = new URLSearchParams(location.search);
  const local = asked.get("local");
  if (local) {
    const found = await recent.find(local);
    if (found) return put({ kind: "image", blob: found.blob, name: found.name, local }, { push: false });
    return fail(new Problem("The image is not here", "This address is of a search by an image that was never sent anywhere but to be searched for: only the browser that asked has it. Drop the image again."));
  }
  const kind = ["id", "text", "url"].find((name) => asked.get(name));
  if (kind) {
    query = { kind, value: asked.get(kind) };
    await present();
    recent.remember(gallery, query);
  }
}

// ---- queries ---------------------------------------------------------------------------------

function takeImages(main) {
  const file = form.querySelector("#file");
  file.addEventListener("change", () => {
    if (file.files.length) take(file.files[0], file.files[0].name);
    file.value = "";
  });
  const over = main.querySelector("#dropping");
  const holdsFile = (event) => [...(event.dataTransfer?.types ?? [])].some((type) => type === "Files" || type === "text/uri-list");
  let depth = 0;
  addEventListener("dragenter", (event) => {
    if (!holdsFile(event)) return;
    depth += 1;
    over.hidden = false;
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) over.hidden = true;
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    over.hidden = true;
    const dropped = [...event.dataTransfer.files].find((each) => each.size);
    if (dropped) return take(dropped, dropped.name);
    fail(new Problem("That was not an image file", "Drop one from a folder, or paste it."));
  });
  addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (!pasted) return;
    event.preventDefault();
    take(pasted, pasted.name || "pasted image");
  });
}

function take(blob, name) {
  const most = Number(form.dataset.most);
  if (blob.size > most) {
    return fail(new Problem("The image is too large", `${name} has ${(blob.size / 1e6).toFixed(1)} MB; at most ${most / 1e6} MB can be sent.`));
  }
  return put({ kind: "image", blob, name });
}

// While a drawing goes on, only the newest state of it is asked, one request at a time.
let waiting = null;
async function drawn(blob, finished) {
  waiting = { blob, finished };
  if (drawn.busy) return;
  drawn.busy = true;
  while (waiting) {
    const { blob: now, finished: last } = waiting;
    waiting = null;
    query = { kind: "image", blob: now, name: "drawing" };
    await run({ push: last, keep: last });
  }
  drawn.busy = false;
}

async function put(asked, { push = true } = {}) {
  query = asked;
  cutter.clear();
  await present();
  await run({ push, keep: true });
}

// Show the query beside its answer.
async function present() {
  const figure = form.querySelector("#query");
  const frame = form.querySelector("#frame");
  const pictured = query.kind === "image" || query.kind === "id";
  for (const kind of ["id", "url"]) form.elements.namedItem(kind).value = query.kind === kind ? query.value : "";
  if (form.elements.text) form.elements.text.value = query.kind === "text" ? query.value : "";
  figure.hidden = !pictured;
  form.querySelector("#clear").hidden = false;
  form.querySelector("#caption").textContent = query.kind === "image" ? query.name : query.value;
  if (!pictured) return cutter.off();
  const image = element("img", { alt: "The query" });
  frame.replaceChildren(image);
  try {
    const blob = query.blob ?? (await fetched(`/v1/galleries/${gallery}/item/image?id=${encodeURIComponent(query.value)}`));
    image.src = URL.createObjectURL(blob);
    await image.decode();
    cutter.on(frame, image);
  } catch {
    cutter.off();
    if (query.kind === "image") frame.replaceChildren("This browser cannot show the image; it is searched for all the same.");
    else frame.replaceChildren("Its image cannot be shown.");
  }
}

// ---- asking ----------------------------------------------------------------------------------

function options() {
  const found = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (value && !["id", "url", "text"].includes(name)) found.append(name, value);
  }
  return found;
}

let timer = 0;
function changed(event) {
  if (["file", "text", "url"].includes(event.target.id)) return;
  clearTimeout(timer);
  timer = setTimeout(() => run(), event.target.type === "number" ? 250 : 0);
}

async function run({ push = true, keep = false } = {}) {
  running?.abort();
  const mine = (running = new AbortController());
  const asked = options();
  const shown = new URLSearchParams(asked);
  const slow = setTimeout(() => results.setAttribute("aria-busy", "true"), 120);
  try {
    const request = { signal: mine.signal };
    if (query?.kind === "image") {
      Object.assign(request, { method: "POST", body: query.blob });
    } else if (query) {
      asked.set(query.kind, query.value);
      shown.set(query.kind, query.value);
    }
    const answer = await ask(`/g/${gallery}/results?${asked}`, request);
    const page = parsed(await answer.text());
    if (keep && query) {
      const local = await recent.remember(gallery, query);
      if (local) query.local = local;
    }
    if (query?.local) shown.set("local", query.local);
    if (mine.signal.aborted) return;
    results.replaceChildren(...page.body.childNodes);
    keepQuery();
    show(results);
    if (push) history[shown.toString() === location.search.slice(1) ? "replaceState" : "pushState"]({}, "", `?${shown}`);
    at = location.search;
  } catch (problem) {
    if (problem.name !== "AbortError") fail(problem);
  } finally {
    clearTimeout(slow);
    if (running === mine) results.removeAttribute("aria-busy");
  }
}

function fail(problem) {
  results.replaceChildren(problemBox(problem));
  results.removeAttribute("aria-busy");
}

// ---- results ---------------------------------------------------------------------------------

// Links to other starting points stay on this page; all others are addresses of their own.
function followed(event) {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || link.target) return;
  const url = new URL(link.href);
  if (url.pathname !== location.pathname || !url.searchParams.get("id")) return;
  event.preventDefault();
  put({ kind: "id", value: url.searchParams.get("id") });
  scrollTo({ top: 0 });
}

// The query's own options stay in the links that were made before.
function keepQuery() {
  results.tabIndex = -1;
}

// Arrow keys go from hit to hit.
function moved(event) {
  const links = [...results.querySelectorAll(".shot")];
  const at = links.indexOf(document.activeElement);
  if (at < 0) return;
  const top = links[at].getBoundingClientRect().top;
  const across = Math.max(1, links.filter((link) => Math.abs(link.getBoundingClientRect().top - top) < 4).length);
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
  if (!step || !links[at + step]) return;
  event.preventDefault();
  links[at + step].focus();
}
