// The page that compares runs.

const { sets, pool } = await unpack("data");
for (const [name, groups] of [...sets.map((curves, s) => [`measured${s}`, curves]), ["pool", pool]]) {
  const series = Object.entries(groups).filter(([, points]) => points.length).map(([label, points], i) => ({
    label, colour: SERIES[i % SERIES.length],
    points: points.map(([x, mean]) => [x, mean]),
    low: points.map(([x, , low]) => [x, low]),
    high: points.map(([x, , , high]) => [x, high]),
  }));
  figure(name, (width) => (series.length ? lineChart(width, series, { format: percent, dots: name !== "pool" }) : []));
}
