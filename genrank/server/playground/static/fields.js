// Reads documents and interactions as the gateway does, to show them and to find what a reason rests on.

import { words } from "./words.js";

const KNOWN = ["description", "brand", "category", "price", "rating", "rating_count", "reviews", "in_stock", "seller_id"];
const HIDDEN = ["listing_id", "id", "title", "text", "image_url", "aspects", "score", "rank", "attributes"];

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function plain(value) {
  if (typeof value === "boolean") return value ? words.yes : words.no;
  if (typeof value === "string") return value;
  if (Array.isArray(value) && !value.some((part) => typeof part === "object")) return value.map(plain).join(" › ");
  if (isObject(value) && typeof value.amount === "number") return money(value);
  return typeof value === "number" ? String(value) : JSON.stringify(value);
}

function money({ amount, currency }) {
  return currency ? `${amount} ${currency}` : String(amount);
}

export function titleOf(document) {
  if (!isObject(document)) return String(document);
  const { title, text } = document;
  if (typeof title === "string" && title.trim()) return title;
  return typeof text === "string" ? text : JSON.stringify(document);
}

// What stands beneath a title at a glance: the brand and the price.
export function summaryOf(document) {
  if (!isObject(document)) return [];
  return [document.brand, document.price].filter((value) => value !== undefined && value !== null).map(plain);
}

// An interaction in a line: what the shopper did, with which listing, and from which query.
export function pastOf(interaction) {
  if (!isObject(interaction)) return String(interaction);
  const { event, rating, listing, query } = interaction;
  const did = Object.hasOwn(words.events, event) ? words.events[event] : String(event);
  const stars = typeof rating === "number" ? ` ${rating}/5` : "";
  return `${did}${stars}: ${titleOf(listing ?? "")}` + (query ? ` (${words.fields.query}: ${query})` : "");
}

// A document's fields, each with the path by which a reason's evidence names it.
export function fieldsOf(document) {
  if (!isObject(document)) return [{ path: "title", label: words.fields.title, value: String(document) }];
  const rows = [{ path: "title", label: words.fields.title, value: titleOf(document) }];
  const add = (path, label, value) => {
    if (value !== null && value !== undefined && value !== "") rows.push({ path, label, value: plain(value) });
  };
  if (typeof document.title === "string" && document.description === undefined)
    add("description", words.fields.description, document.text);
  for (const name of KNOWN) {
    const value = document[name];
    add(name, words.fields[name], name === "reviews" && Array.isArray(value) ? value.map(plain).join(" | ") : value);
  }
  const own = Object.keys(document).filter((name) => !KNOWN.includes(name) && !HIDDEN.includes(name));
  for (const name of own) add(`attributes.${name}`, name, document[name]);
  for (const [name, value] of Object.entries(isObject(document.attributes) ? document.attributes : {}))
    add(`attributes.${name}`, name, value);
  return rows;
}

// Whether one of the evidence's paths is a field, or a part of it such as category[1].
export function isNamed(path, evidence) {
  return evidence.some((name) => name === path || name.startsWith(`${path}[`));
}

// The fields that a reason rests on: the listing's own, and those of the history.
export function evidenceRows(document, history, evidence) {
  const own = fieldsOf(document).filter((row) => isNamed(row.path, evidence));
  const past = new Map();
  for (const name of evidence) {
    const found = /^history\[(\d+)\]\.(.*)$/s.exec(name);
    if (found) past.set(Number(found[1]), [...(past.get(Number(found[1])) ?? []), found[2]]);
  }
  const rows = [];
  for (const [place, names] of past) {
    const interaction = history[place];
    if (!isObject(interaction)) continue;
    const found = fieldsOf(interaction.listing ?? {}).filter((row) => row.path !== "title" && isNamed(row.path, names));
    const values = [pastOf(interaction), ...found.map((row) => `${row.label}: ${row.value}`)].join("; ");
    rows.push({ label: words.fromHistory(place + 1), value: values });
  }
  return [...own, ...rows];
}
