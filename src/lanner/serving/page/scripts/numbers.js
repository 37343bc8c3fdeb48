// Number formatting.

/** About three significant digits with thousands separators; "–" for null. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : 2;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** Two decimals; a small negative value is 0.00. */
export function decimal(value) {
  return (Math.round(value * 100) / 100 + 0).toFixed(2);
}

/** The same with a sign. */
export function signed(value) {
  const shown = decimal(value);
  return shown.startsWith("-") ? shown.replace("-", "−") : `+${shown}`;
}

/** A share as a percentage. */
export function percent(share) {
  return `${Math.round(share * 100)} %`;
}

/** "1 item", "2 items". */
export function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** Seconds in a readable unit. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

/** Upper end of an axis: the next of 1, 2, 5, 10, 20 … */
export function roundedUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return power * [1, 2, 5, 10].find((step) => step * power >= value * 0.999999);
}
