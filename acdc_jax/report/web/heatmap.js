// The skill matrix: one canvas per group of models, one pixel per cell, scaled to the width.

function heatMap({ groups, tasks: ids, rows, fitness }, byId) {
  const redraw = figure("heat", (width) => {
    const label = width < 560 ? 69 : 99;
    const order = columns(select.value);
    let first = 0;
    const blocks = groups.map(({ name, members }) => {
      const own = rows.slice(first, first + members.length);
      const shares = fitness.slice(first, first + members.length);
      first += members.length;
      return html("div", { class: "heat-row" },
        html("div", {}, html("b", {}, name), html("div", {}, `${members.length} model${members.length > 1 ? "s" : ""}`)),
        block(members, own, shares, order, width - label - 8));
    });
    return [...blocks, legend([
      { label: "solved", colour: "var(--solved)", kind: "dot" },
      { label: "failed", colour: "var(--failed)", kind: "dot" },
      ...(rows.some((row) => row.includes("-")) ? [{ label: "not evaluated", colour: "var(--missing)", kind: "dot" }] : []),
    ])];
  });
  const select = control("heat-order", () => redraw());

  function columns(by) {
    const solved = ids.map((_, t) => rows.reduce((sum, row) => sum + (row[t] === "1"), 0));
    const key = {
      rate: (a, b) => solved[b] - solved[a] || a - b,
      capability: (a, b) => byId[ids[a]].capability.localeCompare(byId[ids[b]].capability) || solved[b] - solved[a] || a - b,
      age: (a, b) => a - b,
    }[by];
    return ids.map((_, t) => t).sort(key);
  }

  function block(members, own, shares, order, width) {
    // A pixel per cell, then as wide as there is room (columns thinner than a pixel are averaged),
    // then as high as the rows should be.
    const small = html("canvas", { width: order.length, height: members.length });
    const paint = small.getContext("2d");
    const image = paint.createImageData(order.length, members.length);
    const shades = { 1: rgb("solved"), 0: rgb("failed"), "-": rgb("missing") };
    own.forEach((row, m) => order.forEach((t, at) => {
      image.data.set([...shades[row[t]], 255], 4 * (m * order.length + at));
    }));
    paint.putImageData(image, 0, 0);
    const cell = members.length > 40 ? 6 : members.length > 10 ? 9 : 13;
    const height = Math.max(cell * members.length, 12);
    const density = Math.min(devicePixelRatio || 1, 2);
    const canvas = html("canvas", { width: width * density, height: height * density, style: `height: ${height}px` });
    const wide = html("canvas", { width: canvas.width, height: members.length });
    stretch(small, wide, canvas.width < order.length);
    stretch(wide, canvas, false);
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const at = Math.floor(((event.clientX - box.left) / box.width) * order.length);
      const m = Math.floor(((event.clientY - box.top) / box.height) * members.length);
      if (!(own[m] && order[at] != null)) return tell(null, null);
      const task = byId[ids[order[at]]];
      const how = { 1: "solves", 0: "fails", "-": "has not met" }[own[m][order[at]]];
      tell(event, [`${members[m]} ${how} ${task.id}`, task.name, task.capability, `this model solves ${percent(shares[m])} of all tasks`]);
    };
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointerleave", () => tell(null, null));
    return canvas;
  }
}

function stretch(from, to, smooth) {
  const context = to.getContext("2d");
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(from, 0, 0, to.width, to.height);
}

function rgb(name) {
  const hex = colour(name).slice(1);
  return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
}
