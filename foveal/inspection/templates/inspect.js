"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const canvas = $("canvas"), pen = canvas.getContext("2d"), panel = $("panel");
const [SX, SY, OX, OY] = D.frame;
const state = {step: 0, frame: "network", pick: null};
const REASONS = ["kept", "score below the threshold", "beyond the limit of its level", "beyond the limit of its class",
  "box too small", "not finite", "removed by NMS", "beyond the limit of detections"];
const OBJECT = "#ffffff", LOST = "#ff5a4d", FOUND = "#39d98a", DIM = "rgba(255,255,255,.75)";
let hits = [], bitmaps = {}, redraw = () => {};

// ------------------------------------------------------------------------------------------------ small tools
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined));
  return node;
}
const p = (...text) => h("p", {class: "lead"}, ...text);
const add = (...nodes) => panel.append(...nodes.filter(node => node !== null && node !== undefined));
const percent = v => (100 * v).toFixed(v < 0.1 ? 1 : 0) + " %";
const count = (n, one, many) => n.toLocaleString("en") + " " + (n === 1 ? one : many || one + "s");
const score = v => (v >= 0.1 ? v.toFixed(2) : v.toPrecision(2));
const rgb = label => "rgb(" + D.colors[label % D.colors.length].join(",") + ")";
const hue = i => "hsl(" + ((i * 137.5 + 200) % 360) + " 90% 62%)";
const boxOf = (c, i) => [c.box[4 * i], c.box[4 * i + 1], c.box[4 * i + 2], c.box[4 * i + 3]];
const toOriginal = b => [(b[0] - OX) / SX, (b[1] - OY) / SY, (b[2] - OX) / SX, (b[3] - OY) / SY].map(
  (v, k) => Math.min(Math.max(v, 0), k % 2 ? D.original.h : D.original.w));
const toNetwork = b => [b[0] * SX + OX, b[1] * SY + OY, b[2] * SX + OX, b[3] * SY + OY];
const sides = b => (b[2] - b[0]).toFixed(0) + " × " + (b[3] - b[1]).toFixed(0);
const objects = (D.objects || []).map((o, i) => Object.assign({i, net: toNetwork(o.box)}, o));
const named = o => (o.i + 1) + " " + D.classes[o.label];

function slider(text, value, min, max, step, change, show) {
  const out = h("output", {}, show(value));
  const input = h("input", {type: "range", min, max, step, value, "aria-label": text, oninput: () => {
    out.textContent = show(+input.value);
    change(+input.value);
  }});
  return h("label", {class: "slider"}, h("span", {}, text), input, out);
}
function choice(text, options, value, change) {
  const node = h("select", {"aria-label": text, onchange: () => change(+node.value)},
    options.map(([v, name]) => h("option", {value: v, selected: v === value}, name)));
  return h("label", {}, h("span", {}, text), node);
}
function check(text, value, change) {
  const input = h("input", {type: "checkbox", checked: value, onchange: () => change(input.checked)});
  return h("label", {}, input, text);
}
// rows: [{i, cells}]; a cell is text or a node; numeric columns by index. Clicking a row picks it.
function table(head, rows, numeric, pick) {
  const body = h("tbody", {}, rows.map(({i, cells}) => h("tr", pick ? {"data-i": i, tabindex: -1, onclick: () => pick(i)} : {},
    cells.map((cell, k) => h("td", {class: numeric.includes(k) ? "n" : null}, cell)))));
  return h("div", {class: "scroll"}, h("table", {}, h("thead", {}, h("tr", {},
    head.map((name, k) => h("th", {class: numeric.includes(k) ? "n" : null}, name)))), body));
}
function mark(root) {
  for (const row of root.querySelectorAll("tr[data-i]")) {
    const on = String(state.pick) === row.dataset.i;
    row.setAttribute("aria-selected", on);
    if (on) row.scrollIntoView({block: "nearest"});
  }
}
const dot = color => h("span", {class: "dot", style: "background:" + color});
const say = text => { $("caption").textContent = text; };

// ------------------------------------------------------------------------------------------------ the canvas
function size() {
  const network = state.frame === "network", w = network ? D.network.w : D.original.w, tall = network ? D.network.h : D.original.h;
  const room = $("view").clientWidth, high = Math.max(260, innerHeight * (innerWidth > 860 ? 0.76 : 0.6));
  const scale = Math.min(room / w, high / tall), ratio = devicePixelRatio || 1;
  const cw = Math.max(1, Math.round(w * scale)), ch = Math.max(1, Math.round(tall * scale));
  if (canvas.width !== Math.round(cw * ratio) || canvas.height !== Math.round(ch * ratio)) {
    canvas.width = Math.round(cw * ratio);
    canvas.height = Math.round(ch * ratio);
    canvas.style.width = cw + "px";
    canvas.style.height = ch + "px";
  }
  return canvas.width / w;
}
// pixels of the network -> pixels of the canvas
function map() {
  const k = size();
  return state.frame === "network" ? {kx: k, ky: k, x: 0, y: 0} : {kx: k / SX, ky: k / SY, x: -OX * k / SX, y: -OY * k / SY};
}
const behind = {key: "", canvas: document.createElement("canvas")};
let T = {kx: 1, ky: 1, x: 0, y: 0};
function backdrop(dim) {
  T = map();
  hits = [];
  pen.globalAlpha = 1;
  pen.setLineDash([]);
  const key = [state.frame, canvas.width, canvas.height, dim, !!bitmaps[state.frame]].join();
  if (key !== behind.key) { // the photo is scaled once, not at every move of a slider
    behind.key = key;
    behind.canvas.width = canvas.width;
    behind.canvas.height = canvas.height;
    const context = behind.canvas.getContext("2d");
    if (bitmaps[state.frame]) context.drawImage(bitmaps[state.frame], 0, 0, canvas.width, canvas.height);
    context.fillStyle = "rgba(10,16,22," + dim + ")";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  pen.drawImage(behind.canvas, 0, 0);
}
const px = () => devicePixelRatio || 1;
function rect(b, color, options) {
  const o = options || {}, x = b[0] * T.kx + T.x, y = b[1] * T.ky + T.y, w = (b[2] - b[0]) * T.kx, t = (b[3] - b[1]) * T.ky;
  pen.globalAlpha = o.alpha === undefined ? 1 : o.alpha;
  pen.setLineDash((o.dash || []).map(v => v * px()));
  if (o.fill) { pen.fillStyle = o.fill; pen.fillRect(x, y, w, t); }
  if (o.halo !== false) { pen.strokeStyle = "rgba(0,0,0,.55)"; pen.lineWidth = ((o.width || 1.5) + 1.5) * px(); pen.strokeRect(x, y, w, t); }
  pen.strokeStyle = color;
  pen.lineWidth = (o.width || 1.5) * px();
  pen.strokeRect(x, y, w, t);
  pen.setLineDash([]);
  pen.globalAlpha = 1;
  if (o.hit !== undefined) hits.push({b, i: o.hit});
  if (o.text) {
    pen.font = 600 + " " + 12 * px() + "px system-ui, sans-serif";
    const wide = pen.measureText(o.text).width + 8 * px(), high = 17 * px();
    const tx = Math.min(Math.max(x, 0), Math.max(0, canvas.width - wide)), ty = y - high < 0 ? Math.min(y, canvas.height - high) : y - high;
    pen.fillStyle = "rgba(8,13,18,.82)";
    pen.fillRect(tx, ty, wide, high);
    pen.fillStyle = color;
    pen.fillText(o.text, tx + 4 * px(), ty + 12.5 * px());
  }
}
function point(x, y, color, radius) {
  pen.fillStyle = color;
  pen.beginPath();
  pen.arc(x * T.kx + T.x, y * T.ky + T.y, radius * px(), 0, 7);
  pen.fill();
}
function drawObjects(only) {
  for (const o of objects) if (only === undefined || only === null || o.i === only) rect(o.net, OBJECT, {dash: [6, 4], width: 1.5});
}
canvas.addEventListener("click", event => {
  const box = canvas.getBoundingClientRect(), k = canvas.width / box.width;
  const x = ((event.clientX - box.left) * k - T.x) / T.kx, y = ((event.clientY - box.top) * k - T.y) / T.ky;
  view().click(x, y);
});
function smallest(x, y) {
  let best = null, area = Infinity;
  for (const {b, i} of hits) {
    const a = (b[2] - b[0]) * (b[3] - b[1]);
    if (x >= b[0] && x <= b[2] && y >= b[1] && y <= b[3] && a < area) { best = i; area = a; }
  }
  return best;
}
class View {
  constructor(name) { this.name = name; }
  click(x, y) { this.pick(smallest(x, y)); }
  pick(i) {
    state.pick = i === state.pick ? null : i;
    this.draw();
    mark(panel);
  }
  order() { return [...panel.querySelectorAll("tr[data-i]")].map(row => +row.dataset.i); }
}

// ---------------------------------------------------------------------------------------------------- steps
class ImageView extends View {
  fill() {
    const n = D.network, o = D.original;
    add(p("The network does not see the file: it sees this canvas. The image is brought to ",
      n.w + " × " + n.h + " pixels", n.iw !== n.w || n.ih !== n.h ? "; what lies beyond " + n.iw + " × " + n.ih + " is padding." : ".",
      " All boxes inside are in these pixels; only the last step returns to those of the file."),
      h("dl", {}, h("dt", {}, "file"), h("dd", {}, o.w + " × " + o.h + " px"), h("dt", {}, "canvas"), h("dd", {}, n.w + " × " + n.h + " px (" + n.rule + ")"),
        h("dt", {}, "scale"), h("dd", {}, "x " + SX.toFixed(3) + ", y " + SY.toFixed(3) + (OX || OY ? ", moved by " + OX + ", " + OY : "")),
        h("dt", {}, "detector"), h("dd", {}, D.detector + ", " + count(D.classes.length, "class", "classes")),
        D.objects ? h("dt", {}, "objects") : null, D.objects ? h("dd", {}, objects.length + "") : null),
      ...D.notes.map(note => h("p", {class: "note"}, note)),
      h("p", {class: "soft"}, h("kbd", {}, "←"), " ", h("kbd", {}, "→"), " steps, ", h("kbd", {}, "F"), " image or network, ",
        h("kbd", {}, "↑"), " ", h("kbd", {}, "↓"), " next item, ", h("kbd", {}, "Esc"), " none; clicking picks."));
    if (objects.length) add(table(["object", "in the file", "for the network"], objects.map(o => ({i: o.i,
      cells: [named(o), sides(o.box), sides(o.net)]})), [1, 2], i => this.pick(i)));
  }
  draw() {
    backdrop(0);
    for (const o of objects) rect(o.net, o.i === state.pick ? FOUND : OBJECT, {dash: [6, 4], hit: o.i, text: o.i === state.pick ? named(o) : null});
    say(objects.length ? "Dashed: the annotated objects." : "");
  }
}

const gridBox = (l, cell, k) => {
  const x = l.x + (cell % l.w) * l.dx, y = l.y + Math.floor(cell / l.w) * l.dy, c = l.cell[k];
  return [x + c[0], y + c[1], x + c[2], y + c[3]];
};
class PriorsView extends View {
  constructor(stage) { super(stage.kind === "queries" ? "Queries" : stage.kind === "proposals" ? "Proposals" : stage.kind === "cells" ? "Cells" : "Priors"); this.s = stage; this.level = 0; this.cell = null; }
  best() {
    if (this.found) return this.found;
    return this.found = objects.map(o => {
      let top = {iou: 0, level: 0};
      this.s.levels.forEach((l, n) => { for (let cell = 0; cell < l.h * l.w; cell++) {
        const x = l.x + (cell % l.w) * l.dx, y = l.y + Math.floor(cell / l.w) * l.dy;
        for (const c of l.cell) { const iou = iouOf(o.net, [x + c[0], y + c[1], x + c[2], y + c[3]]); if (iou > top.iou) top = {iou, level: n, cell}; }
      } });
      return top;
    });
  }
  fill() {
    const s = this.s;
    if (!s.levels.length) {
      add(p(s.kind === "queries" ? "There are no anchors: " + s.priors + " learned queries each look at the whole image and predict one box, or nothing."
        : s.kind === "proposals" ? count(s.priors, "proposal") + " came with the image, from outside the network. The detector classifies and refines them." : "These priors are no grid."));
      return;
    }
    add(p("Every prediction starts from a prior: ", count(s.priors, "prior"), " on ", count(s.levels.length, "level"),
      ". A level is a grid of cells, and each cell holds the same few boxes. Click a cell to see its own; the network predicts how far an object is from them."),
      h("div", {class: "row"}, choice("level", s.levels.map((l, n) => [n, (n + 1) + ": " + l.w + " × " + l.h + " cells, " + l.dx.toFixed(0) + " px apart"]), this.level, v => { this.level = v; this.cell = null; this.draw(); })),
      table(["level", "cells", "a cell", "smallest", "largest"], s.levels.map((l, n) => {
        const w = l.cell.map(c => Math.sqrt((c[2] - c[0]) * (c[3] - c[1])));
        return {i: -1 - n, cells: [String(n + 1), l.w + " × " + l.h, String(l.per), Math.min(...w).toFixed(0) + " px", Math.max(...w).toFixed(0) + " px"]};
      }), [1, 2, 3, 4], i => { this.level = -1 - i; this.cell = null; this.draw(); }));
    if (objects.length) add(h("h3", {}, "How well a prior fits each object"),
      table(["object", "size", "best IoU", "level"], this.best().map((b, i) => ({i, cells: [named(objects[i]), sides(objects[i].net),
        h("span", {class: b.iou >= 0.5 ? "good" : b.iou >= 0.4 ? "warn" : "bad"}, b.iou.toFixed(2)), String(b.level + 1)]})), [1, 2, 3],
      i => { this.level = this.best()[i].level; this.cell = this.best()[i].cell; this.pick(i); }));
  }
  click(x, y) {
    const l = this.s.levels[this.level];
    if (!l) return;
    const column = Math.round((x - l.x) / l.dx), row = Math.round((y - l.y) / l.dy);
    if (column < 0 || row < 0 || column >= l.w || row >= l.h) return;
    this.cell = row * l.w + column;
    this.draw();
  }
  draw() {
    backdrop(0.25);
    const s = this.s, l = s.levels[this.level];
    if (!l) {
      if (s.boxes && s.kind === "proposals") { const b = unpack(s.boxes, Float32Array); for (let i = 0; i < Math.min(300, s.priors); i++) rect(boxOf({box: b}, i), hue(i), {width: 0.8, halo: false, alpha: 0.6}); }
      drawObjects();
      say(s.kind === "proposals" ? "The first 300 of " + s.priors : "");
      return;
    }
    if (l.h * l.w <= 8000) for (let cell = 0; cell < l.h * l.w; cell++) point(l.x + (cell % l.w) * l.dx, l.y + Math.floor(cell / l.w) * l.dy, DIM, l.h * l.w > 2500 ? 0.7 : 1.2);
    drawObjects(this.cell === null ? null : state.pick);
    const cell = this.cell === null ? Math.floor(l.h / 2) * l.w + Math.floor(l.w / 2) : this.cell;
    for (let k = 0; k < l.per; k++) rect(gridBox(l, cell, k), hue(k), {width: 1.5});
    say("Level " + (this.level + 1) + ": the " + (l.per === 1 ? "box" : l.per + " boxes") + " of one cell. Dashed: the objects.");
  }
}

class MatchView extends View {
  constructor(stage, first) { super(first ? "Assignment" : "RoI assignment"); this.s = stage; this.on = {positive: true, ignored: false, negative: false}; }
  fill() {
    const m = this.s.match, b = this.b = {positive: unpack(m.positive.box, Float32Array), ignored: unpack(m.ignored, Float32Array), negative: unpack(m.negative, Float32Array)};
    const own = objects.map(() => [0, 0]);
    m.positive.gt.forEach((g, i) => { own[g][0]++; own[g][1] += m.positive.sampled[i]; });
    add(p("In training every prior learns one of three things: it is ", h("b", {}, "positive"), " (assigned to an object), ", h("b", {}, "negative"),
      " (background) or ", h("b", {}, "ignored"), ". Then the sampler (" + m.sampler + ") takes those whose loss counts. An object without a positive prior is not learned in this image."),
      table(["", "priors", "sampled"], [["positive", m.counts.positive, m.counts["sampled positive"]], ["negative", m.counts.negative, m.counts["sampled negative"]],
        ["ignored", m.counts.ignored, 0]].map(([name, n, k], i) => ({i: -1 - i, cells: [name, n.toLocaleString("en"), k.toLocaleString("en")]})), [1, 2]),
      h("div", {class: "row"}, check("positive", this.on.positive, v => { this.on.positive = v; this.draw(); }),
        check("ignored" + (b.ignored.length / 4 < m.counts.ignored ? " (part of them)" : ""), this.on.ignored, v => { this.on.ignored = v; this.draw(); }),
        m.all ? null : check("sampled negative", this.on.negative, v => { this.on.negative = v; this.draw(); })),
      m.all ? h("p", {class: "soft"}, "All negatives count, so none are drawn.") : null,
      h("h3", {}, "Positive priors of each object"),
      table(["object", "positive", "sampled"], objects.map(o => ({i: o.i, cells: [[dot(hue(o.i)), named(o)], h("span", {class: own[o.i][0] ? "good" : "bad"}, String(own[o.i][0])), String(own[o.i][1])]})), [1, 2], i => this.pick(i)));
  }
  draw() {
    backdrop(0.35);
    const b = this.b, m = this.s.match;
    if (this.on.negative) for (let i = 0; i < b.negative.length / 4; i++) rect(boxOf({box: b.negative}, i), "#9fb0bf", {width: 0.8, halo: false, alpha: 0.5});
    if (this.on.ignored) for (let i = 0; i < b.ignored.length / 4; i++) rect(boxOf({box: b.ignored}, i), "#ffd166", {width: 0.8, halo: false, alpha: 0.5});
    if (this.on.positive) m.positive.gt.forEach((g, i) => { if (state.pick === null || state.pick === g)
      rect(boxOf({box: b.positive}, i), hue(g), {width: state.pick === null ? 0.8 : 1.4, halo: false, alpha: state.pick === null ? 0.5 : 1, dash: m.positive.sampled[i] ? [] : [3, 3]}); });
    for (const o of objects) if (state.pick === null || state.pick === o.i) rect(o.net, OBJECT, {dash: [6, 4], width: 2, hit: o.i});
    say("Colored: the positive priors of each object (dashed where the sampler left them out). Yellow: ignored. Gray: sampled negatives.");
  }
}

// a value 0..1 -> [r, g, b]: dark violet to yellow, equally spaced to the eye (the anchors of viridis)
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
function ramp(v) {
  const at = Math.min(3.999, Math.max(0, v * 4)), i = Math.floor(at), t = at - i;
  return RAMP[i].map((a, k) => a + (RAMP[i + 1][k] - a) * t);
}
const sheets = new Map();
function sheet(src) {
  if (!sheets.has(src)) {
    const image = new Image();
    sheets.set(src, null);
    image.onload = () => {
      const c = document.createElement("canvas");
      c.width = image.width;
      c.height = image.height;
      const context = c.getContext("2d", {willReadFrequently: true});
      context.drawImage(image, 0, 0);
      sheets.set(src, context);
      redraw();
    };
    image.src = src;
  }
  return sheets.get(src);
}
// Draws tile n of a sheet, w x h cells, over the network's pixels `area`. Returns its values 0..1, or null while it loads.
function tile(src, columns, n, w, tall, area, strength) {
  const context = sheet(src);
  if (!context) return null;
  const data = context.getImageData((n % columns) * w, Math.floor(n / columns) * tall, w, tall), c = document.createElement("canvas");
  c.width = w;
  c.height = tall;
  const values = new Float32Array(w * tall), out = c.getContext("2d").createImageData(w, tall);
  for (let i = 0; i < w * tall; i++) {
    const v = data.data[4 * i] / 255, color = ramp(v);
    values[i] = v * v;
    out.data.set([...color, 255 * strength * (0.25 + 0.75 * v)], 4 * i);
  }
  c.getContext("2d").putImageData(out, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(c, area[0] * T.kx + T.x, area[1] * T.ky + T.y, (area[2] - area[0]) * T.kx, (area[3] - area[1]) * T.ky);
  pen.imageSmoothingEnabled = true;
  return values;
}
const scale = text => h("div", {class: "legend"}, "0", h("span", {class: "ramp", style: "background:linear-gradient(90deg," + RAMP.map(c => "rgb(" + c + ")").join(",") + ")"}), "1", h("span", {}, text));

class ScoresView extends View {
  constructor(stage) { super("Scores"); this.s = stage; this.level = stage.maps.reduce((b, m, i, all) => (m.best > all[b].best ? i : b), 0); this.tile = 0; this.strength = 0.8; this.cell = null; }
  fill() {
    const s = this.s, tiles = s.maps[this.level].classes;
    add(p("At every cell of every level the head gives each class a score. The map shows the best score of a cell: bright cells become candidates, and a bright place without an object is a false alarm in the making. Colors go by the square root of the score."),
      scale("score"),
      h("div", {class: "row"}, choice("level", s.levels.map((l, n) => [n, (n + 1) + ": " + l.w + " × " + l.h + ", best " + score(s.maps[n].best)]), this.level, v => { this.level = v; this.cell = null; this.draw(); }),
        choice("class", tiles.map((c, i) => [i, c < 0 ? "any class" : s.classes[c]]), this.tile, v => { this.tile = v; this.draw(); })),
      slider("strength", this.strength, 0, 1, 0.05, v => { this.strength = v; this.draw(); }, percent),
      tiles.length - 1 < s.classes.length && s.classes.length > 1 ? h("p", {class: "note"}, "Only the " + (tiles.length - 1) + " classes with the highest scores have a map of their own.") : null);
  }
  click(x, y) {
    const l = this.s.levels[this.level], column = Math.round((x - l.x) / l.dx), row = Math.round((y - l.y) / l.dy);
    this.cell = column < 0 || row < 0 || column >= l.w || row >= l.h ? null : [column, row];
    this.draw();
  }
  draw() {
    backdrop(0.3);
    const l = this.s.levels[this.level], m = this.s.maps[this.level], area = [l.x - l.dx / 2, l.y - l.dy / 2, l.x + (l.w - 0.5) * l.dx, l.y + (l.h - 0.5) * l.dy];
    const values = tile(m.src, m.columns, this.tile, l.w, l.h, area, this.strength);
    drawObjects();
    if (!values || !this.cell) return say("Click a cell for its score.");
    const [column, row] = this.cell, x = l.x + column * l.dx, y = l.y + row * l.dy;
    rect([x - l.dx / 2, y - l.dy / 2, x + l.dx / 2, y + l.dy / 2], OBJECT, {width: 2});
    say("Cell " + column + ", " + row + " of level " + (this.level + 1) + ": score about " + score(values[row * l.w + column]));
  }
}
