// Line charts: a legend above, a cursor that tells every curve's value.

/**
 * @param series [{label, points: [[x, y]], colour, dashed, low, high}]; a level has points at both
 *   ends only; low and high, where given, border a band.
 * @param options {marks: x values of vertical lines, top: largest y, x: name of the x axis, format}
 */
function lineChart(width, series, { marks = [], top = null, x = "generation", format = number, dots = false }) {
  const height = Math.round(Math.min(300, Math.max(210, width * 0.55)));
  const edge = { left: 44, right: 12, top: 8, bottom: 38 };
  const all = series.flatMap((s) => s.points.concat(s.high ?? []));
  const xs = [...new Set(series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
  const highest = top ?? Math.max(...all.map((p) => p[1]), 1e-9) * 1.06;
  const X = linear(edge.left, width - edge.right, xs[0], xs.at(-1));
  const Y = linear(height - edge.bottom, edge.top, 0, highest);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });

  for (const value of ticks(0, highest, 4)) {
    root.append(
      svg("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: Y(value), y2: Y(value) }),
      svg("text", { x: edge.left - 7, y: Y(value) + 4, "text-anchor": "end" }, format(value)));
  }
  for (const value of ticks(xs[0], xs.at(-1), width < 450 ? 4 : 8).filter(Number.isInteger)) {
    root.append(svg("text", { x: X(value), y: height - edge.bottom + 17, "text-anchor": "middle" }, String(value)));
  }
  root.append(svg("text", { x: (edge.left + width - edge.right) / 2, y: height - 4, "text-anchor": "middle" }, x));
  for (const mark of marks) {
    root.append(svg("line", { class: "mark", x1: X(mark), x2: X(mark), y1: edge.top, y2: height - edge.bottom }));
  }
  const path = (points) => points.map((p, i) => `${i ? "L" : "M"}${X(p[0])},${Y(p[1])}`).join("");
  for (const { points, colour: stroke, dashed, low, high } of series) {
    if (low) {
      const band = path([...high, ...low.slice().reverse()]);
      root.append(svg("path", { d: `${band}Z`, style: `fill: ${stroke}`, opacity: 0.16 }));
    }
    root.append(svg("path", {
      d: path(points), fill: "none", style: `stroke: ${stroke}`, "stroke-width": 2,
      "stroke-dasharray": dashed ? "6 4" : null, "stroke-linejoin": "round",
    }));
    if (dots && !dashed) {
      root.append(...points.map((p) => svg("circle", { cx: X(p[0]), cy: Y(p[1]), r: 3, style: `fill: ${stroke}` })));
    }
  }

  const cursor = svg("line", { class: "cursor", y1: edge.top, y2: height - edge.bottom, visibility: "hidden" });
  const point = (event) => {
    const at = event.clientX - root.getBoundingClientRect().left;
    const nearest = xs.reduce((best, value) => (Math.abs(X(value) - at) < Math.abs(X(best) - at) ? value : best));
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, X(nearest));
    cursor.setAttribute("visibility", "visible");
    const lines = series.flatMap(({ label, points, colour: shade, dashed }) => {
      const hit = dashed ? points[0] : points.find((p) => p[0] === nearest);
      return hit ? [[html("i", { style: `background: ${shade}` }), `${label}: ${format(hit[1])}`]] : [];
    });
    tell(event, [`${x} ${nearest}`, ...lines]);
  };
  const leave = () => { cursor.setAttribute("visibility", "hidden"); tell(null, null); };
  root.append(cursor, svg("rect", {
    x: 0, y: 0, width, height, fill: "transparent", onpointermove: point, onpointerdown: point, onpointerleave: leave,
  }));
  return [legend(series.map((s) => ({ label: s.label, colour: s.colour, kind: s.dashed ? "dashed" : "" }))), root];
}
