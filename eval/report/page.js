"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { systems, primary, reference, per_query: queries } = data;
  const SYMBOLS = [["circle", "●"], ["square", "■"], ["diamond", "◆"], ["triangle-up", "▲"],
                   ["triangle-down", "▼"], ["star", "★"], ["cross", "✚"], ["x", "✖"]];
  const COLOURS = 8;
  const config = { responsive: true, displayModeBar: false };
  const byId = (id) => document.getElementById(id);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (i) => css(`--c${i % COLOURS}`);
  const symbol = (i) => SYMBOLS[(i + Math.floor(i / COLOURS)) % SYMBOLS.length];
  const primaryOf = (system) => system.values.find((value) => value.metric === primary);
  // Plotly reads a little HTML in texts; data is none
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const wrapped = (text) => (text.match(/.{1,36}(?:\s|$)|.{1,36}/gsu) || [""]).map(plain).join("<br>");
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);

  function layout(x, y, more = {}) {
    const axis = { gridcolor: css("--line"), linecolor: css("--line"), zerolinecolor: css("--muted"),
                   tickcolor: css("--line"), automargin: true, fixedrange: true };
    const titled = (text) => ({ text, font: { size: 14 }, standoff: 8 });
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: false,
      font: { family: "system-ui, sans-serif", size: 14, color: css("--text") },
      margin: { l: 8, r: 32, t: 16, b: 8 }, hovermode: "closest",
      hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--line"), align: "left",
                    font: { size: 14, color: css("--text") } },
      xaxis: { ...axis, ...x, title: titled(x.title) }, yaxis: { ...axis, ...y, title: titled(y.title) }, ...more,
    };
  }

  function perQuery() {
    const chosen = Number(byId("system").value);
    const measure = byId("measure") ? byId("measure").value : "value";
    const against = systems.findIndex((system) => system.name === reference);
    const difference = measure === "difference" && chosen !== against;
    const own = queries.values[chosen];
    const other = against < 0 ? null : queries.values[against];
    const bars = own.map((value, i) => ({ i, y: difference ? value - other[i] : value }));
    bars.sort((a, b) => b.y - a.y || a.i - b.i);
    const text = bars.map(({ i }) => [
      `<b>${wrapped(queries.texts[i] || queries.queries[i])}</b>`,
      `${plain(systems[chosen].name)} ${own[i].toFixed(3)}`,
      ...(difference ? [`${plain(reference)} ${other[i].toFixed(3)}`, `difference ${signed(own[i] - other[i])}`] : []),
    ].join("<br>"));
    const title = difference ? `difference in ${primary}` : primary;
    const trace = {
      type: "bar", x: bars.map((_, place) => place + 1), y: bars.map(({ y }) => y), hovertext: text, hoverinfo: "text",
      marker: { color: bars.map(({ y }) => css(y < 0 ? "--c1" : "--accent")), line: { width: 0 } },
    };
    const gap = bars.length > 300 ? 0 : 0.15;
    Plotly.react("per-query", [trace], layout(
      { title: "queries, sorted", showgrid: false, zeroline: false, range: [0.5, bars.length + 0.5] },
      { title: plain(title), zerolinewidth: 1 }, { bargap: gap }), config);
    const above = bars.filter(({ y }) => y > 0).length;
    const below = bars.filter(({ y }) => y < 0).length;
    byId("per-query-words").textContent = difference
      ? `${systems[chosen].name} is above ${reference} on ${above} of them, below on ${below}, equal on ${bars.length - above - below}.`
      : `${title} of ${systems[chosen].name}.`;
  }

  function qualityLatency() {
    const timed = systems.map((system, i) => ({ system, i, value: primaryOf(system) }))
      .filter(({ system }) => system.milliseconds !== null);
    const traces = timed.map(({ system, i, value }) => ({
      type: "scatter", mode: "markers", x: [system.milliseconds], y: [value.mean],
      marker: { color: colour(i), symbol: symbol(i)[0], size: 12 },
      error_y: value.low === null ? { visible: false } : {
        type: "data", symmetric: false, array: [value.high - value.mean], arrayminus: [value.mean - value.low],
        color: colour(i), thickness: 1.5, width: 4 },
      hovertext: `<b>${plain(system.name)}</b><br>${plain(primary)} ${value.mean.toFixed(3)}<br>`
        + `${system.milliseconds.toPrecision(3)} ms a query`,
      hoverinfo: "text",
    }));
    const times = timed.map(({ system }) => Math.log10(system.milliseconds));
    const range = times.length ? [Math.floor(Math.min(...times) - 0.1), Math.ceil(Math.max(...times) + 0.1)] : [0, 3];
    const powers = Array.from({ length: range[1] - range[0] + 1 }, (_, i) => 10 ** (range[0] + i));
    const floor = data.floor[primary];
    const shapes = floor ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: floor.mean, y1: floor.mean,
                              line: { color: css("--muted"), width: 1, dash: "dash" } }] : [];
    // shapes do not widen an axis: an invisible point does
    if (floor) traces.push({ type: "scatter", mode: "markers", x: [10 ** range[0]], y: [floor.mean], opacity: 0,
                             hoverinfo: "skip" });
    Plotly.react("quality-latency", traces, layout(
      { title: "time a query", type: "log", range, tickvals: powers, tickangle: 0,
        ticktext: powers.map((ms) => ms < 1000 ? `${Number(ms.toPrecision(1))} ms` : `${ms / 1000} s`) },
      { title: plain(primary) }, { shapes }), config);
  }

  function placeRank() {
    if (!byId("place-rank")) return;
    const longest = Math.max(...systems.map((system) => system.mean_rank_by_place.length));
    const kept = { type: "scatter", mode: "lines", x: [1, longest], y: [1, longest], hoverinfo: "skip",
                   line: { color: css("--muted"), width: 1, dash: "dash" } };
    const traces = systems.map((system, i) => ({
      type: "scatter", mode: "lines+markers", x: system.mean_rank_by_place.map((_, place) => place + 1),
      y: system.mean_rank_by_place, line: { color: colour(i), width: 1.5 },
      marker: { color: colour(i), symbol: symbol(i)[0], size: 7 },
      hovertext: system.mean_rank_by_place.map((rank, place) => rank === null ? "" :
        `<b>${plain(system.name)}</b><br>came at place ${place + 1}<br>mean rank ${rank.toFixed(1)}`),
      hoverinfo: "text",
    }));
    Plotly.react("place-rank", [kept, ...traces], layout(
      { title: "place in the input", zeroline: false, range: [0.5, longest + 0.5] },
      { title: "mean rank in the output", zeroline: false, range: [longest + 0.5, 0.5] }), config);
  }

  function draw() {
    for (const swatch of document.querySelectorAll(".swatch")) {
      const i = Number(swatch.dataset.system);
      swatch.textContent = symbol(i)[1];
      swatch.style.color = colour(i);
    }
    if (!systems.length) return;
    perQuery();
    qualityLatency();
    placeRank();
  }

  for (const id of ["system", "measure"]) {
    if (byId(id)) byId(id).addEventListener("change", perQuery);
  }
  // what one looks for first: the best system against the reference
  const first = systems.findIndex((system) => system.name !== reference);
  if (first > 0) byId("system").value = String(first);
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  matchMedia("print").addEventListener("change", draw);
})();
