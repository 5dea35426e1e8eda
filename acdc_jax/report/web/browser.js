// The task browser. What models and task authors wrote is put in as text, never as markup.

const PAGE = 20;

function taskBrowser(tasks) {
  const form = document.getElementById("filters");
  const list = document.getElementById("browser");
  for (const field of ["capability", "kind", "difficulty"]) {
    const values = [...new Set(tasks.map((task) => String(task[field])))].sort();
    form.elements[field].append(...values.map((value) => html("option", { value }, value)));
  }
  for (const event of ["input", "change"]) form.addEventListener(event, () => show(PAGE));
  form.addEventListener("submit", (event) => event.preventDefault());
  show(PAGE);

  function matches(task) {
    const wanted = (name) => form.elements[name].value;
    const text = wanted("text").toLowerCase();
    const [low, high] = wanted("rate").split(",").map(Number);
    return ["capability", "kind", "difficulty"].every((field) => !wanted(field) || String(task[field]) === wanted(field))
      && (!wanted("rate") || (task.rate != null && task.rate >= low && task.rate <= high))
      && (!form.elements.differ.checked || differ(task))
      && (!form.elements.active.checked || task.active)
      && (!text || [task.id, task.name, task.description, ...Object.values(task.instructions)].join("\n").toLowerCase().includes(text));
  }

  function show(limit) {
    const found = tasks.filter(matches);
    document.getElementById("found").textContent = `${found.length} of ${tasks.length} tasks`;
    const more = html("p", {}, html("button", { type: "button", onclick: () => show(limit + 10 * PAGE) }, "Show more"));
    list.replaceChildren(...found.slice(0, limit).map(entry), ...(found.length > limit ? [more] : []));
  }

  return function open(id) {
    form.reset();
    form.elements.text.value = id;
    show(PAGE);
    const first = list.querySelector("details");
    first.open = true;
    first.scrollIntoView({ block: "center" });
  };
}

/** Some member solves an instance of the task that another one does not. */
function differ(task) {
  const scores = new Map();
  for (const [instance, , score] of task.answers) {
    if (score != null) scores.set(instance, (scores.get(instance) ?? new Set()).add(score));
  }
  return [...scores.values()].some((set) => set.size > 1);
}

function entry(task) {
  const details = html("details", { "data-id": task.id }, html("summary", {},
    html("span", { class: "id" }, task.id), html("span", { class: "name" }, task.name),
    html("span", { class: "facts" }, `${task.kind} · difficulty ${task.difficulty} · pass rate ${percent(task.rate)}${task.active ? "" : " · has left"}`)));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(inside(task));
  });
  return details;
}

function inside(task) {
  const origin = task.parent ? `made from ${task.parent}` : "without a parent";
  const asked = new Set(task.answers.map(([instance]) => instance));
  const instances = Object.entries(task.instructions).filter(([name]) => !asked.size || asked.has(name));
  return html("div", { class: "task" },
    html("p", {}, task.description),
    html("p", { class: "facts" }, `${task.capability} · ${task.kind}, ${origin}, generation ${task.generation}`),
    ...instances.flatMap(([name, instruction]) => [
      html("h3", {}, "A model is asked"), html("pre", {}, instruction),
      html("h3", {}, "Models answered"), ...answers(task, name)]),
    html("h3", {}, "Its program"), html("pre", {}, task.source));
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
