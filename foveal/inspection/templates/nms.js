"use strict";
// The selection and NMS of foveal.parts.postprocess: the same order of operations, arithmetic and rule for ties, so
// that the boxes kept are those that the detector would keep. Numbers of a float32 tensor are rounded by f().
const f = Math.fround;
const PAIRS_PER_CALL = 300000; // as in suppress: which of two equal forms, in fp64 or in fp32, computes the overlaps
const REASON = {kept: 0, score: 1, level: 2, class: 3, size: 4, nms: 6, top: 7};

function unpack(text, Type) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Type(bytes.buffer);
}

// c: {n, box, score, label, level} typed arrays; s: {score, level, class, size, top, rule, iou, per, exponent}.
// -> {reason, by, overlap, kept}: of each candidate what became of it; kept: rows by falling score.
function decide(c, s) {
  const n = c.n, reason = new Uint8Array(n), by = new Int32Array(n).fill(-1), overlap = new Float32Array(n);
  const low = s.score === null ? -Infinity : f(s.score), size = f(s.size || 0);
  const seen = new Map(), entered = [];
  for (let i = 0; i < n; i++) {
    const key = s.class === null ? c.level[i] : c.label[i], limit = s.class === null ? s.level : s.class;
    const rank = (seen.get(key) || 0) + 1; // candidates of a level or class come by falling score
    seen.set(key, rank);
    if (!(c.score[i] > low)) reason[i] = REASON.score;
    else if (limit !== null && rank > limit) reason[i] = s.class === null ? REASON.level : REASON.class;
    else if (size > 0 && !(f(c.box[4 * i + 2] - c.box[4 * i]) >= size && f(c.box[4 * i + 3] - c.box[4 * i + 1]) >= size))
      reason[i] = REASON.size;
    else entered.push(i);
  }
  const order = entered.slice().sort((a, b) => c.score[b] - c.score[a] || a - b);
  const left = s.rule === "NoNMS" ? order : suppress(c, s, entered, order, reason, by, overlap);
  for (const i of left.slice(s.top)) reason[i] = REASON.top;
  return {reason, by, overlap, kept: left.slice(0, s.top), entered: entered.length};
}

function suppress(c, s, entered, order, reason, by, overlap) {
  const group = i => (s.per === "class" ? c.label[i] : s.per === "level" ? c.level[i] : 0);
  const groups = new Map();
  for (const i of order) {
    const g = group(i);
    if (!groups.has(g)) groups.set(g, []);
    groups.get(g).push(i);
  }
  const pairs = entered.length * entered.length, distance = s.rule === "DistanceNMS";
  const wide = !distance && (pairs <= PAIRS_PER_CALL || (groups.size > 1 && pairs <= PAIRS_PER_CALL * groups.size));
  let shift = 0;
  if (wide) {
    let low = Infinity, high = -Infinity;
    for (const i of entered) for (let k = 0; k < 4; k++) {
      low = Math.min(low, c.box[4 * i + k]);
      high = Math.max(high, c.box[4 * i + k]);
    }
    shift = high - low + 1;
  }
  const survives = new Uint8Array(c.n);
  for (const [g, rows] of groups) {
    const boxes = sidesOf(c, rows, wide ? g * shift : null);
    (distance ? greedyByDistance : wide ? greedy : greedyNarrow)(boxes, s, rows, reason, by, overlap, survives);
  }
  return order.filter(i => survives[i]);
}

// The boxes of one group, best first. add: their shift in fp64; null: fp32.
function sidesOf(c, rows, add) {
  const n = rows.length, x1 = new Float64Array(n), y1 = new Float64Array(n), x2 = new Float64Array(n),
    y2 = new Float64Array(n), area = new Float64Array(n), t = add || 0;
  for (let k = 0; k < n; k++) {
    const o = 4 * rows[k];
    x1[k] = c.box[o] + t; y1[k] = c.box[o + 1] + t; x2[k] = c.box[o + 2] + t; y2[k] = c.box[o + 3] + t;
    area[k] = add === null ? f(f(x2[k] - x1[k]) * f(y2[k] - y1[k])) : (x2[k] - x1[k]) * (y2[k] - y1[k]);
  }
  return {x1, y1, x2, y2, area};
}

// Greedy NMS of one group in fp64. Its twin below rounds every step to fp32: one loop with a function for rounding is
// four times slower. Boxes whose areas differ too much are skipped: their IoU is at most the ratio of the areas.
function greedy({x1, y1, x2, y2, area}, s, rows, reason, by, overlap, survives) {
  const n = rows.length, gone = new Uint8Array(n), limit = s.iou, least = limit - 1e-5;
  for (let a = 0; a < n; a++) {
    if (gone[a]) continue;
    survives[rows[a]] = 1;
    const l = x1[a], t = y1[a], m = x2[a], u = y2[a], own = area[a];
    for (let b = a + 1; b < n; b++) {
      if (gone[b]) continue;
      const w = Math.min(m, x2[b]) - Math.max(l, x1[b]);
      if (w <= 0 && limit >= 0) continue;
      const h = Math.min(u, y2[b]) - Math.max(t, y1[b]);
      if ((h <= 0 && limit >= 0) || area[b] < least * own || own < least * area[b]) continue;
      const shared = Math.max(0, w) * Math.max(0, h), iou = shared / (own + area[b] - shared);
      if (iou > limit) remove(a, b, iou, rows, gone, reason, by, overlap);
    }
  }
}

function greedyNarrow({x1, y1, x2, y2, area}, s, rows, reason, by, overlap, survives) {
  const n = rows.length, gone = new Uint8Array(n), limit = s.iou, least = limit - 1e-5;
  for (let a = 0; a < n; a++) {
    if (gone[a]) continue;
    survives[rows[a]] = 1;
    const l = x1[a], t = y1[a], m = x2[a], u = y2[a], own = area[a];
    for (let b = a + 1; b < n; b++) {
      if (gone[b]) continue;
      const w = f(Math.min(m, x2[b]) - Math.max(l, x1[b]));
      if (w <= 0 && limit >= 0) continue;
      const h = f(Math.min(u, y2[b]) - Math.max(t, y1[b]));
      if ((h <= 0 && limit >= 0) || area[b] < least * own || own < least * area[b]) continue;
      const shared = f(Math.max(0, w) * Math.max(0, h)), iou = f(shared / f(f(own + area[b]) - shared));
      if (iou > limit) remove(a, b, iou, rows, gone, reason, by, overlap);
    }
  }
}

function greedyByDistance({x1, y1, x2, y2, area}, s, rows, reason, by, overlap, survives) {
  const n = rows.length, gone = new Uint8Array(n);
  for (let a = 0; a < n; a++) {
    if (gone[a]) continue;
    survives[rows[a]] = 1;
    for (let b = a + 1; b < n; b++) {
      if (gone[b]) continue;
      const w = f(Math.min(x2[a], x2[b]) - Math.max(x1[a], x1[b])), h = f(Math.min(y2[a], y2[b]) - Math.max(y1[a], y1[b]));
      const shared = f(Math.max(0, w) * Math.max(0, h));
      const iou = f(f(shared / Math.max(f(f(area[a] + area[b]) - shared), 1.1754943508222875e-38)) - apart(x1, y1, x2, y2, a, b, s));
      if (iou > s.iou) remove(a, b, iou, rows, gone, reason, by, overlap);
    }
  }
}

function remove(a, b, iou, rows, gone, reason, by, overlap) {
  gone[b] = 1;
  reason[rows[b]] = REASON.nms;
  by[rows[b]] = rows[a];
  overlap[rows[b]] = iou;
}

function apart(x1, y1, x2, y2, a, b, s) {
  const dx = (x1[a] + x2[a] - x1[b] - x2[b]) / 2, dy = (y1[a] + y2[a] - y1[b] - y2[b]) / 2;
  const w = Math.max(x2[a], x2[b]) - Math.min(x1[a], x1[b]), h = Math.max(y2[a], y2[b]) - Math.min(y1[a], y1[b]);
  return Math.pow((dx * dx + dy * dy) / Math.max(w * w + h * h, 1e-9), s.exponent);
}

function iouOf(a, b) {
  const w = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), h = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (w <= 0 || h <= 0) return 0;
  const shared = w * h;
  return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared);
}
