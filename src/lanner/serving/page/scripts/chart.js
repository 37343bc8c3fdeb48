// SVG charts over the last minute. A sample is {at, status}; status is null if the poll failed.

import { drawn, element } from "./elements.js";
import { percent, roundedUp, short } from "./numbers.js";

/** Time span of a chart. */
export const SPAN_MS = 60_000;
const GAP_MS = 3_500;
const [WIDTH, HEIGHT] = [240, 64];

/** Base of both charts: frame, legend with values, and a cursor line. */
class Chart {
  constructor(title, unit) {
    this.title = title;
    this.paths = drawn("g");
    this.pointer = drawn("line", { class: "pointer", y1: 0, y2: HEIGHT, visibility: "hidden" });
    const grid = [0, HEIGHT / 2, HEIGHT].map((y) => drawn("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    this.drawing = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      ...grid, this.paths, this.pointer);
    this.top = element("span", { class: "axis figures", "aria-hidden": "true" });
    this.figures = element("ul", { class: "chart-legend" });
    this.figure = element("figure", { class: "chart" },
      element("figcaption", {},
        element("span", {}, title, element("span", { class: "soft" }, ` ${unit}`)), this.figures),
      element("div", { class: "plot" }, this.top, this.drawing));
    this.drawing.addEventListener("pointermove", (event) => this.pointAt(event));
    this.drawing.addEventListener("pointerleave", () => this.pointAt(null));
    this.pointedAt = null;
  }

  pointAt(event) {
    const box = this.drawing.getBoundingClientRect();
    this.pointedAt = event && (event.clientX - box.left) / box.width;
    if (this.samples) this.draw(this.samples, this.now);
  }

  /** Samples oldest first; now: the right edge. */
  draw(samples, now) {
    [this.samples, this.now] = [samples, now];
    this.x = (sample) => WIDTH * (1 - (now - sample.at) / SPAN_MS);
    this.paths.replaceChildren(...this.marks(samples.filter((sample) => now - sample.at <= SPAN_MS)));
    const told = this.pointed() ?? samples.at(-1);
    this.pointer.setAttribute("visibility", this.pointedAt === null ? "hidden" : "visible");
    for (const end of ["x1", "x2"]) this.pointer.setAttribute(end, WIDTH * (this.pointedAt ?? 0));
    const entries = this.entries(told?.status ?? null);
    this.figures.replaceChildren(...entries.map(({ name, value, color }) => element("li", {},
      element("span", { class: "swatch", "data-color": color, "aria-hidden": "true" }), `${name} `,
      element("span", { class: "figures" }, value))));
    this.drawing.setAttribute("aria-label",
      `${this.title}: ${entries.map(({ name, value }) => `${name} ${value}`).join(", ") || "nothing"}`);
  }

  pointed() {
    if (this.pointedAt === null) return null;
    const far = (sample) => Math.abs(this.x(sample) - this.pointedAt * WIDTH);
    const nearest = this.samples.toSorted((one, other) => far(one) - far(other))[0];
    return nearest && far(nearest) < (WIDTH * GAP_MS) / SPAN_MS ? nearest : { status: null };
  }

  /** Split samples into runs without gaps (failed polls or long pauses). */
  runs(samples, has) {
    const runs = [];
    let before = null;
    for (const sample of samples) {
      const whole = sample.status !== null && has(sample.status);
      if (whole && before && sample.at - before.at <= GAP_MS) runs.at(-1).push(sample);
      else if (whole) runs.push([sample]);
      before = whole ? sample : null;
    }
    return runs;
  }
}

/** Line chart from 0. series: {name, color, read(status)}; null is a gap. */
export class LineChart extends Chart {
  constructor(title, unit, series) {
    super(title, unit);
    this.series = series;
  }

  marks(samples) {
    const values = samples.flatMap(({ status }) => (status ? this.series.map((one) => one.read(status) ?? 0) : []));
    const top = roundedUp(Math.max(1, ...values));
    this.top.textContent = short(top);
    const y = (value) => HEIGHT * (1 - value / top);
    return this.series.flatMap(({ read, color }) => this.runs(samples, (status) => read(status) !== null).map((run) => {
      const points = run.map((sample) => `${this.x(sample).toFixed(1)} ${y(read(sample.status)).toFixed(1)}`);
      // A single point is drawn as a short line, to be visible.
      const d = `M${points.join("L")}${points.length > 1 ? "" : "h1"}`;
      return drawn("path", { class: "line", "data-color": color, d });
    }));
  }

  entries(status) {
    return this.series.map(({ name, color, read }) => ({ name, color, value: short(status && read(status)) }));
  }
}

/** Stacked shares that sum to 1. read(status): shares by name. names(status): their order, bottom first. */
export class ShareChart extends Chart {
  constructor(title, palette, read, names) {
    super(title, "");
    [this.palette, this.read, this.names, this.known] = [palette, read, names, []];
    this.figure.classList.add("shares");
  }

  marks(samples) {
    for (const { status } of samples) {
      if (status) this.known = [...new Set([...this.names(status), ...this.known, ...Object.keys(this.read(status))])];
    }
    const foot = (sample, place) => {
      const shares = this.read(sample.status);
      return HEIGHT * (1 - this.known.slice(0, place).reduce((sum, name) => sum + (shares[name] ?? 0), 0));
    };
    const runs = this.runs(samples, (status) => Object.keys(this.read(status)).length > 0);
    return this.known.flatMap((_, place) => runs.map((run) => {
      const edge = (level) => run.map((sample) => `${this.x(sample).toFixed(1)} ${foot(sample, level).toFixed(1)}`);
      return drawn("path", { class: "area", "data-color": this.color(place),
        d: `M${edge(place).join("L")}L${edge(place + 1).reverse().join("L")}Z` });
    }));
  }

  entries(status) {
    const shares = status ? this.read(status) : {};
    const none = Object.keys(shares).length === 0;
    return this.known.map((name, place) =>
      ({ name, color: this.color(place), value: none ? "–" : percent(shares[name] ?? 0) }));
  }

  color(place) {
    return `${this.palette}-${Math.min(place, 4)}`;
  }
}
