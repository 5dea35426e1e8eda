// Elements, scales, the tooltip, and the data of the page.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element; strings among its children become text, never markup. */
function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** Draws a figure now, and again whenever its width or the colour scheme changes. */
function figure(name, draw) {
  const place = document.querySelector(`[data-figure="${name}"]`);
  if (!place) return () => {};
  let width = 0;
  const redraw = () => { if (width) place.replaceChildren(...[draw(width)].flat()); };
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now !== width) { width = now; redraw(); }
  }).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  return redraw;
}

function control(name, change) {
  const element = document.querySelector(`[data-control="${name}"]`);
  element.addEventListener("change", change);
  return element;
}

const linear = (from, to, low, high) => (value) =>
  high === low ? (from + to) / 2 : from + ((value - low) / (high - low)) * (to - from);

/** Round numbers that divide [low, high] into about n parts. */
function ticks(low, high, n) {
  const raw = (high - low || 1) / n;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.75);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

const number = (value, digits = 3) =>
  value == null ? "–" : String(Number(value.toPrecision(digits)));
const percent = (value) => (value == null ? "–" : `${Math.round(100 * value)} %`);

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const SERIES = ["c1", "c2", "c3", "c5", "c6", "c8", "c7", "c4"].map((name) => `var(--${name})`);

/** From 0 to 1, blue to yellow: safe for the colour-blind, and told apart on light and dark. */
const ramp = (share) => `color-mix(in oklab, var(--hot) ${Math.round(100 * share)}%, var(--cold))`;

function legend(entries) {
  return html("ul", { class: "legend" }, ...entries.map(({ label, colour: shade, kind }) =>
    html("li", {}, html("i", { class: kind, style: `--colour: ${shade}` }), label)));
}

const tooltip = document.getElementById("tooltip");

/** Shows lines beside the pointer, or beside an element that has the focus; none hides it. */
function tell(event, lines) {
  tooltip.hidden = !lines;
  if (!lines) return;
  tooltip.replaceChildren(...lines.map((line) => html("div", {}, ...[line].flat())));
  const box = event.target.getBoundingClientRect();
  const [x, y] = event.clientX == null ? [box.right, box.top] : [event.clientX, event.clientY];
  const { offsetWidth: w, offsetHeight: h } = tooltip;
  tooltip.style.left = `${Math.max(6, x + 16 + w > innerWidth ? x - w - 12 : x + 16)}px`;
  tooltip.style.top = `${Math.max(6, y + 16 + h > innerHeight ? y - h - 12 : y + 16)}px`;
}
addEventListener("scroll", () => tell(null, null), { passive: true });
