// What the page asks of the HTTP API.

import { itemURL, Problem, requestJSON } from "./http.js";
import { fetchBlob } from "./images.js";
import { sharedImageURL } from "./share.js";
import { hasExamples, isByWords, whereExpression } from "./state.js";
import { findUpload } from "./storage.js";
import { t } from "./texts.js";

const SEARCH_OPTIONS = ["metric", "rerank"];
const SWITCHES = ["foreground", "multi_crop", "exact"];

export class API {
  // `kinds` are the kinds of the gallery's columns by name.
  constructor(gallery, { kinds, supportsText }) {
    Object.assign(this, { gallery, kinds, supportsText });
    this.base = `/v1/galleries/${encodeURIComponent(gallery)}`;
  }

  // A page of items in an order, without a query.
  async list(state, { offset, limit, revision, signal }) {
    const parameters = new URLSearchParams({ offset, limit, sort: state.options.sort || "id" });
    const where = whereExpression(state, this.kinds);
    if (where) parameters.set("where", where);
    if (revision) parameters.set("revision", revision);
    return requestJSON(`${this.base}/items?${parameters}`, { signal });
  }

  // The groups of the items of a state, in their order: by value, or by month of their dates.
  async groups(state, { by, signal }) {
    const parameters = new URLSearchParams({ sort: state.options.sort, by });
    const where = whereExpression(state, this.kinds);
    if (where) parameters.set("where", where);
    return (await requestJSON(`${this.base}/groups?${parameters}`, { signal })).groups;
  }

  // The values of columns among the items that a state matches, with their numbers.
  async facets(state, columns, { signal } = {}) {
    const parameters = new URLSearchParams();
    const where = whereExpression(state, this.kinds);
    if (where) parameters.set("where", where);
    parameters.set("values", 1000);
    for (const column of columns) parameters.append("columns", column);
    return requestJSON(`${this.base}/facets?${parameters}`, { signal });
  }

  // A page of results of the query of a state.
  async search(state, { offset, limit, signal }) {
    const body = { ...(await this.#query(state)), k: limit, offset };
    const where = whereExpression(state, this.kinds);
    if (where) body.where = where;
    for (const name of SEARCH_OPTIONS) if (state.options[name]) body[name] = state.options[name];
    for (const name of SWITCHES) if (state.options[name]) body[name] = true;
    if (state.options.min_similarity) body.min_similarity = Number(state.options.min_similarity);
    if (state.options.box) body.box = state.options.box.split(",").map(Number);
    const options = { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal };
    try {
      return await requestJSON(`${this.base}/search`, options);
    } catch (problem) {
      if (problem instanceof Problem) await nameImage(problem, state);
      throw problem;
    }
  }

  async item(id) {
    return requestJSON(itemURL(this.gallery, "", id));
  }

  async #query(state) {
    const byWords = isByWords(state, this.supportsText);
    if (!hasExamples(state)) return this.supportsText && byWords ? { keywords: state.text } : { text: state.text };
    const like = await Promise.all(state.like.map((example) => this.#example(example)));
    const unlike = await Promise.all(state.unlike.map((example) => this.#example(example)));
    const weights = [...state.like, ...state.unlike].map(({ weight }) => weight);
    const words = {};
    if (state.text && !byWords) {
      like.push({ text: state.text });
      weights.splice(state.like.length, 0, 1);
    } else if (state.text) words.keywords = state.text;
    if (!like.length) throw new Problem(t("only-unlike"), t("only-unlike-detail"));
    if (like.length === 1 && !unlike.length) return { ...like[0], ...words };
    return { like, ...(unlike.length ? { unlike } : {}), weights, ...words };
  }

  async #example({ kind, value }) {
    if (kind !== "upload") return { [kind]: value };
    const upload = await findUpload(value);
    if (!upload) throw new Problem(t("upload-lost"), t("upload-lost-detail"));
    return { image: await base64(upload.blob) };
  }
}

// A state for another gallery: items that it does not have, and shared queries, are sent as images.
export async function withImages(state, gallery, other, keepUpload) {
  const converted = async (example) => {
    if (example.kind !== "id" && example.kind !== "shared") return example;
    if (example.kind === "id" && (await hasItem(other, example.value))) return example;
    const blob = await fetchBlob(example.kind === "id" ? itemURL(gallery, "/image", example.value) : sharedImageURL(gallery, example.value));
    return { ...example, kind: "upload", value: await keepUpload(blob, example.value) };
  };
  return { ...state, like: await Promise.all(state.like.map(converted)), unlike: await Promise.all(state.unlike.map(converted)) };
}

// Puts the name of an uploaded image that a problem is about into its message.
async function nameImage(problem, state) {
  const match = /^body\/(?:(like|unlike)\/(\d+)\/)?image$/.exec(problem.errors?.[0]?.location ?? "");
  if (!match) return;
  const upload = await findUpload(state[match[1] ?? "like"][Number(match[2] ?? 0)].value);
  if (upload) problem.message = problem.message.replace(/^the image(?=:)/, () => upload.name);
}

async function hasItem(gallery, id) {
  try {
    return Boolean(await requestJSON(itemURL(gallery, "", id)));
  } catch (problem) {
    if (problem.status === 404) return false;
    throw problem;
  }
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
