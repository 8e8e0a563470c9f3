// CSV as the rest of lookalike writes it, see csv_text.py.

// A text that a spreadsheet would take for a formula gets an apostrophe.
const isFormula = (text) => /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(text) && !/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text);
const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

export const csvCell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  return quoted(isFormula(text) ? `'${text}` : text);
};

// Returns a table with a line of column names.
export function csvTable(columns, rows) {
  return [columns, ...rows].map((row) => `${row.map(csvCell).join(",")}\r\n`).join("");
}
