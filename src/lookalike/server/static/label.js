// The labeling view: suggested images in groups, one key a label, and how many images the labels cover.
// What was said is kept in this browser until it is saved as a file.

import { address, ask, element, problemBox } from "./http.js";
import { fetched } from "./pictures.js";

const find = (id) => document.querySelector(id);
const KEYS = "abcdefghijklmnopqrstvwxyz0123456789"; // without u, which undoes

let gallery, session, done, names, out, keyed;
// `done` holds what was said in turn: {group, label, ids}, or {group, later: true}.

export async function start(main) {
  gallery = main.dataset.gallery;
  try {
    session = await (await ask(`/v1/galleries/${gallery}/labeling`)).json();
  } catch (problem) {
    find("#trouble").replaceChildren(problemBox(problem));
    return;
  }
  ({ done, names } = restore());
  find("#stale").hidden = !session.stale;
  find("#labeling").hidden = false;
  find("#new").addEventListener("submit", (event) => {
    event.preventDefault();
    add(find("#name").value);
    find("#name").value = "";
    find("#name").blur();
  });
  find("#later").addEventListener("click", later);
  find("#undo").addEventListener("click", undo);
  find("#save").addEventListener("click", save);
  addEventListener("keydown", pressed);
  show();
  await measure();
}

// ---- what there is to name -----------------------------------------------------------------------

// The ids of each group that have no label yet; groups left for later come last.
function open() {
  const labeled = labels();
  const late = new Map(done.filter((each) => each.later).map((each, i) => [each.group, i + 1]));
  return session.groups
    .map((ids, group) => ({ group, ids: ids.filter((id) => !(id in labeled)), late: late.get(group) ?? 0 }))
    .filter(({ ids }) => ids.length)
    .sort((a, b) => a.late - b.late || a.group - b.group);
}

function labels() {
  const found = Object.fromEntries(Object.entries(session.labels).map(([id, of]) => [id, [...of]]));
  for (const { label, ids } of done) for (const id of ids ?? []) found[id] = [label];
  return found;
}

async function show() {
  store();
  out = new Set();
  const [now] = open();
  const suggested = session.groups.flat();
  const labeled = labels();
  const named = suggested.filter((id) => id in labeled).length;
  find("#progress").textContent = now ? `${named} of ${suggested.length} named` : `All ${suggested.length} are named. Save them, and label the rest with lookalike label propagate.`;
  find("#undo").disabled = done.length === 0;
  find("#later").disabled = !now;
  showLabels();
  const list = find("#group");
  list.dataset.group = now?.group ?? "";
  list.replaceChildren(...(now?.ids ?? []).map((id, i) => {
    const shot = element("button", { type: "button", class: "shot", "aria-pressed": "true", "aria-label": id, title: id });
    shot.addEventListener("click", () => toggle(i));
    fetched(`${address(gallery, "/thumbnail", id)}&side=192`).then(
      (blob) => shot.append(element("img", { alt: "", src: URL.createObjectURL(blob) })),
      () => shot.append("cannot be read"),
    );
    return element("li", { class: "hit" }, shot);
  }));
  const [, next] = open();
  for (const id of next?.ids ?? []) fetched(`${address(gallery, "/thumbnail", id)}&side=192`).catch(() => {});
}

function toggle(i) {
  const shot = find("#group").children[i]?.querySelector("button");
  const id = open()[0]?.ids[i];
  if (!shot || !id) return;
  if (!out.delete(id)) out.add(id);
  shot.setAttribute("aria-pressed", String(!out.has(id)));
}

// ---- labels --------------------------------------------------------------------------------------

// A label has the first free key of its own letters and digits, or any that is free.
function showLabels() {
  const all = [...new Set([...Object.values(session.labels).flat(), ...names])];
  keyed = new Map();
  for (const name of all) {
    const key = [...name.toLowerCase(), ...KEYS].find((each) => KEYS.includes(each) && !keyed.has(each));
    if (key) keyed.set(key, name);
  }
  const keyOf = new Map([...keyed].map(([key, name]) => [name, key]));
  find("#labels").replaceChildren(...all.map((name) => {
    const made = element("button", { type: "button" }, element("kbd", {}, keyOf.get(name)?.toUpperCase() ?? " "), name, element("span", { class: "soft", "data-label": name }));
    made.addEventListener("click", () => give(name));
    return element("li", {}, made);
  }));
  showCounts();
}

function add(text) {
  const name = text.trim().replaceAll(";", ",");
  if (!name) return;
  if (!names.includes(name)) names.push(name);
  showLabels();
  if (open().length) give(name);
}

function give(label) {
  const [now] = open();
  if (!now) return;
  const ids = now.ids.filter((id) => !out.has(id));
  if (!ids.length) return;
  done.push({ group: now.group, label, ids });
  show();
  measure();
}

function later() {
  const [now] = open();
  if (!now) return;
  done.push({ group: now.group, later: true });
  show();
}

function undo() {
  const last = done.pop();
  if (!last) return;
  show();
  if (!last.later) measure();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
  const key = event.key.toLowerCase();
  if (key === " " && !event.target.matches("button, a")) later();
  else if (key === "u") undo();
  else if (keyed?.has(key)) give(keyed.get(key));
  else return;
  event.preventDefault();
}

// ---- label coverage ------------------------------------------------------------------------------

let coverage = null;
let waiting = false;
async function measure() {
  if (measure.busy) {
    waiting = true;
    return;
  }
  measure.busy = true;
  do {
    waiting = false;
    const body = JSON.stringify({ labels: labels() });
    try {
      coverage = await (await ask(`/v1/galleries/${gallery}/labeling/coverage`, { method: "POST", body, headers: { "Content-Type": "application/json" } })).json();
      find("#trouble").replaceChildren();
    } catch (problem) {
      find("#trouble").replaceChildren(problemBox(problem));
    }
  } while (waiting);
  measure.busy = false;
  showCounts();
}

function showCounts() {
  if (!coverage) return;
  const share = coverage.covered / Math.max(1, coverage.images);
  find("#bar").style.width = `${100 * share}%`;
  find("#reach").textContent = coverage.labels.length < 2 ? "At least two labels are needed." : `${coverage.covered.toLocaleString("en")} of ${coverage.images.toLocaleString("en")} images (${(100 * share).toFixed(1)} %)`;
  const of = new Map(coverage.labels.map((each) => [each.label, each]));
  for (const each of document.querySelectorAll("[data-label]")) {
    const found = of.get(each.dataset.label);
    each.textContent = found ? `${found.labeled} labeled, ${found.covered.toLocaleString("en")} covered` : "none yet";
  }
}

// ---- keeping and saving --------------------------------------------------------------------------

const place = () => `lookalike.labeling.${gallery}`;

function store() {
  try {
    localStorage.setItem(place(), JSON.stringify({ created_at: session.created_at, done, names }));
  } catch {
    // a private window keeps nothing; the file can be saved all the same
  }
}

// What was said of these suggestions; of others, only the names of labels stay.
function restore() {
  try {
    const found = JSON.parse(localStorage.getItem(place()));
    return { done: found.created_at === session.created_at ? found.done : [], names: found.names };
  } catch {
    return { done: [], names: [] };
  }
}

function save() {
  const cell = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = ["id,label", ...Object.entries(labels()).map(([id, of]) => `${cell(id)},${cell(of.join("; "))}`)];
  const url = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
  element("a", { href: url, download: `${gallery}-labels.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
