// The page: what is typed into it, what the gateway answers, and when to draw which.

import { byId, make } from "./dom.js";
import { pastOf, titleOf } from "./fields.js";
import { ask, Refused, useKey } from "./gateway.js";
import { fromFragment, toFragment } from "./link.js";
import { afterColumn, beforeColumn, markSame, promptSections, provenanceTable, time, waitingColumn } from "./results.js";
import { drawSearch, fillSearch, forgetSearch, listenToSearch, search, searchState, setOffer, showSearch } from "./search.js";
import { speak, usualLanguage, words } from "./words.js";

const SERVED = "served";
const QUIET = 250; // milliseconds without typing, after which the link is rewritten

const page = {
  language: usualLanguage(),
  mode: "rerank", // or "search", where the gateway has an index
  setup: null, // what the gateway offers
  shop: null, // the sample shop
  listings: new Map(), // of the sample shop, by id
  runs: [], // what was ranked last: the served way, and the one beside it
  prompt: null, // what was shown last, and of how many listings
  working: null, // aborts what runs
  link: "", // the fragment that this page wrote
  links: 0, // how many it began to write
};

const typed = (id) => byId(id).value;

// A textarea's JSON list, or null; a problem stands beneath it.
function list(id) {
  let problem = "";
  let value = [];
  const text = typed(id).trim();
  try {
    value = text ? JSON.parse(text) : [];
    if (!Array.isArray(value)) problem = words.listProblem;
  } catch (error) {
    problem = words.jsonProblem(error.message);
  }
  byId(`${id}-problem`).textContent = problem;
  byId(id).setAttribute("aria-invalid", String(Boolean(problem)));
  byId(`${id}-count`).textContent = problem ? "!" : String(value.length);
  if (problem) byId(`${id}-box`).open = true;
  return problem ? null : value;
}

function fill(query, history, documents) {
  byId("query").value = query;
  byId("history").value = JSON.stringify(history, null, 2);
  byId("documents").value = JSON.stringify(documents, null, 2);
}

function sampleQuery(id) {
  const query = page.shop?.queries.find((one) => one.query_id === id);
  if (!query) return false;
  const documents = query.documents.map(({ listing_id, score }) => ({ ...page.listings.get(listing_id), score }));
  fill(query.query, query.history, documents);
  byId("sample").value = id;
  return true;
}

function forget() {
  page.working?.abort();
  page.runs = [];
  page.prompt = null;
  byId("status").textContent = "";
  draw();
}

// Whether the form still holds a query of the sample shop as it is; else it is the user's own.
function edited() {
  byId("sample").value = "";
  forget();
  keepLink();
}

let rewriting = 0;
function keepLink() {
  clearTimeout(rewriting);
  rewriting = setTimeout(writeLink, QUIET);
}

function rerankState() {
  const state = { reasons: typed("reasons"), reading: typed("reading"), compare: typed("compare") };
  const sample = typed("sample");
  if (sample) return { ...state, sample };
  return { ...state, query: typed("query"), history: typed("history"), documents: typed("documents") };
}

async function writeLink() {
  const own = searches() ? { mode: "search", ...searchState() } : rerankState();
  const state = { lang: page.language, ...own };
  const turn = ++page.links;
  const fragment = await toFragment(state);
  if (turn !== page.links) return; // a later one is on its way
  page.link = `#${fragment}`;
  history.replaceState(null, "", page.link);
}

const text = (value) => (typeof value === "string" ? value : "");

async function readLink() {
  if (location.hash.length < 2) return false;
  let state;
  try {
    state = await fromFragment(location.hash.slice(1));
  } catch {
    byId("problem").textContent = words.brokenLink;
    return false;
  }
  if (state.lang === "en" || state.lang === "zh") page.language = state.lang;
  page.mode = state.mode === "search" ? "search" : "rerank";
  if (page.mode === "search") {
    fillSearch(state);
    page.link = location.hash;
    return false; // the other form has its usual request
  }
  if (!sampleQuery(text(state.sample))) {
    byId("sample").value = "";
    fill(text(state.query), [], []);
    byId("history").value = text(state.history);
    byId("documents").value = text(state.documents);
  }
  byId("reasons").value = /^\d+$/.test(state.reasons) ? state.reasons : "3";
  choose("reading", text(state.reading), SERVED);
  choose("compare", text(state.compare), "");
  page.link = location.hash;
  return true;
}

// Whether the page searches now.
const searches = () => page.mode === "search" && Boolean(page.setup?.search);

function choose(id, value, otherwise) {
  const select = byId(id);
  select.value = value;
  if (select.selectedIndex < 0) select.value = otherwise;
}

function readingName(name) {
  const reading = page.setup?.readings.find((one) => one.name === name);
  if (!reading) return name;
  const decoding = reading.then ? `${reading.decoding} ${words.then(reading.then)}` : reading.decoding;
  const said = `${decoding}, ${reading.prompt}`;
  return name === SERVED ? `${words.servedReading}: ${said}` : said;
}

function options(id, ...first) {
  const select = byId(id);
  const chosen = select.value;
  const rows = page.setup?.readings ?? [];
  select.replaceChildren(...first, ...rows.map(({ name }) => make("option", { value: name }, readingName(name))));
  choose(id, chosen, select.options[0]?.value ?? "");
}

function drawSample() {
  const select = byId("sample");
  const chosen = select.value;
  const group = (label, prefix) => {
    const rows = (page.shop?.queries ?? []).filter(({ query_id }) => query_id.startsWith(prefix));
    const said = ({ query, history: past }) => (past.length ? `${query} (${words.withHistory(past.length)})` : query);
    return make("optgroup", { label }, ...rows.map((one) => make("option", { value: one.query_id }, said(one))));
  };
  const groups = [group(words.groupEn, "q-en"), group(words.groupZh, "q-zh")];
  if (page.language === "zh") groups.reverse();
  select.replaceChildren(make("option", { value: "" }, words.ownRequest), ...groups);
  select.value = chosen;
}

function draw() {
  const documents = list("documents") ?? [];
  const columns = page.runs.map((run) => afterColumn(run, readingName(run.reading)));
  const before = beforeColumn(page.runs[0]?.documents ?? documents);
  byId("columns").replaceChildren(before, ...(columns.length ? columns : [waitingColumn()]));
  const names = page.runs.map((run) => readingName(run.reading));
  byId("provenance").replaceChildren(...(page.runs.length ? [provenanceTable(page.runs, names)] : []));
  drawPast();
  drawPrompt();
  drawSearch();
  drawMode();
}

function drawMode() {
  byId("modes").hidden = !page.setup?.search;
  const mode = searches() ? "search" : "rerank";
  for (const button of document.querySelectorAll("[data-mode]"))
    button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
  for (const id of ["request", "results", "prompt"]) byId(id).hidden = mode === "search";
  byId("made").hidden = mode === "search" || !page.runs.length;
  showSearch(mode === "search");
}

function drawPast() {
  const past = (list("history") ?? []).map((interaction) => make("li", {}, pastOf(interaction)));
  byId("past").replaceChildren(...past);
  byId("past").hidden = !past.length;
}

function drawPrompt() {
  const shown = page.prompt;
  byId("prompt-text").replaceChildren(...(shown ? promptSections(shown) : []));
  byId("prompt-text").classList.toggle("apart", byId("tokens").checked);
  if (!shown) {
    byId("prompt-status").textContent = "";
    return;
  }
  byId("prompt-number").max = shown.prompts;
  const titles = shown.listings.map((place) => titleOf(shown.documents[place])).join(" | ");
  const tokens = shown.sections.reduce((sum, section) => sum + section.tokens.length, 0);
  byId("prompt-status").textContent = words.promptShown(shown.number, shown.prompts, tokens, titles);
}

function drawWords() {
  speak(page.language);
  byId("served").textContent = page.setup ? words.served(page.setup.model, page.setup.version) : "";
  drawSample();
  options("reading");
  options("compare", make("option", { value: "" }, words.nothing));
  options("prompt-reading");
  byId("compare-field").hidden = (page.setup?.readings.length ?? 0) < 2;
  byId("problem").textContent = "";
  byId("status").textContent = "";
  draw();
}

// The request as it stands in the form, or null with a problem said.
function readForm() {
  const say = (problem, id) => {
    byId("problem").textContent = problem;
    byId(id).focus();
    return null;
  };
  byId("problem").textContent = "";
  const documents = list("documents");
  const history = list("history");
  if (documents === null) return say("", "documents");
  if (history === null) return say("", "history");
  if (!typed("query").trim()) return say(words.blankQuery, "query");
  if (!documents.length) {
    byId("documents-box").open = true;
    return say(words.noListings, "documents");
  }
  const most = page.setup?.reasons ?? 10;
  const reasons = Number(typed("reasons") || "0");
  if (!Number.isInteger(reasons) || reasons < 0 || reasons > most) return say(words.reasonsProblem(most), "reasons");
  return { query: typed("query"), history, documents, reasons };
}

function complain(error, id) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refused)) throw error;
  byId(id).textContent = error.message;
  if (error.status === 401) {
    byId("key-field").hidden = false;
    byId("key").focus();
  }
}

function begin() {
  page.working?.abort();
  page.working = new AbortController();
  return page.working.signal;
}

async function rank(event) {
  event.preventDefault();
  if (!page.setup) {
    await unlock();
    return;
  }
  const request = readForm();
  if (!request) return;
  const signal = begin();
  byId("status").textContent = words.working;
  byId("results").setAttribute("aria-busy", "true");
  try {
    const runs = [];
    for (const reading of new Set([typed("reading"), typed("compare")].filter(Boolean))) {
      const canGive = page.setup.readings.find(({ name }) => name === reading).reasons;
      const body = { ...request, reading, reasons: canGive ? request.reasons : 0 };
      const started = performance.now();
      const answer = await ask("rerank", body, signal);
      const seconds = (performance.now() - started) / 1000;
      runs.push({ ...body, answer, seconds });
    }
    page.runs = runs;
    draw();
    const [first] = runs;
    const best = first.answer.results[0];
    byId("status").textContent = words.ranked(
      first.answer.results.length,
      time(first.seconds),
      titleOf(first.documents[best.index]),
    );
  } catch (error) {
    if (error.name !== "AbortError") byId("status").textContent = "";
    complain(error, "problem");
  } finally {
    if (page.working?.signal === signal) byId("results").removeAttribute("aria-busy");
  }
  keepLink();
}

async function find(event) {
  event.preventDefault();
  const signal = begin();
  try {
    if (await search(signal)) keepLink();
  } catch (error) {
    complain(error, "search-problem");
  }
  drawMode();
}

async function showPrompt() {
  byId("prompt-problem").textContent = "";
  const request = readForm();
  if (!request || !page.setup) return;
  const number = Math.max(1, Math.trunc(Number(typed("prompt-number"))) || 1);
  byId("prompt-number").value = number;
  try {
    const body = { ...request, reasons: 0, reading: typed("prompt-reading"), prompt: number - 1 };
    page.prompt = { ...(await ask("prompt", body)), number, documents: request.documents };
  } catch (error) {
    page.prompt = null;
    complain(error, "prompt-problem");
  }
  drawPrompt();
}

async function share() {
  await writeLink();
  const status = searches() ? "search-status" : "status";
  try {
    await navigator.clipboard.writeText(location.href);
    byId(status).textContent = words.shared;
  } catch {
    byId(status).textContent = words.sharedByHand; // only pages from this machine or over HTTPS may copy
  }
}

// Learns what the gateway offers; whether it is known now.
async function connect() {
  useKey(typed("key"));
  byId("problem").textContent = "";
  try {
    [page.setup, page.shop] = await Promise.all([ask("setup"), ask("shop")]);
  } catch (error) {
    complain(error, "problem");
    return false;
  }
  page.listings = new Map(page.shop.listings.map((listing) => [listing.listing_id, listing]));
  byId("reasons").max = page.setup.reasons;
  byId("reasons").value = Math.min(3, page.setup.reasons);
  setOffer(page.setup.search, page.setup.reasons);
  drawWords();
  return true;
}

let unlocking = null;

// Connects and fills the first screen; once, however often it is called meanwhile.
function unlock() {
  unlocking ??= (async () => {
    const known = await connect();
    const problem = byId("problem").textContent;
    await restore();
    if (!known) byId("problem").textContent = problem;
  })().finally(() => (unlocking = null));
  return unlocking;
}

// The first screen: the link's request, else the first query in the page's language that has a history.
async function restore() {
  const linked = await readLink();
  const problem = byId("problem").textContent;
  if (!linked && !typed("documents")) {
    const prefix = `q-${page.language}`;
    const rows = page.shop?.queries ?? [];
    const first = rows.find((one) => one.query_id.startsWith(prefix) && one.history.length);
    if (first) sampleQuery(first.query_id);
  }
  drawWords();
  byId("problem").textContent = problem;
}

function listen() {
  const on = (id, type, work) => byId(id).addEventListener(type, work);
  on("request", "submit", rank);
  on("share", "click", share);
  on("search-form", "submit", find);
  on("search-share", "click", share);
  listenToSearch(keepLink);
  on("skip", "click", () => byId(searches() ? "found" : "results").focus());
  on("show-prompt", "click", showPrompt);
  on("tokens", "change", drawPrompt);
  on("sample", "change", () => {
    if (sampleQuery(typed("sample"))) forget();
    keepLink();
  });
  for (const id of ["query", "history", "documents"]) {
    on(id, "input", edited);
    on(id, "keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) rank(event);
    });
  }
  for (const id of ["reading", "compare", "reasons"]) on(id, "change", keepLink);
  on("reading", "change", () => choose("prompt-reading", typed("reading"), SERVED));
  on("key", "change", () => {
    useKey(typed("key"));
    byId("problem").textContent = "";
    if (!page.setup) unlock();
  });
  for (const button of document.querySelectorAll("[data-language]"))
    button.addEventListener("click", () => {
      page.language = button.dataset.language;
      drawWords();
      keepLink();
    });
  for (const button of document.querySelectorAll("[data-mode]"))
    button.addEventListener("click", () => {
      page.mode = button.dataset.mode;
      page.working?.abort();
      drawMode();
      keepLink();
    });
  for (const type of ["pointerover", "focusin"]) byId("columns").addEventListener(type, markSame);
  byId("columns").addEventListener("pointerleave", () => markSame({ target: document }));
  addEventListener("hashchange", () => {
    if (location.hash !== page.link) {
      forget();
      forgetSearch();
      restore();
    }
  });
}

listen();
speak(page.language);
await unlock();
document.documentElement.dataset.ready = "true";
