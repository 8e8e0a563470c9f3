// The query, the filters and the order of the page, as they are in its URL.
//
// An example is {kind, value, weight}: kind is "id", "url", "upload" (the digest of an image that
// this browser keeps) or "shared" (the ID of one that the service stores for some days). Those of
// `like` attract, those of `unlike` repel.

export const DEFAULT_WEIGHTS = { like: 1, unlike: 0.5 };
const KINDS = ["id", "url", "upload", "shared"];
const UNLIKE = "not-";
const FILTER_PREFIXES = ["value:", "min:", "max:"];
const OPTIONS = ["where", "sort", "group", "min_similarity", "metric", "rerank", "foreground", "multi_crop", "compare", "box", "exact", "by"];

export function readState(search) {
  const parameters = new URLSearchParams(search);
  const state = { like: [], unlike: [], text: parameters.get("text") ?? "", filters: [], options: {} };
  for (const [name, value] of parameters) {
    if (!value) continue;
    const side = name.startsWith(UNLIKE) ? "unlike" : "like";
    const kind = side === "unlike" ? name.slice(UNLIKE.length) : name;
    if (KINDS.includes(kind)) state[side].push({ kind, value, weight: DEFAULT_WEIGHTS[side] });
    else if (FILTER_PREFIXES.some((prefix) => name.startsWith(prefix))) state.filters.push([name, value]);
    else if (OPTIONS.includes(name)) state.options[name] = value;
  }
  const weights = parameters.get("weights")?.split(",").map(Number) ?? [];
  const examples = [...state.like, ...state.unlike];
  if (weights.length === examples.length) examples.forEach((each, i) => weights[i] >= 0 && (each.weight = weights[i]));
  return state;
}

export function writeState(state) {
  const parameters = new URLSearchParams();
  for (const { kind, value } of state.like) parameters.append(kind, value);
  for (const { kind, value } of state.unlike) parameters.append(UNLIKE + kind, value);
  const isWeighted = ["like", "unlike"].some((side) => state[side].some(({ weight }) => weight !== DEFAULT_WEIGHTS[side]));
  if (isWeighted) parameters.set("weights", [...state.like, ...state.unlike].map(({ weight }) => weight).join(","));
  if (state.text) parameters.set("text", state.text);
  for (const [name, value] of state.filters) parameters.append(name, value);
  for (const [name, value] of Object.entries(state.options)) if (value && (name !== "by" || state.text)) parameters.set(name, value);
  return parameters;
}

// Whether the text is searched for in names and metadata; `supportsText`: it could be by content.
export const isByWords = (state, supportsText) => !supportsText || state.options.by === "words";

export const hasExamples = (state) => state.like.length + state.unlike.length > 0;

// Whether results are ranked by a query, rather than listed.
export const isSearch = (state) => hasExamples(state) || state.text !== "";

// The filter of all fields as one expression; `kinds` are those of the columns.
export function whereExpression({ filters, options }, kinds) {
  const values = new Map();
  const conditions = [];
  for (const [name, value] of filters) {
    const [prefix, column] = [name.slice(0, name.indexOf(":") + 1), name.slice(name.indexOf(":") + 1)];
    if (prefix === "value:") values.set(column, [...(values.get(column) ?? []), literal(value, kinds.get(column))]);
    else conditions.push(`${quoted(column)} ${prefix === "min:" ? ">=" : "<="} ${Number(value)}`);
  }
  for (const [column, list] of values) conditions.push(`${quoted(column)} in (${list.join(", ")})`);
  if (options.where) conditions.push(conditions.length ? `(${options.where})` : options.where);
  return conditions.join(" and ");
}

const quoted = (column) => `\`${column.replaceAll("`", "``")}\``;

function literal(value, kind) {
  if (kind === "boolean") return value === "yes" ? "true" : "false";
  return `'${value.replaceAll("'", "''")}'`;
}
