// What the EXIF columns of an image say, as photographers write it.

import { formatNumber, language, t } from "./texts.js";

const SLOW = 0.3; // seconds from which on an exposure time is a decimal

const dates = new Intl.DateTimeFormat(language, { dateStyle: "long", timeStyle: "short", timeZone: "UTC" });
const angles = new Intl.NumberFormat(language, { minimumFractionDigits: 4, maximumFractionDigits: 4 });

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const isText = (value) => typeof value === "string" && value !== "";

// Returns rows of a name and a text, and the names of the columns that are in them.
export function photoFacts(metadata) {
  const rows = [];
  const columns = [];
  const add = (name, text, ...used) => {
    if (!text) return;
    rows.push([t(name), text]);
    columns.push(...used);
  };
  const { date_taken: date, camera_make: make, camera_model: model, lens, width, height, latitude, longitude } = metadata;
  add("date-taken", dateText(date), "date_taken");
  add("camera", [make, model].every(isText) ? cameraName(make, model) : [make, model].find(isText), ...["camera_make", "camera_model"].filter((name) => isText(metadata[name])));
  if (isText(lens)) add("lens", lens, "lens");
  const exposure = Object.entries(EXPOSURE).filter(([name]) => isNumber(metadata[name]) && metadata[name] > 0);
  add("exposure", exposure.map(([name, text]) => text(metadata[name])).join(", "), ...exposure.map(([name]) => name));
  if ([width, height].every(isNumber)) add("image-size", t("pixels", { width, height }), "width", "height");
  if ([latitude, longitude].every(isNumber)) add("place", `${angle(latitude, "N", "S")}, ${angle(longitude, t("east"), "W")}`, "latitude", "longitude");
  return { rows, columns };
}

const EXPOSURE = {
  exposure_time: (seconds) => `${seconds < SLOW ? `1/${formatNumber(Math.round(1 / seconds))}` : formatNumber(Math.round(seconds * 10) / 10)}\u00a0s`,
  aperture: (number) => `f/${formatNumber(number)}`,
  focal_length: (length) => `${formatNumber(length)}\u00a0mm`,
  iso: (speed) => `ISO\u00a0${speed}`,
};

// "Canon" and "Canon EOS R5" are one name.
function cameraName(make, model) {
  const [brand] = make.toLowerCase().split(" ");
  return model.toLowerCase().startsWith(brand) ? model : `${make} ${model}`;
}

// The time by the camera's clock; it has no time zone.
function dateText(value) {
  const parts = isText(value) && /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d)/.exec(value);
  if (!parts) return "";
  const [year, month, day, hour, minute] = parts.slice(1).map(Number);
  return dates.format(Date.UTC(year, month - 1, day, hour, minute));
}

const angle = (degrees, positive, negative) => `${angles.format(Math.abs(degrees))}°\u00a0${degrees < 0 ? negative : positive}`;
