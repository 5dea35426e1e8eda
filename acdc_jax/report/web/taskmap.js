// The map of tasks: dots whose place says what they are about, and whose colour says more.

function taskMap(tasks, open) {
  const names = common(tasks.map((task) => task.capability), SERIES.length - 1);
  const last = Math.max(...tasks.map((task) => task.generation), 1);
  const shades = {
    rate: (task) => (task.rate == null ? "var(--soft)" : ramp(task.rate)),
    generation: (task) => ramp(task.generation / last),
    capability: (task) => SERIES[names.includes(task.capability) ? names.indexOf(task.capability) : SERIES.length - 1],
  };
  const redraw = figure("map", (width) => {
    const shade = shades[select.value];
    const height = Math.round(Math.max(340, Math.min(560, width * 0.6)));
    const X = linear(12, width - 12, 0, 1);
    const Y = linear(height - 12, 12, 0, 1);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height });
    const radius = width < 560 ? 4 : 5.5;
    // Active tasks last, on top of those that have left.
    for (const task of [...tasks].sort((a, b) => a.active - b.active)) {
      const point = (event) => tell(event, [
        `${task.id}: ${task.name}`, task.capability, `${task.kind}, generation ${task.generation}`,
        `pass rate ${percent(task.rate)}`]);
      root.append(svg("circle", {
        class: task.active ? "point active" : "point", cx: X(task.at[0]), cy: Y(task.at[1]), r: task.active ? radius : radius - 1.2,
        style: task.active ? `fill: ${shade(task)}` : `fill: transparent; stroke: ${shade(task)}`, "data-id": task.id,
        onpointermove: point, onpointerdown: point, onpointerleave: () => tell(null, null), onclick: () => open(task.id),
      }));
    }
    return [key(select.value), root];
  });
  const select = control("map-colour", () => redraw());

  function key(by) {
    const state = [{ label: "active", colour: "var(--soft)", kind: "dot" }, { label: "has left the pool", colour: "var(--soft)", kind: "ring" }];
    if (by === "capability") {
      const rest = tasks.some((task) => !names.includes(task.capability));
      const known = names.map((label, i) => ({ label, colour: SERIES[i], kind: "dot" }));
      return legend([...known, ...(rest ? [{ label: "other", colour: SERIES.at(-1), kind: "dot" }] : []), ...state]);
    }
    const stops = [0, 0.25, 0.5, 0.75, 1].map(ramp).join(", ");
    const [low, high] = by === "rate" ? ["nobody", "everybody"] : ["generation 0", `generation ${last}`];
    const bar = html("li", { class: "nowrap" }, low, html("span", { class: "ramp", style: `background: linear-gradient(90deg, ${stops})` }), high);
    const list = legend(state);
    list.prepend(bar);
    return list;
  }
}

/** The most frequent of some strings, most frequent first. */
function common(values, limit) {
  const counts = new Map();
  values.forEach((value) => counts.set(value, (counts.get(value) ?? 0) + 1));
  return [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, limit).map(([value]) => value);
}
