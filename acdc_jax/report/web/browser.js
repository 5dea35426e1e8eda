// The task browser. What models and task authors wrote is put in as text, never as markup.

const PAGE = 20;
const FIELDS = ["capability", "kind", "families", "level", "difficulty"];

function taskBrowser(tasks) {
  const form = document.getElementById("filters");
  const list = document.getElementById("browser");
  const byId = Object.fromEntries(tasks.map((task) => [task.id, task]));
  for (const field of FIELDS) {
    const values = [...new Set(tasks.flatMap((task) => valuesOf(task, field)))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    form.elements[field].append(...values.map((value) => html("option", { value }, value)));
    form.elements[field].closest("label").hidden = !values.length;
  }
  for (const event of ["input", "change"]) form.addEventListener(event, () => show(PAGE));
  form.addEventListener("submit", (event) => event.preventDefault());
  show(PAGE);

  function matches(task) {
    const wanted = (name) => form.elements[name].value;
    const text = wanted("text").toLowerCase();
    const [low, high] = wanted("rate").split(",").map(Number);
    return FIELDS.every((field) => !wanted(field) || valuesOf(task, field).includes(wanted(field)))
      && (!wanted("rate") || (task.rate != null && task.rate >= low && task.rate <= high))
      && (!form.elements.differ.checked || differ(task))
      && (!form.elements.active.checked || task.active)
      && (!text || [task.id, task.name, task.description, ...Object.values(task.instructions)].join("\n").toLowerCase().includes(text));
  }

  function show(limit) {
    const found = tasks.filter(matches);
    document.getElementById("found").textContent = `${found.length} of ${tasks.length} tasks`;
    const more = html("p", {}, html("button", { type: "button", onclick: () => show(limit + 10 * PAGE) }, "Show more"));
    list.replaceChildren(...found.slice(0, limit).map((task) => entry(task, byId, open)), ...(found.length > limit ? [more] : []));
  }

  function open(id) {
    form.reset();
    form.elements.text.value = id;
    show(PAGE);
    const first = list.querySelector("details");
    first.open = true;
    first.scrollIntoView({ block: "center" });
  }

  return open;
}

/** The values of a field that a task can be chosen by: none, one, or several. */
function valuesOf(task, field) {
  return [task[field] ?? []].flat().map(String);
}

/** Some member solves an instance of the task that another one does not. */
function differ(task) {
  const scores = new Map();
  for (const [instance, , score] of task.answers) {
    if (score != null) scores.set(instance, (scores.get(instance) ?? new Set()).add(score));
  }
  return [...scores.values()].some((set) => set.size > 1);
}

function entry(task, byId, open) {
  const details = html("details", { "data-id": task.id }, html("summary", {},
    html("span", { class: "id" }, task.id), html("span", { class: "name" }, task.name),
    html("span", { class: "facts" }, `${task.kind} · ${task.level == null ? "" : `level ${task.level} · `}difficulty ${task.difficulty} · pass rate ${percent(task.rate)}${task.active ? "" : " · has left"}`)));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(inside(task, byId, open));
  });
  return details;
}

function inside(task, byId, open) {
  const origin = task.parent ? `made from ${task.parent}` : "without a parent";
  const line = lineage(task, byId);
  const relative = ([depth, other]) => html("li", { style: `margin-left: ${depth}rem` },
    other === task ? html("b", {}, other.id) : html("button", { type: "button", onclick: () => open(other.id) }, other.id),
    ` ${[other.kind, other.name, other.change, `pass rate ${percent(other.rate)}`].filter(Boolean).join(" · ")}`);
  const asked = new Set(task.answers.map(([instance]) => instance));
  const instances = Object.entries(task.instructions).filter(([name]) => !asked.size || asked.has(name));
  return html("div", { class: "task" },
    html("p", {}, task.description),
    html("p", { class: "facts" }, `${task.capability} · ${task.kind}, ${origin}, generation ${task.generation}`),
    task.levels ? html("p", { class: "facts" }, `Questions of reasoning-gym, with the levels above the lowest: ${task.levels}`) : null,
    ...(line.length > 1 ? [html("h3", {}, "Where it comes from, and what came of it"), html("ol", { class: "line" }, ...line.map(relative))] : []),
    ...instances.flatMap(([name, instruction]) => [
      html("h3", {}, "A model is asked"), html("pre", {}, instruction),
      html("h3", {}, "Models answered"), ...answers(task, name)]),
    html("h3", {}, "Its program"), html("pre", {}, task.source));
}

/** A task's ancestors, the oldest first, the task itself, and its children, each with its depth. */
function lineage(task, byId) {
  const line = [task];
  for (let older; (older = byId[line[0].parent]) && !line.includes(older);) line.unshift(older);
  const children = Object.values(byId).filter((other) => other.parent === task.id);
  return [...line.map((other, depth) => [depth, other]), ...children.map((child) => [line.length, child])];
}

function answers(task, name) {
  const own = task.answers.filter(([instance]) => instance === name).sort((a, b) => (b[2] ?? -1) - (a[2] ?? -1) || b[3].length - a[3].length);
  if (!own.length) return [html("p", {}, "No model shown here has met this task.")];
  return own.map(([, text, score, who]) => html("div", { class: "answer" },
    html("span", { class: score >= 0.5 ? "right" : "wrong", title: score == null ? "could not be scored" : `score ${number(score)}` },
      score == null ? "?" : score >= 0.5 ? "✓" : "✗"),
    html("pre", {}, text || "(nothing)"),
    html("span", { class: "who" }, `${who.join(", ")}${score != null && score > 0 && score < 1 ? ` · score ${number(score)}` : ""}`)));
}
