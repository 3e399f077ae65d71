"use strict";
// The views whose sliders decide again: candidates and NMS, proposals, RoIs, attention, and the result.
function prepare(stage) {
  const c = stage.candidates;
  stage.c = {n: c.n, box: unpack(c.box, Float32Array), score: unpack(c.score, Float32Array), label: unpack(c.label, Uint16Array),
    level: unpack(c.level, Uint8Array), prior: unpack(c.prior, Uint32Array)};
  stage.now = Object.assign({}, stage.settings);
  stage.result = decide(stage.c, stage.now);
}
const changed = s => Object.keys(s.settings).some(k => s.settings[k] !== s.now[k]);

class NMSView extends View {
  constructor(stage, rpn) { super(rpn ? "RPN: NMS" : "Candidates, NMS"); this.s = stage; this.rpn = rpn; this.removed = false; this.objects = true; this.best = rpn ? 60 : 40; }
  fill() {
    const s = this.s, now = s.now, set = key => v => { now[key] = v; this.again(); };
    const rule = s.settings.rule === "NoNMS" ? "Set prediction needs no NMS: each query stands for one object, and the best are kept."
      : "Many candidates lie on the same object. NMS takes the best one, removes all of its " + {class: "class", level: "level", all: "image"}[s.settings.per] + " that overlap it by more than the threshold, and goes on with the next.";
    add(p(this.rpn ? "The first stage asks only: object or not? " : "", "Pairs of a prior and a class with a score above the threshold are ", h("b", {}, "candidates"), ". " + rule +
      " Move a slider: everything is decided again, as the detector would."));
    if (!s.c.n) add(h("p", {class: "note"}, "There is no candidate at all."));
    const floor = s.candidates.floor, low = Math.min(floor, now.score || 0), cut = s.settings.class === null ? "level" : "class";
    this.controls = h("div", {});
    add(this.controls);
    this.sliders = () => {
      this.controls.replaceChildren(
        slider("score above", now.score === null ? low : now.score, Math.max(0, low), 1, 0.005, v => { now.score = v; this.again(); }, v => v.toFixed(3)),
        s.settings.iou === null ? "" : slider("NMS overlap", now.iou, 0, 1, 0.01, set("iou"), v => v.toFixed(2)),
        s.settings[cut] === null ? "" : slider("limit of a " + cut, now[cut], 1, s.settings[cut], 1, set(cut), v => String(v)),
        slider("limit in all", now.top, 1, Math.max(s.settings.top, 1), 1, set("top"), v => String(v)),
        h("div", {class: "row"}, h("button", {type: "button", onclick: () => { Object.assign(now, s.settings); this.sliders(); this.again(); }}, "Settings of the run"),
          check("removed boxes", this.removed, v => { this.removed = v; this.draw(); }), objects.length ? check("objects", this.objects, v => { this.objects = v; this.draw(); }) : null));
    };
    this.sliders();
    add(slider("draw the best", this.best, 1, Math.max(100, s.settings.top), 1, v => { this.best = v; this.draw(); }, v => String(v)));
    this.status = h("p", {class: "soft", "aria-live": "polite"});
    this.reasons = h("div", {});
    this.list = h("div", {});
    add(this.status, h("h3", {}, "What became of the candidates"), this.reasons, h("h3", {}, "Kept boxes, and how many each removed"), this.list);
    this.lists();
  }
  again() {
    this.s.result = decide(this.s.c, this.s.now);
    state.pick = null;
    this.draw();
    this.tell();
    clearTimeout(this.later); // the tables follow once the slider rests
    this.later = setTimeout(() => { if (view() === this) this.lists(); }, 80);
  }
  tell() {
    const s = this.s, below = s.total - s.c.n;
    this.status.textContent = (changed(s) ? "Changed. " : "As in the run. ") + s.result.kept.length + " kept of " + count(s.c.n, "candidate") + " in this page" +
      (below > 0 ? "; " + count(below, "other pair") + " with a lower score, or cut by a limit before." : ".");
  }
  lists() {
    const s = this.s, r = s.result, n = new Array(8).fill(0);
    this.tell();
    for (let i = 0; i < s.c.n; i++) n[r.reason[i]]++;
    const rows = REASONS.map((text, k) => ({i: -1 - k, cells: [text, n[k].toLocaleString("en"), h("div", {class: "bar", style: "width:" + (100 * n[k] / Math.max(1, s.c.n)).toFixed(1) + "px"})], n: n[k]})).filter(row => row.n || row.i === -1);
    this.reasons.replaceChildren(table(["fate", "pairs", ""], rows, [1]));
    const removed = new Map();
    for (let i = 0; i < s.c.n; i++) if (r.by[i] >= 0) removed.set(r.by[i], (removed.get(r.by[i]) || 0) + 1);
    this.list.replaceChildren(table(["", "box", "score", "removed"], r.kept.slice(0, 100).map(i => ({i, cells: [[dot(this.color(i)), s.classes[s.c.label[i]]],
      sides(boxOf(s.c, i)), score(s.c.score[i]), String(removed.get(i) || 0)]})), [1, 2, 3], i => this.pick(i)));
  }
  color(i) { return this.rpn ? "hsl(" + (s => 40 + 160 * s)(this.s.c.score[i]) + " 85% 62%)" : rgb(this.s.c.label[i]); }
  draw() {
    backdrop(0.3);
    const s = this.s, r = s.result, pick = state.pick;
    if (this.objects) drawObjects();
    if (this.removed && pick === null) for (let i = 0; i < s.c.n; i++) if (r.reason[i] === REASON.nms || r.reason[i] === REASON.top)
      rect(boxOf(s.c, i), r.reason[i] === REASON.nms ? LOST : "#ffd166", {width: 0.7, halo: false, alpha: 0.45, hit: i});
    const shown = r.kept.slice(0, this.best), few = shown.length <= 40;
    if (pick !== null && r.kept.includes(pick) && !shown.includes(pick)) shown.push(pick);
    for (let k = shown.length - 1; k >= 0; k--) {
      const i = shown[k], on = pick === null || pick === i || r.by[pick] === i;
      rect(boxOf(s.c, i), this.color(i), {width: on ? 2 : 1, alpha: on ? Math.min(1, 0.3 + s.c.score[i]) : 0.15, hit: i, halo: few && on});
    }
    if (pick === null) return say("Solid: " + (shown.length < r.kept.length ? "the best " + shown.length + " of " + r.kept.length + " kept boxes" : "the boxes kept") + (this.removed ? "; red: removed by NMS; yellow: beyond the limit" : "") + (this.objects && objects.length ? "; dashed white: objects" : "") + ". Click a box to see what it removed, or what removed it.");
    const kept = r.reason[pick] === REASON.kept, what = s.classes[s.c.label[pick]] + " " + score(s.c.score[pick]);
    let n = 0;
    for (let i = 0; i < s.c.n; i++) if (r.by[i] === pick) { n++; rect(boxOf(s.c, i), LOST, {width: 1, dash: [4, 3], halo: false, alpha: 0.8, hit: i}); }
    if (r.by[pick] >= 0) rect(boxOf(s.c, r.by[pick]), this.color(r.by[pick]), {width: 2.5, text: s.classes[s.c.label[r.by[pick]]] + " " + score(s.c.score[r.by[pick]])});
    rect(boxOf(s.c, pick), kept ? this.color(pick) : LOST, {width: 2.5, text: what, dash: kept ? [] : [6, 3]});
    say(kept ? what + " is kept and removed " + count(n, "box", "boxes") + "." : what + ": " + REASONS[r.reason[pick]] +
      (r.by[pick] >= 0 ? ", by " + s.classes[s.c.label[r.by[pick]]] + " " + score(s.c.score[r.by[pick]]) + ", which overlaps it by IoU " + r.overlap[pick].toFixed(2) : "") + ".");
  }
}

class RoIView extends View {
  constructor(stage) { super("RoIs"); this.s = stage; this.box = unpack(stage.boxes, Float32Array); this.level = D.rois.level ? unpack(D.rois.level, Uint8Array) : null; this.one = null; }
  fill() {
    const r = D.rois, best = new Map(), c = this.s.c;
    for (let i = 0; i < c.n; i++) if (!best.has(c.prior[i]) || c.score[i] > c.score[best.get(c.prior[i])]) best.set(c.prior[i], i);
    const rows = [...best].sort((a, b) => c.score[b[1]] - c.score[a[1]]).slice(0, 100);
    const levels = new Map();
    if (this.level) this.level.forEach(l => levels.set(l, (levels.get(l) || 0) + 1));
    add(p(r.kind + " cuts each proposal into " + r.size + " × " + r.size + " bins" + (r.ratio ? " and takes the mean of " + r.ratio * r.ratio + " samples in each" : "") +
      ", so that every proposal, large or small, becomes features of one size. The head then says which class it is and moves the box."),
      levels.size ? table(["level", "stride", "RoIs"], [...levels].sort().map(([l, n]) => ({i: -1 - l, cells: [String(l + 1), r.strides[l] + " px", String(n)]})), [1, 2]) : null,
      h("h3", {}, "Proposals by the best score they got"),
      table(["", "score", "size", "level"], rows.map(([prior, i]) => ({i: prior, cells: [this.s.classes[c.label[i]], score(c.score[i]), sides(boxOf({box: this.box}, prior)), this.level ? String(this.level[prior] + 1) : "–"]})), [1, 2, 3], i => this.pick(i)));
    this.first = rows.length ? rows[0][0] : null;
  }
  draw() {
    backdrop(0.35);
    drawObjects();
    const r = D.rois, i = state.pick === null ? this.first : state.pick;
    for (let k = 0; k < Math.min(this.s.priors, 300); k++) rect(boxOf({box: this.box}, k), "#9fb0bf", {width: 0.6, halo: false, alpha: 0.3, hit: k});
    if (i === null) return say("There is no proposal.");
    const b = boxOf({box: this.box}, i), stride = r.strides[this.level ? this.level[i] : 0], bins = this.bins(b, stride);
    rect(b, "#58d0ff", {width: 2.5});
    if (bins) {
      for (let y = 0; y < r.size; y++) for (let x = 0; x < r.size; x++) rect([bins.x + x * bins.w, bins.y + y * bins.h, bins.x + (x + 1) * bins.w, bins.y + (y + 1) * bins.h], "#ffd166", {width: 0.8, halo: false});
      for (let y = 0; y < r.size * bins.n; y++) for (let x = 0; x < r.size * bins.n; x++) if (bins.n) point(bins.x + (x + 0.5) * bins.w / bins.n, bins.y + (y + 0.5) * bins.h / bins.n, "#fff", 1.3);
    }
    const own = this.s.result.kept.find(k => this.s.c.prior[k] === i);
    if (own !== undefined) rect(boxOf(this.s.c, own), rgb(this.s.c.label[own]), {width: 2, dash: [8, 3], text: this.s.classes[this.s.c.label[own]] + " " + score(this.s.c.score[own])});
    say("Blue: the proposal, " + sides(b) + " px" + (this.level ? ", pooled from level " + (this.level[i] + 1) + " (a cell is " + stride + " px)" : "") + ". Yellow: its bins; white: the samples." +
      (own !== undefined ? " Dashed: the detection that it became." : ""));
  }
  // the bins in pixels of the network: x, y of the first, w, h of each, n samples an axis
  bins(b, stride) {
    const r = D.rois;
    if (r.kind === "RoIAlign") {
      const w = b[2] - b[0], t = b[3] - b[1], W = r.aligned ? w : Math.max(w, stride), H = r.aligned ? t : Math.max(t, stride), to = r.aligned ? 0 : stride / 2;
      const n = r.ratio > 0 ? r.ratio : Math.max(1, Math.ceil(Math.max(W, H) / stride / r.size));
      return {x: b[0] + to, y: b[1] + to, w: W / r.size, h: H / r.size, n};
    }
    if (r.kind === "RoIPool") {
      const [x1, y1, x2, y2] = b.map(v => Math.round(v / stride));
      return {x: x1 * stride, y: y1 * stride, w: Math.max(x2 - x1 + 1, 1) * stride / r.size, h: Math.max(y2 - y1 + 1, 1) * stride / r.size, n: 0};
    }
    return r.size > 1 ? {x: b[0], y: b[1], w: (b[2] - b[0]) / r.size, h: (b[3] - b[1]) / r.size, n: 0} : null;
  }
}

class AttentionView extends View {
  constructor(stage) { super("Attention"); this.s = stage; }
  fill() {
    const c = this.s.c, best = new Map();
    for (let i = 0; i < c.n; i++) if (!best.has(c.prior[i]) || c.score[i] > c.score[best.get(c.prior[i])]) best.set(c.prior[i], i);
    this.best = best;
    add(p("Each query attends to the locations of the last feature map that it needs for its box: often the ends of an object rather than its middle. The map is the cross-attention of the last decoder layer, the mean of its heads, relative to its largest weight."), scale("relative weight"),
      table(["query", "class", "score"], D.attention.queries.filter(q => best.has(q)).map(q => ({i: q, cells: [String(q + 1), [dot(rgb(c.label[best.get(q)])), this.s.classes[c.label[best.get(q)]]], score(c.score[best.get(q)])]})), [0, 2], i => this.pick(i)));
  }
  draw() {
    backdrop(0.35);
    const a = D.attention, q = state.pick === null ? a.queries[0] : state.pick, n = a.queries.indexOf(q), i = this.best.get(q);
    if (n >= 0) tile(a.src, a.columns, n, a.w, a.h, [0, 0, D.network.w, D.network.h], 0.8);
    drawObjects();
    if (i !== undefined) rect(boxOf(this.s.c, i), rgb(this.s.c.label[i]), {width: 2, text: "query " + (q + 1) + ": " + this.s.classes[this.s.c.label[i]] + " " + score(this.s.c.score[i])});
    say("Bright: where the query looks. Solid: the box that it predicts.");
  }
}

class ResultView extends View {
  constructor(stage) { super("Result"); this.s = stage; this.from = 0.3; }
  // COCO's matching at IoU .5, in pixels of the file: by falling score each box takes the object of its class that it overlaps most
  match() {
    const s = this.s, taken = new Array(objects.length).fill(-1), hit = new Map();
    for (const i of s.result.kept) {
      const b = toOriginal(boxOf(s.c, i));
      let best = -1, iou = 0.5;
      for (const o of objects) if (o.counted && taken[o.i] < 0 && o.label === s.c.label[i]) { const v = iouOf(b, o.box); if (v >= iou) { iou = v; best = o.i; } }
      if (best >= 0) { taken[best] = i; hit.set(i, best); }
    }
    return {taken, hit};
  }
  fill() {
    const s = this.s, counted = objects.filter(o => o.counted), {taken, hit} = this.found = this.match();
    add(p("What is left are the detections, brought back to the pixels of the file." + (D.objects ? " An object is found if a detection of its class overlaps it by IoU .5 or more." : "")));
    if (D.objects) {
      const n = counted.filter(o => taken[o.i] >= 0).length;
      add(h("p", {}, h("b", {class: n === counted.length ? "good" : "warn"}, n + " of " + count(counted.length, "object") + " found"), ", " + count(s.result.kept.length - hit.size, "detection") + " on no object" +
        (changed(s) ? " at the changed settings; the verdicts below are those of the run." : ".")));
    }
    add(slider("draw from score", this.from, 0, 1, 0.01, v => { this.from = v; this.draw(); }, v => v.toFixed(2)));
    if (D.objects && objects.length) add(h("h3", {}, "The verdict on each object"), table(["object", "verdict"], objects.map(o => ({i: o.i,
      cells: [named(o), [h("b", {class: o.verdict === "found" ? "good" : o.counted ? "bad" : "soft"}, o.title), h("div", {class: "soft"}, o.text)]]})), [], i => this.pick(i)));
    add(h("h3", {}, "Detections"), table(["", "score", "box in the file", D.objects ? "object" : ""], s.result.kept.slice(0, 100).map(i => ({i: 100000 + i, cells: [[dot(rgb(s.c.label[i])), s.classes[s.c.label[i]]], score(s.c.score[i]),
      toOriginal(boxOf(s.c, i)).map(v => v.toFixed(0)).join(", "), D.objects ? (hit.has(i) ? named(objects[hit.get(i)]) : "–") : ""]})), [1], i => this.pick(i)));
    if (s.result.kept.length > 100) add(h("p", {class: "soft"}, "The first 100 of " + s.result.kept.length + "."));
  }
  draw() {
    backdrop(0.15);
    const s = this.s, pick = state.pick, one = pick !== null && pick >= 100000 ? pick - 100000 : null;
    for (let k = s.result.kept.length - 1; k >= 0; k--) {
      const i = s.result.kept[k];
      if (s.c.score[i] >= this.from && (one === null || one === i)) rect(boxOf(s.c, i), rgb(s.c.label[i]), {width: 2, hit: 100000 + i, alpha: pick !== null && one === null ? 0.35 : 1,
        text: pick === null || one === i ? s.classes[s.c.label[i]] + " " + score(s.c.score[i]) : null});
    }
    if (one !== null && s.c.score[one] < this.from) rect(boxOf(s.c, one), rgb(s.c.label[one]), {width: 2, text: s.classes[s.c.label[one]] + " " + score(s.c.score[one])});
    for (const o of objects) if (pick === null || pick === o.i || one !== null) rect(o.net, !o.counted ? "#9fb0bf" : this.found.taken[o.i] >= 0 ? FOUND : LOST, {dash: [6, 4], width: pick === o.i ? 3 : 1.8, hit: o.i, text: pick === o.i ? named(o) : null});
    if (pick !== null && one === null && objects[pick] && this.found.taken[pick] >= 0) { const i = this.found.taken[pick]; rect(boxOf(s.c, i), rgb(s.c.label[i]), {width: 2.5}); }
    say(pick !== null && one === null && objects[pick] ? named(objects[pick]) + ": " + (objects[pick].text || objects[pick].title)
      : objects.length ? "Solid: detections. Dashed green: found objects; dashed red: lost ones." : "Solid: detections.");
  }
}

// -------------------------------------------------------------------------------------------------- the page
D.stages.forEach(prepare);
const first = D.stages[0], last = D.stages[D.stages.length - 1], views = [new ImageView("Image"), new PriorsView(first)];
if (first.match && objects.length) views.push(new MatchView(first, true));
if (first.maps.length) views.push(new ScoresView(first));
if (first !== last) views.push(new NMSView(first, true));
if (D.rois) views.push(new RoIView(last));
if (first !== last && last.match && objects.length) views.push(new MatchView(last, false));
if (D.attention && D.attention.src) views.push(new AttentionView(last));
views.push(new NMSView(last, false), new ResultView(last));
const view = () => views[state.step];

function show(step) {
  state.step = Math.max(0, Math.min(views.length - 1, step));
  state.pick = null;
  panel.replaceChildren(h("h2", {}, view().name));
  [...$("steps").children].forEach((button, i) => {
    if (i === state.step) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
  });
  $("steps").children[state.step].scrollIntoView({block: "nearest", inline: "nearest"});
  view().fill();
  view().draw();
  history.replaceState(null, "", "#" + (state.step + 1));
}
function flip() {
  state.frame = state.frame === "network" ? "original" : "network";
  $("frame").textContent = state.frame === "network" ? "Frame: network" : "Frame: file";
  $("frame").setAttribute("aria-pressed", state.frame === "original");
  view().draw();
}
function next(by) {
  const order = view().order();
  if (!order.length) return;
  const at = order.indexOf(state.pick);
  const i = order[at < 0 ? (by > 0 ? 0 : order.length - 1) : (at + by + order.length) % order.length];
  if (i === state.pick) return;
  const row = panel.querySelector('tr[data-i="' + i + '"]');
  if (row) row.click();
}
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
  const act = {ArrowLeft: () => show(state.step - 1), ArrowRight: () => show(state.step + 1), ArrowUp: () => next(-1), ArrowDown: () => next(1),
    f: flip, F: flip, Escape: () => { state.pick = null; view().draw(); mark(panel); }}[event.key];
  if (act) { event.preventDefault(); act(); }
});
$("title").textContent = D.image;
$("sub").textContent = D.model + " · " + D.detector + " · " + count(D.detections, "detection") + (D.objects ? " · " + objects.filter(o => o.verdict === "found").length + " of " + objects.filter(o => o.counted).length + " objects found" : "");
$("foot").textContent = "Written by foveal. This file contains the photo itself: share it as you would share the photo.";
$("frame").addEventListener("click", flip);
views.forEach((v, i) => $("steps").append(h("button", {type: "button", onclick: () => show(i)}, h("i", {}, String(i + 1)), v.name)));
redraw = () => view().draw();
for (const frame of ["network", "original"]) {
  const image = new Image();
  image.onload = () => { bitmaps[frame] = image; redraw(); };
  image.src = D[frame].src;
}
addEventListener("resize", () => view().draw());
window.inspection = {data: D, stages: D.stages, decide, show, views};
$("frame").textContent = "Frame: network";
show(parseInt(location.hash.slice(1), 10) - 1 || 0);
