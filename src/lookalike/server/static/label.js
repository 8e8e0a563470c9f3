// The labeling view: suggested images in groups, labeled with one key each, and the label coverage.
// Labels are stored in this browser until they are downloaded.

import { csvTable } from "./csv.js";
import { download, element, problemBox } from "./dom.js";
import { itemURL, requestJSON } from "./http.js";
import { fetchBlob } from "./images.js";

const find = (selector) => document.querySelector(selector);
const KEYS = "abcdefghijklmnopqrstvwxyz0123456789"; // without u, for undo

let gallery, session, names, deselected, labelOfKey;
let actions; // in order: {group, label, ids} or {group, skipped: true}

export async function start(main) {
  gallery = main.dataset.gallery;
  try {
    session = await requestJSON(`/v1/galleries/${gallery}/labeling`);
  } catch (problem) {
    find("#problem").replaceChildren(problemBox(problem));
    return;
  }
  ({ actions, names } = restore());
  find("#changes").textContent = session.changes;
  find("#stale").hidden = !session.stale;
  find("#labeling").hidden = false;
  find("#new-label").addEventListener("submit", (event) => {
    event.preventDefault();
    addLabel(find("#label-name").value);
    find("#label-name").value = "";
    find("#label-name").blur();
  });
  find("#skip").addEventListener("click", skip);
  find("#undo").addEventListener("click", undo);
  find("#download").addEventListener("click", save);
  addEventListener("keydown", onKeyDown);
  show();
  await updateCoverage();
}

// ---- groups --------------------------------------------------------------------------------------

// The groups with their unlabeled ids; skipped groups come last.
function openGroups() {
  const labels = currentLabels();
  const skippedAt = new Map(actions.filter((each) => each.skipped).map((each, i) => [each.group, i + 1]));
  return session.groups
    .map((ids, group) => ({ group, ids: ids.filter((id) => !(id in labels)), skippedAt: skippedAt.get(group) ?? 0 }))
    .filter(({ ids }) => ids.length)
    .sort((a, b) => a.skippedAt - b.skippedAt || a.group - b.group);
}

function currentLabels() {
  const labels = Object.fromEntries(Object.entries(session.labels).map(([id, each]) => [id, [...each]]));
  for (const { label, ids } of actions) for (const id of ids ?? []) labels[id] = [label];
  return labels;
}

const thumbnailURL = (id) => `${itemURL(gallery, "/thumbnail", id)}&size=256`;

function show() {
  store();
  deselected = new Set();
  const [group, nextGroup] = openGroups();
  const suggested = session.groups.flat();
  const labels = currentLabels();
  const count = suggested.filter((id) => id in labels).length;
  find("#progress").textContent = group ? `${count} of ${suggested.length} labeled` : `All images are labeled (${suggested.length}). Download the labels, then run: lookalike label propagate GALLERY --labels ${gallery}-labels.csv -o all.csv`;
  find("#undo").disabled = actions.length === 0;
  find("#skip").disabled = !group;
  showLabels();
  const list = find("#group");
  list.dataset.group = group?.group ?? "";
  list.replaceChildren(...(group?.ids ?? []).map((id, i) => {
    const button = element("button", { type: "button", class: "thumbnail", "aria-pressed": "true", "aria-label": id, title: id });
    button.addEventListener("click", () => toggle(i));
    fetchBlob(thumbnailURL(id)).then(
      (blob) => button.append(element("img", { alt: "", src: URL.createObjectURL(blob) })),
      () => button.append("Image not available"),
    );
    return element("li", { class: "hit" }, button);
  }));
  for (const id of nextGroup?.ids ?? []) fetchBlob(thumbnailURL(id)).catch(() => {}); // preload
}

// Selects or deselects an image of the group.
function toggle(i) {
  const button = find("#group").children[i]?.querySelector("button");
  const id = openGroups()[0]?.ids[i];
  if (!button || !id) return;
  if (!deselected.delete(id)) deselected.add(id);
  button.setAttribute("aria-pressed", String(!deselected.has(id)));
}

// ---- labels --------------------------------------------------------------------------------------

// A label's key is the first free one of its letters and digits, or any free key.
function showLabels() {
  const labels = [...new Set([...Object.values(session.labels).flat(), ...names])];
  labelOfKey = new Map();
  for (const label of labels) {
    const key = [...label.toLowerCase(), ...KEYS].find((each) => KEYS.includes(each) && !labelOfKey.has(each));
    if (key) labelOfKey.set(key, label);
  }
  const keyOfLabel = new Map([...labelOfKey].map(([key, label]) => [label, key]));
  find("#labels").replaceChildren(...labels.map((label) => {
    const button = element("button", { type: "button" }, element("kbd", {}, keyOfLabel.get(label)?.toUpperCase() ?? " "), label, element("span", { class: "muted", "data-label": label }));
    button.addEventListener("click", () => assign(label));
    return element("li", {}, button);
  }));
  showCoverage();
}

function addLabel(text) {
  const label = text.trim().replaceAll(";", ",");
  if (!label) return;
  if (!names.includes(label)) names.push(label);
  showLabels();
  if (openGroups().length) assign(label);
}

// Assigns a label to the selected images of the group.
function assign(label) {
  const [group] = openGroups();
  if (!group) return;
  const ids = group.ids.filter((id) => !deselected.has(id));
  if (!ids.length) return;
  actions.push({ group: group.group, label, ids });
  show();
  updateCoverage();
}

function skip() {
  const [group] = openGroups();
  if (!group) return;
  actions.push({ group: group.group, skipped: true });
  show();
}

function undo() {
  const action = actions.pop();
  if (!action) return;
  show();
  if (!action.skipped) updateCoverage();
}

function onKeyDown(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
  const key = event.key.toLowerCase();
  if (key === " " && !event.target.matches("button, a")) skip();
  else if (key === "u") undo();
  else if (labelOfKey?.has(key)) assign(labelOfKey.get(key));
  else return;
  event.preventDefault();
}

// ---- label coverage ------------------------------------------------------------------------------

let coverage = null;
let updating = false;
let outdated = false;
async function updateCoverage() {
  outdated = true;
  if (updating) return;
  updating = true;
  while (outdated) {
    outdated = false;
    const body = JSON.stringify({ labels: currentLabels() });
    try {
      coverage = await requestJSON(`/v1/galleries/${gallery}/labeling/coverage`, { method: "POST", body, headers: { "Content-Type": "application/json" } });
      find("#problem").replaceChildren();
    } catch (problem) {
      find("#problem").replaceChildren(problemBox(problem));
    }
  }
  updating = false;
  showCoverage();
}

function showCoverage() {
  if (!coverage) return;
  const share = coverage.covered / Math.max(1, coverage.images);
  find("#coverage-bar").style.width = `${100 * share}%`;
  find("#coverage").textContent = coverage.labels.length < 2 ? "Add at least two labels." : `${coverage.covered.toLocaleString("en")} of ${coverage.images.toLocaleString("en")} images (${(100 * share).toFixed(1)} %)`;
  const counts = new Map(coverage.labels.map((each) => [each.label, each]));
  for (const node of document.querySelectorAll("[data-label]")) {
    const count = counts.get(node.dataset.label);
    node.textContent = count ? `${count.labeled} labeled, ${count.covered.toLocaleString("en")} covered` : "no images";
  }
}

// ---- storage -------------------------------------------------------------------------------------

const storageKey = () => `lookalike.labels.${gallery}`;

function store() {
  try {
    localStorage.setItem(storageKey(), JSON.stringify({ created_at: session.created_at, actions, names }));
  } catch {
    // private windows may not allow storage; downloading still works
  }
}

// Restores the labels of this session; of another session, only the names of labels.
function restore() {
  try {
    const saved = JSON.parse(localStorage.getItem(storageKey()));
    return { actions: saved.created_at === session.created_at ? saved.actions : [], names: saved.names };
  } catch {
    return { actions: [], names: [] };
  }
}

function save() {
  const rows = Object.entries(currentLabels()).map(([id, labels]) => [id, labels.join("; ")]);
  download(csvTable(["id", "label"], rows), "text/csv", `${gallery}-labels.csv`);
}
