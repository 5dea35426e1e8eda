// The page of one run.

const { generations, heat, tree, tasks, timing } = await unpack("data");
const { metrics } = generations;
const at = (name) => metrics.map((entry) => [entry.generation, entry[name]]);
const adapted = metrics.filter((entry) => entry.generation && entry.new_tasks).map((entry) => entry.generation);
const last = metrics.at(-1).generation;
const share = { format: percent, marks: adapted };

figure("pool", (width) => lineChart(width, [
  { label: "whole archive together", points: at("coverage_archive"), colour: "var(--c4)" },
  { label: "best three together", points: at("coverage_3"), colour: "var(--c1)" },
  { label: "fittest model", points: at("fitness_best"), colour: "var(--c2)" },
  { label: "average model", points: at("fitness_mean"), colour: "var(--c3)" },
], share));

generations.sets.forEach(({ measured, levels }, s) => figure(`measured${s}`, (width) => lineChart(width, [
  { label: "the 3 it would choose", points: measured, colour: "var(--c1)" },
  ...levels.map(([label, level], i) => (
    { label, points: [[0, level], [last, level]], colour: ["var(--c2)", "var(--c6)", "var(--c4)"][i % 3], dashed: true })),
], { ...share, marks: [], dots: true })));

const novel = generations.novelty.map((pair, g) => [g, pair]).filter(([, pair]) => pair);
figure("novelty", (width) => novel.length ? lineChart(width, [
  { label: "highest", points: novel.map(([g, pair]) => [g, pair[1]]), colour: "var(--c2)" },
  { label: "median", points: novel.map(([g, pair]) => [g, pair[0]]), colour: "var(--c1)" },
], { marks: adapted }) : html("p", {}, "No model was dominated by another."));

figure("vendi", (width) => lineChart(width, [
  { label: "Vendi score", points: generations.vendi.map((value, g) => [g, value]), colour: "var(--c1)" },
], { marks: adapted }));

const byId = Object.fromEntries(tasks.map((task) => [task.id, task]));
heatMap(heat, byId);
familyTree(tree);
taskMap(tasks, taskBrowser(tasks));

const steps = Object.entries(timing.steps);
figure("seconds", (width) => lineChart(width, [
  { label: "all", points: at("seconds"), colour: "var(--c4)" },
  ...steps.map(([label, values], i) => (
    { label, points: values.map((value, k) => [metrics[k].generation, value]), colour: SERIES[i % SERIES.length] })),
], { marks: adapted }));

figure("wall", () => {
  const parts = Object.entries(timing.wall);
  const longest = Math.max(...parts.map(([, seconds]) => seconds), 1e-9);
  return html("div", { class: "bars" }, ...parts.flatMap(([name, seconds]) => [
    html("span", {}, name), html("b", { style: `width: ${(100 * seconds) / longest}%` }), html("span", { class: "n" }, `${number(seconds)} s`)]));
});
