// The judging view: hits shown blind, right or wrong by one key; or two galleries' answers side by
// side. What was said is kept in this browser until it is saved as a file.

import { address, ask, element, problemBox } from "./http.js";
import { fetched } from "./pictures.js";

const KEYS = {
  hits: { r: ["Right", true], w: ["Wrong", false] },
  sets: { 1: ["The left ones", "left"], 2: ["The right ones", "right"], 0: ["Neither", "neither"] },
};

let gallery, stage, tasks, said, plan, facts, shownAt;
const find = (id) => document.querySelector(id);

export function start(main) {
  gallery = main.dataset.gallery;
  stage = find("#stage");
  find("#plan").addEventListener("submit", (event) => {
    event.preventDefault();
    begin({
      kind: find("#kind").value,
      other: find("#other")?.value ?? null,
      queries: find("#queries").valueAsNumber,
      k: find("#hits").valueAsNumber,
      seed: find("#seed").valueAsNumber,
    }, []);
  });
  const kept = restore();
  find("#resume").hidden = !kept;
  find("#resume").addEventListener("click", () => begin(kept.plan, kept.said));
  find("#save").addEventListener("click", save);
  addEventListener("keydown", pressed);
}

async function begin(chosen, before) {
  [plan, said, facts] = [chosen, before, {}];
  find("#plan").hidden = true;
  find("#judging").hidden = false;
  find("#trouble").replaceChildren();
  find("#progress").textContent = "Asking the gallery …";
  try {
    tasks = shuffled(await prepare(), plan.seed);
  } catch (problem) {
    find("#trouble").replaceChildren(problemBox(problem));
    find("#plan").hidden = false;
    find("#judging").hidden = true;
    return;
  }
  next();
}

// Everything there is to judge: the same for the same plan and gallery.
async function prepare() {
  const names = plan.kind === "sets" ? [gallery, plan.other] : [gallery];
  for (const name of names) {
    const { encoder, fingerprint, rows } = await json(`/v1/galleries/${name}`);
    facts[name] = { encoder, fingerprint, rows };
  }
  const queries = await json(`/v1/galleries/${gallery}/sample?count=${plan.queries}&seed=${plan.seed}`);
  const found = [];
  for (const [i, { id }] of queries.entries()) {
    find("#progress").textContent = `Asking the gallery … ${i + 1} of ${queries.length}`;
    const sets = [];
    for (const name of names) sets.push(await neighbors(name, id));
    if (plan.kind === "sets") found.push({ query: id, sets, swapped: chance(`${plan.seed}/${id}`) < 0.5 });
    else for (const [rank, hit] of sets[0].entries()) found.push({ query: id, hit, rank: rank + 1, given: sets[0].length });
  }
  return found;
}

// What looks like an item; a gallery that does not hold it is asked with its image.
async function neighbors(name, id) {
  try {
    return (await json(`${address(name, "/neighbors", id)}&k=${plan.k}`)).hits.map((hit) => hit.id);
  } catch (problem) {
    if (problem.status !== 404 || name === gallery) throw problem;
    const body = await fetched(address(gallery, "/image", id));
    const answer = await ask(`/v1/galleries/${name}/search/image?k=${plan.k}`, { method: "POST", body });
    return (await answer.json()).hits.map((hit) => hit.id);
  }
}

const json = async (where) => (await ask(where)).json();

// ---- judging ---------------------------------------------------------------------------------

async function next() {
  store();
  find("#save").hidden = said.length === 0;
  const answers = find("#answers");
  find("#progress").textContent = `${said.length} of ${tasks.length} judged`;
  if (said.length >= tasks.length) {
    stage.replaceChildren(element("p", { class: "lead" }, tasks.length ? "That was all. Save what you said." : "There is nothing to judge: the gallery is too small."));
    answers.replaceChildren();
    find("#keys").textContent = "";
    return;
  }
  const task = tasks[said.length];
  const mine = (shownAt = Symbol());
  const made = await (plan.kind === "sets" ? twoSets(task) : oneHit(task));
  if (mine !== shownAt) return;
  stage.replaceChildren(made);
  const keys = Object.entries(KEYS[plan.kind]);
  answers.replaceChildren(...keys.map(([key, [title, answer]]) => button(`${title} (${key.toUpperCase()})`, () => answered(answer))), button("Undo (U)", undo));
  find("#keys").textContent = `Keys: ${keys.map(([key, [title]]) => `${key.toUpperCase()} ${title.toLowerCase()}`).join(", ")}, U undo.`;
  preload(tasks[said.length + 1]);
}

function button(text, work) {
  const made = element("button", { type: "button" }, text);
  made.addEventListener("click", work);
  return made;
}

async function oneHit({ query, hit }) {
  const pair = element("div", { class: "pair" });
  pair.append(await figure(gallery, query, "Query", 512), await figure(gallery, hit, "Found: does it look like the query?", 512));
  return pair;
}

async function twoSets({ query, sets, swapped }) {
  const names = [gallery, plan.other];
  const order = swapped ? [1, 0] : [0, 1];
  const box = element("div", { class: "duel" });
  box.append(await figure(gallery, query, "Query", 256));
  const sides = element("div", { class: "sets beside" });
  for (const [i, side] of order.entries()) {
    const list = element("ol", { class: "hits" });
    for (const id of sets[side]) list.append(element("li", { class: "hit" }, await picture(names[side], id, "A hit", 192)));
    sides.append(element("section", { class: "set", "aria-label": i ? "Right" : "Left" }, element("h2", {}, i ? "Right" : "Left"), list));
  }
  box.append(sides);
  return box;
}

async function figure(name, id, title, side) {
  return element("figure", {}, await picture(name, id, title, side), element("figcaption", {}, title));
}

const kept = new Map();
async function picture(name, id, alt, side) {
  const where = `${address(name, "/thumbnail", id)}&side=${side}`;
  if (!kept.has(where)) kept.set(where, fetched(where).then((blob) => URL.createObjectURL(blob)));
  const image = element("img", { alt });
  try {
    image.src = await kept.get(where);
  } catch {
    return element("p", { class: "gone" }, "This image cannot be read any more.");
  }
  return image;
}

function preload(task) {
  if (task) (plan.kind === "sets" ? twoSets(task) : oneHit(task)).catch(() => {});
}

function answered(answer) {
  said.push(answer);
  next();
}

function undo() {
  if (said.pop() !== undefined) next();
}

function pressed(event) {
  if (!tasks || find("#judging").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const name = event.key.toLowerCase();
  if (name === "u") return undo();
  const found = KEYS[plan.kind][name];
  if (found && said.length < tasks.length) answered(found[1]);
}

// ---- what was said ---------------------------------------------------------------------------

function store() {
  try {
    localStorage.setItem(`lookalike.judging.${gallery}`, JSON.stringify({ plan, said }));
  } catch {
    // a private window keeps nothing; the file can be saved all the same
  }
}

function restore() {
  try {
    const found = JSON.parse(localStorage.getItem(`lookalike.judging.${gallery}`));
    return found?.said?.length ? found : null;
  } catch {
    return null;
  }
}

function asFile() {
  const judged = tasks.slice(0, said.length).map((task, i) => ({ ...task, answer: said[i] }));
  const queries = [...new Set(judged.map(({ query }) => query))];
  const hits = plan.kind === "sets" ? [] : queries.map((query) => {
    const mine = judged.filter((each) => each.query === query).sort((a, b) => a.rank - b.rank);
    return { gallery, query, k: plan.k, returned: mine[0].given, answers: mine.map(({ hit, rank, answer }) => ({ id: hit, rank, relevant: answer })) };
  });
  const side = ({ answer, swapped }) => (answer === "neither" ? "neither" : (answer === "left") !== swapped ? "a" : "b");
  const preferences = plan.kind === "hits" ? [] : judged.map((each) => ({ query: each.query, a: gallery, b: plan.other, preferred: side(each) }));
  return { format: "lookalike-judgements", version: 2, created_at: new Date().toISOString(), galleries: facts, hits, preferences };
}

function save() {
  const url = URL.createObjectURL(new Blob([JSON.stringify(asFile(), null, 1)], { type: "application/json" }));
  const link = element("a", { href: url, download: `${gallery}-judgements-${new Date().toISOString().slice(0, 10)}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// A number from 0 to 1 that a text always gives.
function chance(text) {
  let state = 2166136261;
  for (const each of text) state = Math.imul(state ^ each.codePointAt(0), 16777619);
  state = Math.imul(state ^ (state >>> 16), 0x45d9f3b);
  return ((state ^ (state >>> 16)) >>> 0) / 2 ** 32;
}

// Hits are judged in an order that says nothing of their rank; those of one query stay together.
function shuffled(found, seed) {
  const order = new Map([...new Set(found.map(({ query }) => query))].map((query, i) => [query, i]));
  const place = (each) => chance(`${seed}/${each.query}/${each.hit}`);
  return found.sort((a, b) => order.get(a.query) - order.get(b.query) || place(a) - place(b));
}
