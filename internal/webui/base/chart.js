// Lines over the last minutes, drawn as SVG.
import {h, fill} from "./dom.js";

const W = 360, H = 120, LEFT = 46, BOTTOM = 16, TOP = 6;

export const colour = (i) => `var(--line-${(i % 8) + 1})`;

export class Chart {
  // format writes a value; span is how many seconds are shown.
  constructor(title, format, {span = 180, help} = {}) {
    this.format = format;
    this.span = span;
    this.lines = new Map(); // name -> [{t, v}]
    this.latest = h("span", {class: "latest"});
    this.svg = h("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title, onpointermove: (e) => this.point(e), onpointerleave: () => { this.at = undefined; this.draw(); }});
    this.el = h("figure", {class: "chart", title: help}, h("figcaption", {}, h("span", {}, title), this.latest), this.svg);
  }

  // push adds values of a moment, by name; what is not a number leaves a gap.
  push(t, values) {
    for (const [name, v] of Object.entries(values)) {
      if (!this.lines.has(name)) this.lines.set(name, []);
      this.lines.get(name).push({t, v});
    }
    for (const [name, line] of this.lines) {
      while (line.length && line[0].t < t - this.span) line.shift();
      if (!line.length) this.lines.delete(name);
    }
    this.now = t;
    this.draw();
  }

  point(e) {
    const box = this.svg.getBoundingClientRect();
    const x = ((e.clientX - box.left) / box.width) * W;
    this.at = this.now - this.span * (1 - (x - LEFT) / (W - LEFT));
    this.draw();
  }

  draw() {
    if (this.now === undefined) return;
    const x = (t) => LEFT + (W - LEFT) * (1 - (this.now - t) / this.span);
    const top = ceiling(Math.max(0, ...[...this.lines.values()].flat().map((p) => p.v).filter(Number.isFinite)));
    const y = (v) => TOP + (H - TOP - BOTTOM) * (1 - v / top);
    const grid = [0, 0.5, 1].map((f) => [
      h("line", {x1: LEFT, x2: W, y1: y(top * f), y2: y(top * f), class: "grid"}),
      h("text", {x: LEFT - 5, y: y(top * f) + 3.5, class: "axis", "text-anchor": "end"}, this.format(top * f))]);
    const labels = [[LEFT, "start", `${Math.round(this.span / 60)} min ago`], [W, "end", "now"]].map(([px, anchor, s]) =>
      h("text", {x: px, y: H - 3, class: "axis", "text-anchor": anchor}, s));
    const names = [...this.lines.keys()].sort();
    const paths = names.map((name, i) => h("path", {d: path(this.lines.get(name), x, y), stroke: colour(i), class: "line"}));
    const at = this.at === undefined ? null : h("line", {x1: x(this.at), x2: x(this.at), y1: TOP, y2: H - BOTTOM, class: "cursor"});
    fill(this.svg, grid, labels, paths, at);
    fill(this.latest, names.map((name, i) => h("span", {class: "key"}, h("i", {class: `dot c${(i % 8) + 1}`}), `${name} `, h("b", {}, this.format(this.value(name))))));
  }

  // value is that under the pointer, or the last one.
  value(name) {
    const line = this.lines.get(name);
    if (this.at === undefined) return line[line.length - 1].v;
    let best = line[0];
    for (const p of line) if (Math.abs(p.t - this.at) < Math.abs(best.t - this.at)) best = p;
    return best.v;
  }
}

function path(line, x, y) {
  let d = "", pen = false;
  for (const p of line) {
    if (!Number.isFinite(p.v)) { pen = false; continue; }
    d += `${pen ? "L" : "M"}${x(p.t).toFixed(1)} ${y(p.v).toFixed(1)}`;
    pen = true;
  }
  return d;
}

// ceiling is a round number above v.
function ceiling(v) {
  if (!(v > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(v));
  return [1, 2, 5, 10].map((m) => m * power).find((c) => c >= v * 1.02) || 10 * power;
}
