// Draws the orders side by side, how they were made, and a prompt.

import { bar, make } from "./dom.js";
import { evidenceRows, fieldsOf, isNamed, summaryOf, titleOf } from "./fields.js";
import { words } from "./words.js";

export function time(seconds) {
  const milliseconds = seconds * 1000;
  if (milliseconds < 1000) return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
  return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
}

function fieldList(rows, isMarked) {
  const list = make("dl", { class: "fields" });
  for (const { path, label, value } of rows)
    list.append(make("dt", {}, label), make("dd", {}, isMarked(path) ? make("mark", {}, value) : value));
  return list;
}

function card(rank, place, document, notes, ...rest) {
  const summary = [...summaryOf(document), ...notes].join(" · ");
  return make(
    "li",
    { class: "card", "data-place": place },
    make("span", { class: "rank" }, String(rank)),
    make(
      "div",
      { class: "content" },
      make("h4", {}, titleOf(document)),
      summary ? make("p", { class: "quiet" }, summary) : null,
      ...rest,
    ),
  );
}

function allFields(document, evidence) {
  const rows = fieldsOf(document);
  if (rows.length < 2) return null;
  return make("details", {}, make("summary", {}, words.allFields), fieldList(rows, (path) => isNamed(path, evidence)));
}

function column(heading, how, ...items) {
  const list = make("ol", { role: "list" }, ...items);
  return make("section", { class: "column" }, make("h3", {}, heading), make("p", { class: "quiet" }, how), list);
}

export function beforeColumn(documents) {
  if (!documents.length) return column(words.before, words.empty);
  const items = documents.map((document, place) => {
    const score = document?.score;
    const notes = typeof score === "number" ? [words.firstScore(score)] : [];
    return card(place + 1, place, document, notes, allFields(document, []));
  });
  return column(words.before, words.beforeHow, ...items);
}

function movement(from, to) {
  if (from === to) return make("span", { class: "moved" }, make("span", { "aria-hidden": "true" }, "="), hidden(words.same));
  const up = from > to;
  const places = Math.abs(from - to);
  return make(
    "span",
    { class: `moved ${up ? "up" : "down"}` },
    make("span", { "aria-hidden": "true" }, `${up ? "▲" : "▼"} ${places}`),
    hidden(up ? words.up(places) : words.down(places)),
  );
}

function hidden(text) {
  return make("span", { class: "hidden" }, text);
}

// A listing in its new place, with its reason.
export function rankedCard({ rank, from, place, document, score, reason, evidence = [], history = [], wantsReason }) {
  const said = make(
    "p",
    { class: "score" },
    movement(from, rank),
    bar(score, "plain"),
    make("span", {}, hidden(`${words.score}: `), score.toFixed(3)),
  );
  const parts = [said];
  if (reason) {
    parts.push(make("p", { class: "reason" }, hidden(`${words.reason}: `), reason));
    const rows = evidenceRows(document, history, evidence);
    if (rows.length) parts.push(make("p", { class: "label" }, words.evidence), fieldList(rows, () => true));
  } else if (wantsReason) {
    parts.push(make("p", { class: "quiet" }, words.noReason));
  }
  return card(rank, place, document, [], ...parts, allFields(document, evidence));
}

export function afterColumn(run, name) {
  const items = run.answer.results.map(({ index, relevance_score: score, reason, evidence }, i) =>
    rankedCard({
      rank: i + 1,
      from: index + 1,
      place: index,
      document: run.documents[index],
      score,
      reason,
      evidence,
      history: run.history,
      wantsReason: i < run.reasons,
    }),
  );
  return column(words.after, name, ...items);
}

// The order after a stage of a search, beside the order before it.
export function stageColumn(stage, before, titles) {
  const items = stage.order.map((id, i) => {
    const from = before.indexOf(id) + 1;
    return make(
      "li",
      { class: "card small", "data-place": id },
      make("span", { class: "rank" }, String(i + 1)),
      make("h4", { class: "content" }, titles[id] ?? id),
      from ? movement(from, i + 1) : null,
    );
  });
  return column(words.stages[stage.name] ?? stage.name, time(stage.seconds), ...items);
}

// Marks the same listing in every column.
export function markSame(event) {
  const place = event.target.closest?.(".card")?.dataset.place;
  for (const card of document.querySelectorAll(".card"))
    card.classList.toggle("same", place !== undefined && card.dataset.place === place);
}

export function waitingColumn() {
  return column(words.after, words.notYet);
}

// Where the time went, as rows of a name and seconds; those of a kept answer's ranking are not part of the whole.
function stages(run) {
  const { gateway, ranking, second_stage: second } = run.answer.seconds;
  const cached = run.answer.genrank.cached;
  const asked = [["total", run.seconds], ["network", Math.max(0, run.seconds - gateway)]];
  if (cached) return [...asked, ["gateway", gateway]];
  const waited = ["gateway", Math.max(0, gateway - ranking)];
  if (second === undefined) return [...asked, waited, ["ranking", ranking]];
  return [...asked, waited, ["firstStage", Math.max(0, ranking - second)], ["secondStage", second]];
}

function facts(run) {
  const { genrank: made, meta, strategy, agreement, seconds } = run.answer;
  const cut = Object.entries(made.cuts).filter(([, tokens]) => tokens);
  const number = (n) => n.toLocaleString(document.documentElement.lang);
  const cause = made.cause ? ` (${words.causes[made.cause] ?? made.cause})` : "";
  const missing = made.reasons_missing ? `; ${words.reasonsMissing(made.reasons_missing)}` : "";
  return [
    ["tier", (words.tiers[made.tier] ?? made.tier) + missing],
    ["outcome", (words.outcomes[made.outcome] ?? made.outcome) + cause],
    ["decoding", made.decoding],
    ["strategy", words.windows(strategy, made.windows)],
    ["promptName", made.prompt && `${made.prompt} (${made.prompt_hash})`],
    ["promptTokens", number(meta.tokens.input_tokens)],
    ["completionTokens", number(meta.tokens.output_tokens)],
    ["cuts", cut.map(([name, tokens]) => `${words.sections[name] ?? name}: ${number(tokens)}`).join(", ") || words.none],
    ["neutralised", number(made.neutralised)],
    ["kept", number(made.kept)],
    ["agreement", agreement === undefined ? "–" : agreement.toFixed(3)],
    ...stages(run).map(([stage, took]) => [stage, took]),
    ...(made.cached ? [["ranking", words.wasCached(time(seconds.ranking))]] : []),
  ];
}

export function provenanceTable(runs, names) {
  const longest = Math.max(...runs.map((run) => run.seconds));
  const columns = runs.map((run) => new Map(facts(run)));
  const rows = [...new Set(columns.flatMap((column) => [...column.keys()]))];
  const cell = (name, value) =>
    typeof value === "number"
      ? make("td", {}, make("span", { class: "took" }, time(value)), bar(value / longest, name))
      : make("td", {}, value ?? "–");
  return make(
    "table",
    {},
    make("thead", {}, make("tr", {}, make("td", {}), ...names.map((name) => make("th", { scope: "col" }, name)))),
    make(
      "tbody",
      {},
      ...rows.map((name) =>
        make("tr", {}, make("th", { scope: "row" }, words[name]), ...columns.map((column) => cell(name, column.get(name)))),
      ),
    ),
  );
}

export function promptSections({ sections, cuts, exact }) {
  const parts = exact ? [] : [make("p", { class: "quiet" }, words.promptGuessed)];
  for (const { name, tokens } of sections) {
    const text = make("pre", { tabindex: 0, "aria-label": words.sections[name] ?? name, role: "region" });
    let shown = 0;
    for (const token of tokens) if (token) text.append(make("span", { class: shown++ % 2 ? "odd" : "even" }, token));
    const count = make("span", { class: "count" }, words.tokenCount(tokens.length, cuts[name] ?? 0));
    parts.push(make("h3", {}, words.sections[name] ?? name, " ", count), text);
  }
  return parts;
}
