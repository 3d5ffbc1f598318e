// The page's search: from a query to shown results, with what each stage did.

import { bar, byId, make } from "./dom.js";
import { ask, suggestions } from "./gateway.js";
import { markSame, rankedCard, stageColumn, time } from "./results.js";
import { words } from "./words.js";

const FIELDS = { query: "search-query", user: "user", top: "top-k", reasons: "search-reasons", variety: "variety" };

let offer = null; // what the gateway's searches can be asked for
let found = null; // the last answer, what was asked, and the seconds that it took

export function setOffer(search, mostReasons) {
  const first = !offer;
  offer = search;
  if (!search) return;
  byId("user-field").hidden = !search.users;
  byId("search-reasons-field").hidden = !search.reasons;
  byId("search-reasons").max = mostReasons;
  byId("top-k").max = search.candidates;
  if (!first) return;
  byId("search-reasons").value = search.reasons ? Math.min(3, mostReasons) : 0;
  byId("top-k").value = Math.min(10, search.candidates);
  byId("variety").value = search.variety;
}

let typing = new AbortController();

// Suggests queries for what has been typed so far. Only the last keystroke's answer counts.
async function suggest() {
  typing.abort();
  typing = new AbortController();
  const prefix = byId("search-query").value;
  if (!offer?.completion) return;
  try {
    const found = prefix.trim() ? await suggestions(prefix, typing.signal) : [];
    byId("suggestions").replaceChildren(...found.map((text) => make("option", { value: text })));
  } catch {
    // the next keystroke asks again
  }
}

// What stands in the form, for the link.
export function searchState() {
  return Object.fromEntries(Object.entries(FIELDS).map(([name, id]) => [name, byId(id).value]));
}

export function fillSearch(state) {
  for (const [name, id] of Object.entries(FIELDS)) if (typeof state[name] === "string") byId(id).value = state[name];
}

export function forgetSearch() {
  found = null;
  byId("search-status").textContent = "";
  byId("search-problem").textContent = "";
}

function asked() {
  const body = {
    query: byId("search-query").value,
    top_k: Number(byId("top-k").value) || null,
    reasons: offer.reasons ? Number(byId("search-reasons").value) : 0,
    variety: Number(byId("variety").value),
  };
  const user = byId("user").value.trim();
  return user && offer.users ? { ...body, user_id: user } : body;
}

// Searches; raises what the gateway refuses. Whether there was anything to ask.
export async function search(signal) {
  byId("search-problem").textContent = "";
  if (!byId("search-query").value.trim()) {
    byId("search-problem").textContent = words.blankQuery;
    byId("search-query").focus();
    return false;
  }
  byId("search-status").textContent = words.searching;
  byId("found").setAttribute("aria-busy", "true");
  const body = asked();
  const started = performance.now();
  try {
    const answer = await ask("search", body, signal);
    found = { answer, asked: body, seconds: (performance.now() - started) / 1000 };
    drawSearch();
    const first = answer.items[0]?.listing.title;
    byId("search-status").textContent = first
      ? words.found(answer.items.length, answer.found, time(found.seconds), first)
      : words.nothingFound;
  } catch (error) {
    if (error.name !== "AbortError") byId("search-status").textContent = "";
    throw error;
  } finally {
    if (!signal.aborted) byId("found").removeAttribute("aria-busy");
  }
  return true;
}

export function drawSearch() {
  byId("variety-shown").textContent = Number(byId("variety").value).toFixed(2);
  byId("meaning").replaceChildren(...(found ? meaning(found.answer.intent) : []));
  const cards = (found?.answer.items ?? []).map((item, i) =>
    rankedCard({
      rank: item.rank,
      from: item.source_rank ?? item.rank,
      place: item.listing_id,
      document: item.listing,
      score: item.score,
      reason: item.reason,
      evidence: item.evidence,
      wantsReason: i < found.asked.reasons,
    }),
  );
  const nothing = make("li", { class: "quiet" }, found ? words.nothingFound : words.notSearched);
  byId("found-items").replaceChildren(...(cards.length ? cards : [nothing]));
  drawOrders();
  byId("took-table").replaceChildren(...(found ? [tookTable()] : []));
}

function drawOrders() {
  const columns = [];
  let before = [];
  for (const stage of found?.answer.stages ?? []) {
    if (!stage.order.length) continue;
    columns.push(stageColumn(stage, before, found.answer.titles));
    before = stage.order;
  }
  byId("order-columns").replaceChildren(...columns);
}

// Which of the sections beneath the form have something to show.
export function showSearch(shown) {
  byId("search-form").hidden = !shown;
  byId("found").hidden = !shown;
  byId("orders").hidden = !shown || !found;
  byId("took").hidden = !shown || !found;
}

const percent = (share) => `${Math.round(share * 100)} %`;

function meaning(intent) {
  if (!intent) return [make("p", { class: "quiet" }, words.notRead)];
  const rows = [];
  if (intent.corrected !== intent.query) rows.push([words.corrected, intent.corrected]);
  for (const { path, confidence } of intent.categories ?? [])
    rows.push([words.fields.category, `${path.join(" › ")} (${percent(confidence)})`]);
  if (intent.brand) rows.push([words.fields.brand, intent.brand.name]);
  for (const [name, { value, confidence }] of Object.entries(intent.attributes ?? {}))
    rows.push([name, `${value} (${percent(confidence)})`]);
  if (intent.price) {
    const { least, most, currency = "" } = intent.price;
    rows.push([words.fields.price, `${words.priceRange(least, most)} ${currency}`.trim()]);
  }
  if (intent.excluded) rows.push([words.excluded, intent.excluded.join(", ")]);
  const list = make("dl", { class: "fields" });
  for (const [label, value] of rows) list.append(make("dt", {}, label), make("dd", {}, value));
  const how = intent.source === "model" ? null : make("p", { class: "quiet" }, words.literal);
  return [make("h3", {}, words.meaning), how, rows.length ? list : make("p", { class: "quiet" }, words.noMeaning)].filter(Boolean);
}

function tookTable() {
  const { answer, seconds } = found;
  const row = (name, took, note, kind) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, name),
      make("td", {}, make("span", { class: "took" }, time(took)), bar(took / seconds, kind)),
      make("td", {}, note || "–"),
    );
  const stages = answer.stages.map((stage) => row(words.stages[stage.name] ?? stage.name, stage.seconds, stage.note, "plain"));
  const heads = [words.stage, words.time, words.note].map((name) => make("th", { scope: "col" }, name));
  return make(
    "table",
    {},
    make("thead", {}, make("tr", {}, ...heads)),
    make(
      "tbody",
      {},
      ...stages,
      row(words.network, Math.max(0, seconds - answer.seconds), "", "network"),
      row(words.total, seconds, words.tiers[answer.tier] ?? answer.tier, "gateway"),
    ),
  );
}

export function listenToSearch(edited) {
  for (const id of Object.values(FIELDS)) byId(id).addEventListener("input", edited);
  byId("search-query").addEventListener("input", suggest);
  byId("variety").addEventListener("input", () => {
    byId("variety-shown").textContent = Number(byId("variety").value).toFixed(2);
  });
  for (const type of ["pointerover", "focusin"]) byId("order-columns").addEventListener(type, markSame);
  byId("order-columns").addEventListener("pointerleave", () => markSame({ target: document }));
}
