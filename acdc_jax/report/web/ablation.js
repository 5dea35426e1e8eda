// The page that compares runs.

for (const [name, groups] of Object.entries(await unpack("data"))) {
  const series = Object.entries(groups).filter(([, points]) => points.length).map(([label, points], i) => ({
    label, colour: SERIES[i % SERIES.length],
    points: points.map(([x, mean]) => [x, mean]),
    low: points.map(([x, , low]) => [x, low]),
    high: points.map(([x, , , high]) => [x, high]),
  }));
  figure(name, (width) => (series.length ? lineChart(width, series, { format: percent, dots: name === "measured" }) : []));
}
