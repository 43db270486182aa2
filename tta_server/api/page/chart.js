// Small drawings of numbers over time: SVG elements, coloured by the style sheet.
const SVG = "http://www.w3.org/2000/svg";
const [HEIGHT, LEFT, BOTTOM, TOP] = [240, 44, 26, 14];

function draw(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const path = (points) => points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");

// values: numbers, the oldest first.
export function sparkline(values, most) {
  const picture = draw("svg", { viewBox: "0 0 96 22", class: "spark", "aria-hidden": "true" });
  const height = Math.max(most, ...values);
  const step = 92 / Math.max(values.length - 1, 1);
  const points = values.map((value, at) => [2 + at * step, 20 - (18 * Math.max(value, 0)) / height]);
  picture.append(
    draw("line", { x1: 2, x2: 94, y1: 20 - (18 * most) / height, y2: 20 - (18 * most) / height, class: "limit" }),
  );
  if (points.length) picture.append(draw("path", { d: path(points), class: "line" }));
  return picture;
}

// windows: [{time, state, value}]; limits: [{value, name}]; marks: [{time, name, kind}]; width: in pixels, so that text
// is as large as elsewhere on the page.
export function chart(windows, limits, marks, title, width) {
  const picture = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": title });
  const times = windows.map((each) => Date.parse(each.time));
  const [start, end] = [times[0], Math.max(times.at(-1), times[0] + 1000)];
  const all = [...windows, ...limits].map((each) => each.value);
  const [low, high] = [Math.min(0, ...all), Math.max(...all, 1e-6)];
  const right = width - 10;
  const x = (time) => LEFT + ((right - LEFT) * (time - start)) / (end - start);
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * (value - low)) / (high - low);

  windows.forEach((each, at) => {
    const from = at ? x(times[at - 1]) : LEFT;
    const wide = Math.max(x(times[at]) - from, 0);
    picture.append(
      draw("rect", { x: from, y: TOP, width: wide, height: HEIGHT - BOTTOM - TOP, class: `band ${each.state}` }),
    );
  });
  for (const value of [low, (low + high) / 2, high]) {
    picture.append(draw("line", { x1: LEFT, x2: right, y1: y(value), y2: y(value), class: "grid" }));
    picture.append(
      draw("text", { x: LEFT - 6, y: y(value) + 4, class: "end" }, Number(value.toPrecision(2)).toString()),
    );
  }
  for (const { value, name } of limits) {
    picture.append(draw("line", { x1: LEFT, x2: right, y1: y(value), y2: y(value), class: "limit" }));
    picture.append(draw("text", { x: right, y: y(value) - 4, class: "end" }, name));
  }
  for (const { time, name, kind } of marks) {
    const at = Date.parse(time);
    if (at < start || at > end) continue;
    const line = draw("line", { x1: x(at), x2: x(at), y1: TOP, y2: HEIGHT - BOTTOM, class: `mark ${kind}` });
    line.append(draw("title", {}, name));
    picture.append(line);
  }
  const points = windows.map((each, at) => [x(times[at]), y(each.value)]);
  picture.append(draw("path", { d: path(points), class: "line" }));
  for (const [cx, cy] of points) picture.append(draw("circle", { cx, cy, r: 2.5, class: "dot" }));
  const label = (time) => new Date(time).toLocaleTimeString();
  picture.append(draw("text", { x: LEFT, y: HEIGHT - 8 }, label(start)));
  picture.append(draw("text", { x: right, y: HEIGHT - 8, class: "end" }, label(end)));
  return picture;
}
