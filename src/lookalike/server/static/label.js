// The labeling view: suggested images in groups, labeled with one key each, and the label coverage.
// Labels are stored in this browser until they are downloaded.

import { API } from "./api.js";
import { csvTable } from "./csv.js";
import { button, confirmed, download, element, emptyState, problemBox } from "./dom.js";
import { itemURL, requestJSON } from "./http.js";
import { setSource } from "./images.js";
import { isEnlarged, nameOf, pageURL } from "./items.js";
import { Lightbox } from "./lightbox.js";
import { formatPercent, t } from "./texts.js";

const find = (selector) => document.querySelector(selector);
const KEYS = "abcdefghijklmnopqrstvwxyz0123456789"; // without u, for undo
const THUMBNAIL_SIZE = devicePixelRatio > 1.5 ? 512 : 256;

let gallery, session, names, deselected, labelOfKey, lightbox;
let shownGroup; // {group, ids, size}, or undefined when all images are labeled
let actions; // in order: {group, label, ids} or {group, skipped: true}

export async function start(main) {
  gallery = main.dataset.gallery;
  try {
    session = await requestJSON(`/v1/galleries/${encodeURIComponent(gallery)}/labeling`);
  } catch (problem) {
    if (problem.status === 404) find("#problem").replaceChildren(emptyState(t("no-suggestions"), t("no-suggestions-detail"), "lookalike label suggest GALLERY --save"));
    else find("#problem").replaceChildren(problemBox(problem));
    return;
  }
  ({ actions, names } = restore());
  find("#stale span").textContent = t("label-stale", { changes: session.changes });
  find("#stale").hidden = !session.stale;
  find("#labeling").hidden = false;
  find("#new-label").addEventListener("submit", (event) => {
    event.preventDefault();
    const { value } = find("#label-name");
    find("#label-name").value = "";
    find("#label-name").blur(); // first, so that the keys of labels work after a dialog
    addLabel(value);
  });
  find("#skip").addEventListener("click", skip);
  find("#undo").addEventListener("click", undo);
  find("#download").addEventListener("click", save);
  addEventListener("keydown", onKeyDown);
  lightbox = new Lightbox(find("#lightbox"), new API(gallery, {}), {
    similar: ({ id }) => (location.href = pageURL(gallery, id)),
    toggle: ({ id }) => toggle(shownGroup.ids.indexOf(id)),
    isSelected: ({ id }) => !deselected.has(id),
  });
  show();
  await updateCoverage();
}

// ---- groups --------------------------------------------------------------------------------------

// The groups with their unlabeled ids; skipped groups come last.
function openGroups() {
  const labels = currentLabels();
  const skippedAt = new Map(actions.filter((each) => each.skipped).map((each, i) => [each.group, i + 1]));
  return session.groups
    .map((ids, group) => ({ group, size: ids.length, ids: ids.filter((id) => !(id in labels)), skippedAt: skippedAt.get(group) ?? 0 }))
    .filter(({ ids }) => ids.length)
    .sort((a, b) => a.skippedAt - b.skippedAt || a.group - b.group);
}

function currentLabels() {
  const labels = Object.fromEntries(Object.entries(session.labels).map(([id, each]) => [id, [...each]]));
  for (const { label, ids } of actions) for (const id of ids ?? []) labels[id] = [label];
  return labels;
}

// Whether the images of a group are too different to be labeled without a look at each.
const isMixed = ({ group, ids }) => ids.length > 1 && session.homogeneity[group] < session.min_homogeneity;

const thumbnailURL = (id) => `${itemURL(gallery, "/thumbnail", id)}&size=${THUMBNAIL_SIZE}`;

function show() {
  store();
  deselected = new Set();
  const [group, nextGroup] = openGroups();
  shownGroup = group;
  const suggested = session.groups.flat();
  const labels = currentLabels();
  const done = suggested.filter((id) => id in labels).length;
  find("#progress").textContent = t("label-progress", { done, n: suggested.length });
  find("#finished").hidden = Boolean(group);
  find("#finished h2").textContent = t("all-labeled", { n: suggested.length });
  find("#label-help").hidden = find("#group-facts").hidden = find("#group").hidden = !group;
  find("#undo").disabled = actions.length === 0;
  find("#skip").disabled = !group;
  showLabels();
  showFacts(group);
  find("#group").dataset.group = group?.group ?? "";
  find("#group").replaceChildren(...(group?.ids ?? []).map(groupItem));
  for (const id of nextGroup?.ids ?? []) setSource(new Image(), thumbnailURL(id)).catch(() => {}); // preload
}

function showFacts(group) {
  find("#mixed").hidden = !group || !isMixed(group);
  if (!group) return;
  const isWhole = group.ids.length === group.size;
  const share = formatPercent(session.homogeneity[group.group]);
  find("#group-facts").textContent = t(isWhole ? "group-facts" : "group-rest", { n: group.ids.length, share });
}

// An image of the group: a click takes it out or back in, Enter or a double click enlarges it.
function groupItem(id, i) {
  const name = nameOf(id);
  const image = element("img", { alt: "" });
  const thumbnail = element("button", { type: "button", class: "thumbnail", "aria-pressed": "true", "aria-label": name, title: id }, image);
  thumbnail.addEventListener("click", () => toggle(i));
  thumbnail.addEventListener("dblclick", () => enlarge(i));
  thumbnail.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    enlarge(i);
  });
  image.addEventListener("load", () => image.classList.toggle("pixelated", isEnlarged(image, thumbnail.clientWidth)));
  const fail = () => thumbnail.classList.add("missing");
  image.addEventListener("error", fail);
  setSource(image, thumbnailURL(id)).catch(fail);
  return element("li", { class: "hit" }, thumbnail, button(t("enlarge-item", { name }), () => enlarge(i), { iconName: "fit", class: "enlarge" }));
}

// Selects or deselects an image of the group.
function toggle(i) {
  const thumbnail = find("#group").children[i]?.querySelector(".thumbnail");
  if (!thumbnail) return;
  const id = shownGroup.ids[i];
  if (!deselected.delete(id)) deselected.add(id);
  thumbnail.setAttribute("aria-pressed", String(!deselected.has(id)));
}

function enlarge(i) {
  const { ids } = shownGroup;
  const pages = { total: ids.length, isOpen: false, get: async (index) => (index in ids ? lightbox.api.item(ids[index]) : null) };
  return lightbox.open(pages, i, (last) => find("#group").children[last]?.querySelector(".thumbnail").focus());
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
    const node = element("button", { type: "button" }, element("kbd", {}, keyOfLabel.get(label)?.toUpperCase() ?? " "), label, element("span", { class: "muted", "data-label": label }));
    node.addEventListener("click", () => assign(label));
    return element("li", {}, node);
  }));
  showCoverage();
}

function addLabel(text) {
  const label = text.trim().replaceAll(";", ",");
  if (!label) return;
  if (!names.includes(label)) names.push(label);
  showLabels();
  assign(label);
}

// Assigns a label to the selected images of the group; to all of a mixed one after a confirmation.
async function assign(label) {
  if (!shownGroup) return;
  const { group } = shownGroup;
  const ids = shownGroup.ids.filter((id) => !deselected.has(id));
  if (!ids.length || (isMixed(shownGroup) && !deselected.size && !(await confirmedLabel(label)))) return;
  actions.push({ group, label, ids });
  show();
  updateCoverage();
}

function confirmedLabel(label) {
  const dialog = find("#confirm-dialog");
  const n = shownGroup.ids.length;
  find("#confirm-title").textContent = t("confirm-label", { n, label });
  find("#confirm-text").textContent = t("confirm-label-detail", { share: formatPercent(session.homogeneity[shownGroup.group]), limit: formatPercent(session.min_homogeneity) });
  dialog.querySelector("button[value=confirm]").textContent = t("label-all", { n });
  return confirmed(dialog);
}

function skip() {
  if (!shownGroup) return;
  actions.push({ group: shownGroup.group, skipped: true });
  show();
}

function undo() {
  const action = actions.pop();
  if (!action) return;
  show();
  if (!action.skipped) updateCoverage();
}

function onKeyDown(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.matches("input, select") || find("dialog[open]")) return;
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
      coverage = await requestJSON(`/v1/galleries/${encodeURIComponent(gallery)}/labeling/coverage`, { method: "POST", body, headers: { "Content-Type": "application/json" } });
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
  find("#coverage").textContent = coverage.labels.length < 2 ? t("label-coverage-none") : t("label-coverage-share", { covered: coverage.covered, n: coverage.images, share: Math.round(1000 * share) / 10 });
  const counts = new Map(coverage.labels.map((each) => [each.label, each]));
  for (const node of document.querySelectorAll("[data-label]")) {
    const count = counts.get(node.dataset.label);
    node.textContent = count ? t("label-count", { labeled: count.labeled, covered: count.covered }) : t("label-unused");
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
