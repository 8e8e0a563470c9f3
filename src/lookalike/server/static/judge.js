// The judging view: results shown blind and judged with one key each, or the results of two galleries
// side by side. Judgements are stored in this browser until they are downloaded.

import { button, download, element, problemBox } from "./dom.js";
import { itemURL, request, requestJSON } from "./http.js";
import { fetchBlob, setSource } from "./images.js";
import { isEnlarged } from "./items.js";
import { t } from "./texts.js";

const LARGE = innerWidth > 1000 ? 1024 : 512; // pixels

// By kind of task: the key, the title and the judgement of each choice.
const CHOICES = {
  hits: [["r", t("relevant"), true], ["n", t("not-relevant"), false]],
  sets: [["1", t("left-better"), "left"], ["2", t("right-better"), "right"], ["0", t("tie"), "neither"]],
};

let gallery, stage, settings, tasks, judgements, galleries, currentView;
const find = (selector) => document.querySelector(selector);

export function start(main) {
  gallery = main.dataset.gallery;
  stage = find("#stage");
  find("#judge-form").addEventListener("submit", (event) => {
    event.preventDefault();
    begin({
      kind: find("#kind")?.value ?? "hits", // a gallery without another one to compare with has no choice
      other: find("#other")?.value ?? null,
      queries: find("#queries").valueAsNumber,
      k: find("#k").valueAsNumber,
      seed: find("#seed").valueAsNumber,
    }, []);
  });
  const showOther = () => document.querySelectorAll(".of-sets").forEach((each) => (each.hidden = find("#kind").value !== "sets"));
  find("#kind")?.addEventListener("change", showOther);
  if (find("#kind")) showOther();
  const saved = restore();
  find("#resume").hidden = !saved;
  find("#resume").addEventListener("click", () => begin(saved.settings, saved.judgements));
  find("#download").addEventListener("click", save);
  addEventListener("keydown", onKeyDown);
}

async function begin(newSettings, previousJudgements) {
  [settings, judgements, galleries] = [newSettings, previousJudgements, {}];
  find("#judge-form").hidden = true;
  find("#judging").hidden = false;
  find("#problem").replaceChildren();
  find("#progress").textContent = t("loading-results");
  try {
    tasks = shuffle(await loadTasks(), settings.seed);
  } catch (problem) {
    find("#problem").replaceChildren(problemBox(problem));
    find("#judge-form").hidden = false;
    find("#judging").hidden = true;
    return;
  }
  showNext();
}

// Returns all tasks; they are the same for the same settings and gallery.
async function loadTasks() {
  const names = settings.kind === "sets" ? [gallery, settings.other] : [gallery];
  for (const name of names) {
    const { encoder, fingerprint, rows } = await requestJSON(`/v1/galleries/${name}`);
    galleries[name] = { encoder, fingerprint, rows };
  }
  const queries = await requestJSON(`/v1/galleries/${gallery}/sample?count=${settings.queries}&seed=${settings.seed}`);
  const loaded = [];
  for (const [i, { id }] of queries.entries()) {
    find("#progress").textContent = t("loading-progress", { done: i + 1, n: queries.length });
    const sets = [];
    for (const name of names) sets.push(await neighbors(name, id));
    if (settings.kind === "sets") loaded.push({ query: id, sets, swapped: hashToUnit(`${settings.seed}/${id}`) < 0.5 });
    else for (const [i, hit] of sets[0].entries()) loaded.push({ query: id, hit, rank: i + 1, returned: sets[0].length });
  }
  return loaded;
}

// Returns the results for an item; a gallery that does not have it is searched with its image.
async function neighbors(name, id) {
  try {
    return (await requestJSON(`${itemURL(name, "/neighbors", id)}&k=${settings.k}`)).hits.map((hit) => hit.id);
  } catch (problem) {
    if (problem.status !== 404 || name === gallery) throw problem;
    const body = await fetchBlob(itemURL(gallery, "/image", id));
    const response = await request(`/v1/galleries/${name}/search/image?k=${settings.k}`, { method: "POST", body });
    return (await response.json()).hits.map((hit) => hit.id);
  }
}

// ---- judging ---------------------------------------------------------------------------------

async function showNext() {
  store();
  find("#download").hidden = judgements.length === 0;
  const buttons = find("#choices");
  find("#progress").textContent = t("judge-progress", { done: judgements.length, n: tasks.length });
  if (judgements.length >= tasks.length) {
    stage.replaceChildren(element("p", { class: "lead" }, t(tasks.length ? "all-judged" : "nothing-to-judge")));
    buttons.replaceChildren(...(tasks.length ? [button(t("undo"), undo)] : []));
    return;
  }
  const task = tasks[judgements.length];
  const view = (currentView = Symbol());
  const content = await renderTask(task);
  if (view !== currentView) return;
  stage.replaceChildren(content);
  buttons.replaceChildren(...CHOICES[settings.kind].map(([key, title, value]) => button(`${title} (${key.toUpperCase()})`, () => judge(value))), button(t("undo"), undo));
  preload(tasks[judgements.length + 1]);
}

const renderTask = (task) => (settings.kind === "sets" ? renderSets(task) : renderPair(task));

async function renderPair({ query, hit }) {
  const pair = element("div", { class: "pair" });
  pair.append(await figure(gallery, query, t("query"), LARGE), await figure(gallery, hit, t("result"), LARGE));
  return pair;
}

async function renderSets({ query, sets, swapped }) {
  const names = [gallery, settings.other];
  const order = swapped ? [1, 0] : [0, 1];
  const box = element("div", { class: "blind-comparison" });
  box.append(await figure(gallery, query, t("query"), 256));
  const columns = element("div", { class: "result-sets side-by-side" });
  for (const [position, index] of order.entries()) {
    const title = t(position ? "right" : "left");
    const images = await Promise.all(sets[index].map((id) => thumbnail(names[index], id, t("result"), 256)));
    const list = element("ol", { class: "hits" }, ...images.map((image) => element("li", { class: "hit" }, image)));
    columns.append(element("section", { class: "result-set", "aria-label": title }, element("h2", {}, title), list));
  }
  box.append(columns);
  return box;
}

async function figure(name, id, title, size) {
  return element("figure", {}, await thumbnail(name, id, title, size), element("figcaption", {}, title));
}

async function thumbnail(name, id, alt, size) {
  const image = element("img", { alt });
  try {
    await setSource(image, `${itemURL(name, "/thumbnail", id)}&size=${size}`);
    await image.decode();
  } catch {
    return element("p", { class: "missing" }, t("image-missing"));
  }
  image.classList.toggle("pixelated", isEnlarged(image, size));
  return image;
}

function preload(task) {
  if (task) renderTask(task).catch(() => {});
}

function judge(value) {
  judgements.push(value);
  showNext();
}

function undo() {
  if (judgements.pop() !== undefined) showNext();
}

function onKeyDown(event) {
  if (!tasks || find("#judging").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key === "u") return undo();
  const choice = CHOICES[settings.kind].find(([each]) => each === key);
  if (choice && judgements.length < tasks.length) judge(choice[2]);
}

// ---- storage ---------------------------------------------------------------------------------

const storageKey = () => `lookalike.judgements.${gallery}`;

function store() {
  try {
    localStorage.setItem(storageKey(), JSON.stringify({ settings, judgements }));
  } catch {
    // private windows may not allow storage; downloading still works
  }
}

function restore() {
  try {
    const saved = JSON.parse(localStorage.getItem(storageKey()));
    return saved?.judgements?.length ? saved : null;
  } catch {
    return null;
  }
}

// The file that lookalike evaluate judgements reads; see evaluation/human_judgements.py.
function toDocument() {
  const judged = judgements.map((judgement, i) => ({ ...tasks[i], judgement }));
  const queries = [...new Set(judged.map(({ query }) => query))];
  const hits = settings.kind === "sets" ? [] : queries.map((query) => {
    const ofQuery = judged.filter((each) => each.query === query).sort((a, b) => a.rank - b.rank);
    const { returned } = ofQuery[0];
    return { gallery, query, k: settings.k, returned, answers: ofQuery.map(({ hit, rank, judgement }) => ({ id: hit, rank, relevant: judgement })) };
  });
  const preferred = ({ judgement, swapped }) => (judgement === "neither" ? "neither" : (judgement === "left") !== swapped ? "a" : "b");
  const preferences = settings.kind === "hits" ? [] : judged.map((each) => ({ query: each.query, a: gallery, b: settings.other, preferred: preferred(each) }));
  return { format: "lookalike-judgements", version: 2, created_at: new Date().toISOString(), galleries, hits, preferences };
}

function save() {
  const name = `${gallery}-judgements-${new Date().toISOString().slice(0, 10)}.json`;
  download(JSON.stringify(toDocument(), null, 1), "application/json", name);
}

// Hashes a text to a number from 0 to 1 (FNV-1a).
function hashToUnit(text) {
  let state = 2166136261;
  for (const character of text) state = Math.imul(state ^ character.codePointAt(0), 16777619);
  state = Math.imul(state ^ (state >>> 16), 0x45d9f3b);
  return ((state ^ (state >>> 16)) >>> 0) / 2 ** 32;
}

// Orders the results of each query independently of their rank; queries stay in their order.
function shuffle(unordered, seed) {
  const queryOrder = new Map([...new Set(unordered.map(({ query }) => query))].map((query, i) => [query, i]));
  const key = (task) => hashToUnit(`${seed}/${task.query}/${task.hit}`);
  return unordered.sort((a, b) => queryOrder.get(a.query) - queryOrder.get(b.query) || key(a) - key(b));
}
