"use strict";
// What the page holds, and words for numbers. Text from files reaches the page through textContent alone.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const isNumber = (value) => typeof value === "number";
function element(tag, text, attributes) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  return made;
}
// Four significant digits, thousands apart; "no value" for what has none.
function words(value) {
  if (!isNumber(value)) return "no value";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e9)) return value.toExponential(2);
  if (Number.isInteger(value) || size >= 1e4) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(4)));
}
// The same for a cell of the map, where there is room for five characters.
function brief(value) {
  const size = Math.abs(value);
  if (size >= 1e6 || (size !== 0 && size < 1e-4)) return value.toExponential(0).replace("e+", "e");
  if (size >= 1e4) return Math.round(value / 1e3) + "k";
  if (Number.isInteger(value) || size >= 1000) return String(Math.round(value));
  return value.toPrecision(size < 1e-3 ? 2 : 3);
}
for (const part of document.querySelectorAll(".controls")) part.hidden = false;
