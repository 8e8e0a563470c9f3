// The texts of the page in the visitor's language; the service puts them into the page.

const texts = JSON.parse(document.querySelector("#texts")?.textContent || "{}");
export const language = document.documentElement.lang || "en";

const plurals = new Intl.PluralRules(language);
const numbers = new Intl.NumberFormat(language);
const percents = new Intl.NumberFormat(language, { style: "percent" });

export const hasText = (key) => Object.hasOwn(texts, key);

// Returns a text, with `values` at its places; one with a number of things depends on `n`.
export function t(key, values = {}) {
  let text = texts[key];
  if (text === undefined) throw new Error(`there is no text ${key}`);
  if (typeof text === "object") text = text[plurals.select(values.n)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (_, name) => shown(values[name]));
}

export const formatNumber = (value) => numbers.format(value);
// A share in per cent; similarities below 0 are shown as 0.
export const formatPercent = (share) => percents.format(Math.max(0, share));

// Names as in a sentence: "a, b and c".
export const formatList = (names) => new Intl.ListFormat(language).format(names);

// "2026-11" as the name of a month; other texts stay as they are.
export function formatMonth(text) {
  const [, year, month] = /^(\d{4})-(\d\d)$/.exec(text) ?? [];
  return month ? new Intl.DateTimeFormat(language, { year: "numeric", month: "long", timeZone: "UTC" }).format(Date.UTC(year, month - 1)) : String(text);
}

const shown = (value) => (typeof value === "number" ? numbers.format(value) : String(value));
