// The family tree: dots by generation, curves from parents to children.

const ROLES = {
  seed: ["seed model", "var(--c3)"],
  ancestor: ["ancestor", "var(--c4)"],
  archive: ["in the final archive", "var(--c1)"],
  force: ["in the task force of 3", "var(--c2)"],
};

function familyTree({ trees, members }) {
  let chosen = null;
  const mean = (row) => row.reduce((sum, w) => sum + w, 0) / row.length;
  const redraw = figure("lineage", draw);
  const recipe = figure("recipe", describe);
  const select = control("tree", () => { start(); redraw(); recipe(); });
  select.append(...Object.keys(trees).map((name) => html("option", { value: name }, name)));
  start();

  /** The youngest of those whose ancestors are shown. */
  function start() {
    const role = select.value === "archive" ? ["archive", "force"] : ["force"];
    chosen = trees[select.value].map(([id]) => id).filter((id) => role.includes(members[id].role)).at(-1);
  }

  function draw(width) {
    const nodes = trees[select.value];
    const count = Math.max(...nodes.map(([, row]) => row)) + 1;
    const gap = Math.max(20, Math.min(40, 900 / count));
    const height = Math.round(gap * (count - 1) + 44);
    const lanes = Math.max(...nodes.map(([, , lane]) => lane)) + 1;
    const pitch = Math.min(88, (width - 50) / lanes);
    const Y = (row) => 22 + row * gap;
    const at = Object.fromEntries(nodes.map(([id, row, lane]) => [id, [50 + (lane + 0.5) * pitch, Y(row), row]]));
    const line = new Set(chosen ? [chosen] : []);
    for (const id of line) members[id].parents.forEach((parent) => line.add(parent));

    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height });
    const right = 50 + lanes * pitch;
    const generations = new Map(nodes.map(([id, row]) => [row, members[id].role === "seed" ? "seeds" : members[id].generation]));
    for (const [row, generation] of generations) {
      root.append(
        svg("line", { class: "grid", x1: 44, x2: Math.max(right, width), y1: Y(row), y2: Y(row), opacity: 0.5 }),
        svg("text", { x: 38, y: Y(row) + 4, "text-anchor": "end" }, String(generation)));
    }
    root.append(svg("text", { x: 0, y: 9, style: "font-size: 11px" }, "generation"));
    const labels = [];
    for (const [id] of nodes) {
      members[id].parents.forEach((parent, p) => {
        const [[x1, y1], [x2, y2, row]] = [at[parent], at[id]];
        const turn = Y(row - 1);  // down the parent's own lane, and over to the child's in one row
        const weight = mean(members[id].coefficients[p]);
        const curve = svg("path", {
          class: id === chosen ? "edge on" : line.has(id) ? "edge" : "edge faded", d: `M${x1},${y1}V${turn}C${x1},${(turn + y2) / 2} ${x2},${(turn + y2) / 2} ${x2},${y2}`,
          "stroke-width": 0.8 + 2.6 * Math.min(Math.abs(weight), 1.2), "stroke-dasharray": weight < 0 ? "5 3" : null,
        });
        root.append(curve);
        if (id === chosen) {
          labels.push(svg("text", {
            class: "halo", x: (x1 + x2) / 2, y: (turn + y2) / 2 + 4 + 11 * (p - (members[id].parents.length - 1) / 2), "text-anchor": "middle",
          }, weight.toFixed(2)));
        }
      });
    }
    for (const [id] of nodes) {
      const { role, generation, fitness } = members[id];
      const [x, y] = at[id];
      const choose = () => { chosen = id; redraw(); recipe(); };
      const point = (event) => tell(event, [
        id, `${ROLES[role][0]}, generation ${generation}`,
        fitness == null ? "not kept: its skills are not in the matrix" : `solves ${percent(fitness)} of all tasks`,
        ...members[id].parents.map((parent, p) => `${mean(members[id].coefficients[p]).toFixed(2)} × ${parent}`),
      ]);
      root.append(svg("circle", {
        class: `node${chosen && !line.has(id) ? " faded" : ""}${id === chosen ? " chosen" : ""}`,
        cx: x, cy: y, r: role === "ancestor" ? 5 : 6.5, style: `fill: ${ROLES[role][1]}`, tabindex: 0, "data-id": id,
        onpointermove: point, onpointerleave: () => tell(null, null), onclick: choose,
        onkeydown: (event) => { if (event.key === "Enter") choose(); },
      }));
      if (role === "force" || id === chosen) {
        const left = x > width - 90;
        labels.push(svg("text", { class: "halo", x: x + (left ? -11 : 11), y: y + 4, "text-anchor": left ? "end" : "start" }, id));
      }
    }
    root.append(...labels);
    const present = new Set(nodes.map(([id]) => members[id].role));
    return [legend(Object.entries(ROLES).filter(([role]) => present.has(role))
      .map(([, [label, shade]]) => ({ label, colour: shade, kind: "dot" }))), root];
  }

  function describe() {
    if (!chosen) return [];
    const { parents, coefficients, groups, mutation } = members[chosen];
    const mutated = mutation ? `mutated: ${mutation.kind ?? Object.values(mutation)[0]}` : "not mutated";
    if (!parents.length) return html("p", {}, html("b", {}, chosen), ", a seed model: used as it was given.");
    return [
      html("p", {}, html("b", {}, chosen), ` is a merge of ${parents.length} models, ${mutated}. Coefficients per group of weights:`),
      html("div", { class: "wide" }, html("table", {},
        html("thead", {}, html("tr", {}, html("th", {}, "parent"), ...groups.map((group) => html("th", { class: "n" }, group)))),
        html("tbody", {}, ...parents.map((parent, p) => html("tr", {}, html("td", {}, parent),
          ...coefficients[p].map((w) => html("td", { class: "n" }, w.toFixed(2)))))))),
    ];
  }
}
