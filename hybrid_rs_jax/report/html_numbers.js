"use strict";
/* Numbers as text, on the safe side as everywhere: what is guaranteed is floored, exactly. */

const DASH = "—";

/** A number with so many decimals, never above it: a double below 2^-48 has no digit that matters beyond the 100th. */
function floorText(value, decimals = 3) {
  if (!(Math.abs(value) < 1e21)) return String(value);
  const [whole, fraction] = value.toFixed(100).split(".");
  return decimals > 0 ? `${whole}.${fraction.slice(0, decimals)}` : whole;
}

function radiusText(radius) {
  return radius < 0 ? DASH : floorText(radius);
}

/** A share in percent, floored to one decimal; counts are integers, so the quotient cannot be rounded up to one. */
function percentText(part, whole) {
  const tenths = Math.floor((1000 * part) / whole);
  return `${Math.floor(tenths / 10)}.${tenths % 10} %`;
}

function countText(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** The largest of 1, 2, 5 times a power of ten that is at most `value`. */
function niceStep(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * ([5, 2, 1].find((factor) => factor * power <= value) ?? 1);
}

/** At most `most` of the indices 0..length-1, evenly, first and last among them. */
function thinned(length, most) {
  const number = Math.min(length, most);
  if (number < 2) return length ? [0] : [];
  return Array.from({ length: number }, (_, i) => Math.round((i * (length - 1)) / (number - 1)));
}

/** An element; `text` is text and nothing else. */
function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "path", "line", "text", "circle"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const at = (id) => document.getElementById(id);
