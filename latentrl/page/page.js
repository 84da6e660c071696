"use strict";
const runs = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const redraws = [];
const COLORS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#7f7f7f"];
const color = (i) => COLORS[i % COLORS.length];
// Of many: neighbours in number are far apart in hue.
const hue = (i, number) => (number <= COLORS.length ? color(i) : `hsl(${(i * 137.5) % 360}, 65%, ${45 + 15 * (i % 2)}%)`);
const of = (kind) => runs.filter((run) => run.kind === kind);
const unique = (values) => [...new Set(values)];

// -- elements -----------------------------------------------------------------

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "for" || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

function section(id, title, about) {
  const made = element("section", { id }, element("h2", {}, title), element("p", {}, about));
  main.append(made);
  return made;
}

function choice(parent, label, options, act) {
  const select = element("select", {}, ...options.map(([value, text]) => element("option", { value }, text)));
  select.addEventListener("change", act);
  parent.append(element("label", {}, label, select));
  return select;
}

const controls = (parent) => parent.appendChild(element("div", { className: "controls" }));
const plot = (parent, label, square = false) =>
  parent.appendChild(element("div", { className: square ? "plot square" : "plot", role: "img", "aria-label": label }));

function layout(more) {
  const style = getComputedStyle(document.documentElement);
  const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  const made = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 13 }, hovermode: "closest",
    margin: { l: 55, r: 15, t: 25, b: 45 }, legend: { orientation: "h", y: -0.2 }, ...more,
  };
  for (const name of unique(["xaxis", "yaxis", ...Object.keys(made).filter((key) => /^[xy]axis/.test(key))])) {
    made[name] = { ...axis, ...made[name] };
  }
  return made;
}

function draw(where, traces, more) {
  Plotly.react(where, traces, layout(more), { responsive: true, displaylogo: false });
}

function keep(redraw) {
  redraws.push(redraw);
  redraw();
}

// -- tables -------------------------------------------------------------------

const shown = (value) =>
  value === null || value === undefined ? "" :
  typeof value === "number" && !Number.isInteger(value) ? String(+value.toPrecision(4)) : String(value);

const told = (value) => (Array.isArray(value) ? value.join(", ") : typeof value === "boolean" ? String(value) : value);

const empty = (value) => value === null || value === undefined || value === "";

// Ascending for sign 1, descending for −1, with what is empty at the end; intervals by their lower ends.
function compare(a, b, sign = 1) {
  if (empty(a) || empty(b)) return empty(a) - empty(b);
  return sign * (parseFloat(a) - parseFloat(b) || String(a).localeCompare(String(b), "en", { numeric: true }));
}

function table(parent, name, columns, rows) {
  let order = rows.slice();
  const body = element("tbody");
  const fill = () => body.replaceChildren(...order.map((row) => element("tr", {}, ...columns.map((column) =>
    element("td", { className: typeof row[column] === "number" ? "number" : "" }, shown(row[column]))))));
  const heads = columns.map((column) => {
    const button = element("button", { type: "button" }, column);
    const head = element("th", { scope: "col", "aria-sort": "none" }, button);
    button.addEventListener("click", () => {
      const falls = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      order = rows.slice().sort((a, b) => compare(a[column], b[column], falls ? -1 : 1));
      fill();
    });
    return head;
  });
  const save = element("button", { type: "button" }, "Download CSV");
  save.addEventListener("click", () => {
    const quoted = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
    const text = [columns, ...order.map((row) => columns.map((column) => row[column]))];
    const file = new Blob([text.map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n"], { type: "text/csv" });
    const link = element("a", { href: URL.createObjectURL(file), download: `${name}.csv` });
    link.click();
    URL.revokeObjectURL(link.href);
  });
  fill();
  parent.append(
    element("div", { className: "controls" }, save),
    element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": name },
      element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body)),
  );
}

// -- what the runs are --------------------------------------------------------

function overview() {
  const where = section("runs", "Runs", runs.length === 1 ? "All of its options." : "The options in which they differ.");
  if (runs.length === 1) {
    const options = Object.entries(runs[0].options).map(([option, value]) => ({ option, value: told(value) }));
    table(where, "options", ["option", "value"], options);
    return;
  }
  for (const kind of unique(runs.map((run) => run.kind))) {
    const differing = unique(of(kind).flatMap((run) => Object.keys(run.options))).filter((name) =>
      name !== "out" && unique(of(kind).map((run) => JSON.stringify(run.options[name]))).length > 1);
    const rows = of(kind).map((run) => ({
      [`latentrl ${kind}`]: run.name, ...Object.fromEntries(differing.map((name) => [name, told(run.options[name])])),
    }));
    table(where, `runs of latentrl ${kind}`, [`latentrl ${kind}`, ...differing], rows);
  }
}

function figures() {
  const rows = runs.filter((run) => run.figures).map((run) => {
    const row = { run: run.name };
    for (const [name, figure] of Object.entries(run.figures)) {
      if (figure !== null && typeof figure === "object" && !Array.isArray(figure)) {
        row[name] = figure.value;
        row[`${name}, 95 %`] = figure.ci.map(shown).join(" … ");
      } else if (!Array.isArray(figure)) row[name] = figure;
    }
    return row;
  });
  if (!rows.length) return;
  const where = section("figures", "Evaluations", "What latentrl evaluate measured, with 95 % intervals.");
  table(where, "evaluations", unique(rows.flatMap(Object.keys)), rows);
}

function curves() {
  const trained = of("train").filter((run) => Object.keys(run.curves).length);
  if (!trained.length) return;
  const where = section("curves", "Learning", "What training logged, over updates.");
  const names = unique(trained.flatMap((run) => Object.keys(run.curves)));
  const select = choice(controls(where), "show", names.map((name) => [name, name]), () => update());
  select.value = ["eval/elbo", "train/elbo"].find((name) => names.includes(name)) ?? names[0];
  const place = plot(where, "Learning curves");
  const update = () => draw(place, trained.flatMap((run, i) => {
    const curve = run.curves[select.value];
    const line = { color: hue(i, trained.length) };
    return curve ? [{ x: curve[0], y: curve[1], name: run.name, mode: "lines+markers", marker: { size: 4 }, line }] : [];
  }), { xaxis: { title: { text: "updates" } }, yaxis: { title: { text: select.value } }, showlegend: true });
  keep(update);
}

// -- the demo -----------------------------------------------------------------

function demos() {
  const ran = of("demo");
  if (!ran.length) return;
  const where = section("demo", "Cloned strokes", "What latentrl demo scored. The last two rows of a run are controls.");
  const rows = (name, made) => ran.flatMap((run) => run[name].map((row) => ({ run: run.name, ...made(row) })));
  const scores = rows("scores", (row) => row);
  table(where, "scores", unique(scores.flatMap(Object.keys)), scores);
  where.append(element("p", {}, "On Pendulum, the likelihood ratio's gradient variance over the pathwise one's."));
  table(where, "variance ratios", ["run", "horizon", "variance ratio", "95 %", "cosine", "trusted"], rows("ratios", (row) => ({
    horizon: row.horizon, "variance ratio": row.variance_ratio, "95 %": row.ci.map(shown).join(" … "),
    cosine: row.cosine, trusted: row.trustworthy ? "yes" : "no",
  })));
}

// -- gradients ----------------------------------------------------------------

const QUANTITIES = [
  ["trace", "variance (trace)"], ["cost_normalized", "variance × seconds"], ["cosine", "cosine to the likelihood ratio's"],
];
const setting = (row) => [row.task, row.sigma === null ? "" : `σ = ${row.sigma}`,
  row.stiffness === null ? "" : `stiffness = ${row.stiffness}`].filter(Boolean).join(", ");

function median(values) {
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// Over seeds: the median, and from the lowest to the highest end of the intervals.
function summary(rows, quantity) {
  const known = rows.filter((row) => row[quantity] !== null);
  if (!known.length) return { value: null, low: null, high: null, trusted: false };
  const ends = known.flatMap((row) => (quantity === "trace" ? row.trace_ci : [row[quantity]]));
  return {
    value: median(known.map((row) => row[quantity])), low: Math.min(...ends), high: Math.max(...ends),
    trusted: known.every((row) => row.trustworthy),
  };
}

function gradients() {
  const measured = of("gradients").flatMap((run) => run.gradients.map((row) => ({ ...row, run: run.name })));
  if (!measured.length) return;
  const where = section("gradients", "Gradient variance",
    "Medians over seeds; bars reach from the lowest to the highest, for the variance of the ends of its 95 % intervals. " +
    "Hollow marks are too heavy-tailed to trust.");
  const bar = controls(where);
  const named = (row) => (of("gradients").length > 1 ? `${row.run}: ${setting(row)}` : setting(row));
  const titles = unique(measured.map(named));
  const task = choice(bar, "task", titles.map((title) => [title, title]), () => update());
  const quantity = choice(bar, "show", QUANTITIES, () => update());
  const place = plot(where, "Gradient variance over the horizon");
  const estimators = unique(measured.map((row) => row.estimator));
  const update = () => draw(place, estimators.map((estimator, i) => {
    const mine = measured.filter((row) => named(row) === task.value && row.estimator === estimator);
    const x = unique(mine.map((row) => row.horizon)).sort((a, b) => a - b);
    const points = x.map((horizon) => summary(mine.filter((row) => row.horizon === horizon), quantity.value));
    return {
      x, y: points.map((point) => point.value), name: estimator, mode: "lines+markers", line: { color: color(i) },
      marker: { size: 9, symbol: points.map((point) => (point.trusted ? "circle" : "circle-open")) },
      error_y: {
        type: "data", symmetric: false, thickness: 1, array: points.map((point) => point.high - point.value),
        arrayminus: points.map((point) => point.value - point.low),
      },
    };
  }), {
    xaxis: { title: { text: "horizon (steps)" } }, showlegend: true,
    yaxis: {
      title: { text: QUANTITIES.find(([name]) => name === quantity.value)[1] },
      type: quantity.value === "cosine" ? "linear" : "log", exponentformat: "power",
    },
  });
  keep(update);
  where.append(element("p", {}, "Ranked by variance × seconds, which is what a gradient of given precision costs; 1 is the best."));
  table(where, "gradient ranking", ["task", "horizon", "rank", "estimator", "variance × seconds", "variance",
    "seconds per gradient", "cosine", "trusted", "error"], ranking(measured, named));
}

function ranking(measured, named) {
  return unique(measured.map((row) => JSON.stringify([named(row), row.horizon]))).flatMap((key) => {
    const [title, horizon] = JSON.parse(key);
    const here = measured.filter((row) => named(row) === title && row.horizon === horizon);
    const rows = unique(here.map((row) => row.estimator)).map((estimator) => {
      const mine = here.filter((row) => row.estimator === estimator);
      const cost = summary(mine, "cost_normalized");
      return {
        task: title, horizon, estimator, "variance × seconds": cost.value, variance: summary(mine, "trace").value,
        "seconds per gradient": median(mine.map((row) => row.seconds_per_gradient)), cosine: summary(mine, "cosine").value,
        trusted: cost.value === null ? "" : cost.trusted ? "yes" : "no", error: mine.find((row) => row.error)?.error ?? "",
      };
    });
    rows.sort((a, b) => compare(a["variance × seconds"], b["variance × seconds"]));
    return rows.map((row, i) => ({ ...row, rank: row["variance × seconds"] === null ? null : i + 1 }));
  });
}

// -- latents ------------------------------------------------------------------

function explain(where, name) {
  for (const run of of("train")) {
    if (run.missing[name]) where.append(element("p", { className: "missing" }, `${run.name}: ${run.missing[name]}.`));
  }
}

function latentSpace() {
  const known = of("train").filter((run) => run.latents);
  if (!of("train").length) return;
  const where = section("latents", "Latent space",
    "The latent of each demonstration, or of each segment of one over which a latent is held, in the plane of their two " +
    "largest principal components; at most a thousand, drawn by chance. Coloured by mode where modes are labelled.");
  explain(where, "latents");
  if (!known.length) return;
  const select = choice(controls(where), "run", known.map((run, i) => [i, run.name]), () => update());
  const place = plot(where, "Latents of the demonstrations", true);
  const update = () => {
    const { plane, z, modes, shares, names } = known[select.value].latents;
    const groups = modes ? unique(modes).sort((a, b) => a - b) : [null];
    draw(place, groups.map((mode, i) => {
      const rows = plane.map((_, row) => row).filter((row) => mode === null || modes[row] === mode);
      return {
        x: rows.map((row) => plane[row][0]), y: rows.map((row) => plane[row][1]), mode: "markers",
        name: mode === null ? "demonstrations" : `mode ${mode}`, marker: { size: 8, color: hue(i, groups.length), opacity: 0.8 },
        text: rows.map((row) => `${names[row]}${mode === null ? "" : `, mode ${mode}`}<br>z = ${z[row].map(shown).join(", ")}`),
        hoverinfo: "text",
      };
    }), {
      xaxis: { title: { text: `first component (${(100 * shares[0]).toFixed(0)} % of the variance)` } },
      yaxis: { title: { text: `second component (${(100 * shares[1]).toFixed(0)} %)` } }, showlegend: groups.length > 1 && groups.length <= COLORS.length,
    });
  };
  keep(update);
}

function behaviours() {
  const known = of("train").filter((run) => run.behaviour);
  if (!of("train").length) return;
  const where = section("behaviour", "What a latent does",
    "Episodes from the same start. The slider moves one dimension of z through the prior, with the others at its mean.");
  explain(where, "behaviour");
  if (!known.length) return;
  const bar = controls(where);
  const run = choice(bar, "run", known.map((one, i) => [i, one.name]), () => refill());
  const row = choice(bar, "move", [], () => restart());
  const [across, up] = ["across", "up"].map((name) => choice(bar, name, [], () => update()));
  const slider = element("input", { type: "range", min: 0, step: 1, id: "z" });
  const value = element("output", { for: "z", id: "z-value" });
  slider.addEventListener("input", () => update());
  const line = controls(where);
  line.append(element("label", {}, "z", slider), value);
  const place = plot(where, "Episodes under the chosen latent", true);
  const options = (select, names) => select.replaceChildren(...names.map((name, i) => element("option", { value: i }, name)));
  const data = () => known[run.value].behaviour;
  const refill = () => {
    options(row, data().rows.map((one, i) => one.title.replace(/_\{(\d+)\}/, " $1") || `choice ${i}`));
    for (const [select, first] of [[across, 0], [up, Math.min(1, data().features.length - 1)]]) {
      options(select, [...data().features, "time"]);
      select.value = first;
    }
    if (data().features.length === 1) [across.value, up.value] = [1, 0];
    restart();
  };
  const restart = () => {
    slider.max = data().rows[row.value].values.length - 1;
    slider.value = Math.floor(slider.max / 2);
    update();
  };
  const update = () => {
    const { values, paths } = data().rows[row.value];
    const axis = (path, select) => path.map((seen, t) => (Number(select.value) < seen.length ? seen[select.value] : t));
    value.textContent = values[slider.value];
    const faint = getComputedStyle(document.documentElement).getPropertyValue("--line").trim();
    const traces = paths.map((path, i) => ({
      x: axis(path, across), y: axis(path, up), mode: "lines", line: { color: faint, width: 2 }, hoverinfo: "text",
      text: values[i], showlegend: false,
    }));
    const now = traces[slider.value];
    draw(place, [...traces, { ...now, line: { color: color(0), width: 4 }, name: values[slider.value] }, {
      x: [now.x[0]], y: [now.y[0]], mode: "markers", marker: { size: 10, color: color(3) }, hoverinfo: "skip", showlegend: false,
    }], {
      xaxis: { title: { text: across.selectedOptions[0].text } }, yaxis: { title: { text: up.selectedOptions[0].text } },
    });
  };
  refill();
  redraws.push(update);
}

// -- the page -----------------------------------------------------------------

function theme() {
  const button = document.getElementById("theme");
  const set = (dark) => {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-pressed", dark);
    redraws.forEach((redraw) => redraw());
  };
  button.addEventListener("click", () => set(document.documentElement.dataset.theme !== "dark"));
  set(matchMedia("(prefers-color-scheme: dark)").matches);
}

document.getElementById("heading").textContent = document.title;
overview();
figures();
curves();
demos();
gradients();
latentSpace();
behaviours();
theme();
