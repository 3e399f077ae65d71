"use strict";
/* The gallery: images in the order of their influence, the detections of the chosen runs beside the objects. */
(() => {
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const root = document.getElementById("gallery");
  if (!root) return;
  const SVG = "http://www.w3.org/2000/svg";
  const letters = n => n < 26 ? String.fromCharCode(65 + n) : letters(Math.floor(n / 26) - 1) + letters(n % 26);
  const state = {list: 0, runs: {}, scores: {}, shown: 12};
  data.runs.forEach((run, k) => { if (!(run.side in state.runs)) state.runs[run.side] = k; });

  function shape(name, attributes, text) {
    const one = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    if (text) one.textContent = text;
    return one;
  }
  function iou(a, b) {
    const w = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), h = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
    if (w <= 0 || h <= 0) return 0;
    const area = box => (box[2] - box[0]) * (box[3] - box[1]);
    return w * h / (area(a) + area(b) - w * h);
  }
  /* Each detection, by falling score, takes the free object of its class that it overlaps most, from an IoU of .5. */
  function match(image, run) {
    const score = state.scores[run], found = new Set(), rows = [];
    for (const d of image.runs[run]) {
      if (d[5] < score) continue;
      let best = -1, most = 0.5, neither = false;
      image.objects.forEach((o, g) => {
        const v = o[4] === d[4] ? iou(o, d) : 0;
        if (v < 0.5) return;
        if (!o[5]) neither = true;
        else if (!found.has(g) && v >= most) { best = g; most = v; }
      });
      if (best >= 0) found.add(best);
      rows.push({d, kind: best >= 0 ? "hit" : neither ? "neither" : "false"});
    }
    return {found, rows, wrong: rows.filter(r => r.kind === "false").length};
  }
  const cutOf = run => state.scores[run] ?? (state.scores[run] = data.runs[run].cut);
  const chosen = () => data.lists[state.list].sides.map(side => state.runs[side]);

  function panel(image, run, mine, other) {
    const svg = shape("svg", {viewBox: `0 0 ${image.w} ${image.h}`, class: "boxes"});
    const unit = Math.max(image.w, image.h) / 320;
    const rect = (b, kind) => shape("rect", {x: b[0], y: b[1], width: Math.max(b[2] - b[0], 0.5), height: Math.max(b[3] - b[1], 0.5), class: kind});
    image.objects.forEach((o, g) => {
      const here = mine.found.has(g), there = other ? other.found.has(g) : here;
      const kind = !o[5] ? "unseen" : here ? (there ? "both" : "only") : "lost";
      svg.append(rect(o, "object under"));
      const box = rect(o, "object " + kind);
      box.append(shape("title", {}, `${data.classes[o[4]]}: ${o[5] ? here ? "found" : "not found" : "does not count"}`));
      svg.append(box);
    });
    for (const row of mine.rows) {
      const d = row.d, box = rect(d, "found " + row.kind);
      const text = `${data.classes[d[4]]} ${d[5].toFixed(2)}`;
      box.append(shape("title", {}, `${text}: ${{hit: "finds an object", false: "false alarm", neither: "neither hit nor false alarm"}[row.kind]}`));
      svg.append(box);
      if (row.kind === "false") {
        const high = d[1] > 12 * unit ? d[1] - 2 * unit : Math.min(d[3] + 10 * unit, image.h - 2);
        svg.append(shape("text", {x: Math.min(Math.max(d[0], 1), image.w - 6 * unit * text.length), y: high, "font-size": 10 * unit, class: "word"}, text));
      }
    }
    const photo = image.src ? node("img", {src: image.src, alt: ""}) : node("p", {class: "gone"}, "The image could not be read.");
    const ratio = node("div", {class: "photo", style: `aspect-ratio: ${image.w} / ${image.h}`}, photo, svg);
    const total = image.objects.filter(o => o[5]).length;
    const side = data.runs[run].side;
    const said = `${mine.found.size} of ${total} found, ${mine.wrong} false`;
    const name = data.lists[state.list].sides.length > 1 ? `${letters(side)}: ` : "";
    return node("div", {class: `panel s${side % 8}`}, ratio, node("p", {}, node("b", {}, name + said)));
  }

  function card(list, k) {
    const image = data.images[list.order[k]], runs = chosen();
    const found = runs.map(run => match(image, run));
    const value = list.influence[k], two = runs.length > 1;
    const count = (a, b) => [...a.found].filter(g => !b.found.has(g)).length;
    let text = `${value > 0 ? "+" : ""}${value.toFixed(4)}`;
    if (two) text += value === 0 ? "" : ` in favor of ${letters(list.sides[value > 0 ? 1 : 0])}`;
    const what = two ? `only ${letters(list.sides[0])} finds ${count(found[0], found[1])}, only ${letters(list.sides[1])} ${count(found[1], found[0])}` : "";
    const button = node("button", {type: "button", "aria-label": `Enlarge ${image.name}`, title: "Enlarge or reduce"}, "⤢");
    const one = node("article", {class: "card", tabindex: "-1"},
      node("header", {}, node("div", {}, node("h3", {}, image.name), node("p", {class: "soft"}, [text, what].filter(Boolean).join(" · "))), button),
      node("div", {class: two ? "panels two" : "panels"}, ...runs.map((run, s) => panel(image, run, found[s], two ? found[1 - s] : null))));
    button.onclick = () => { one.classList.toggle("large"); button.focus(); };
    if (list.commands[k]) one.append(node("details", {}, node("summary", {}, "Look inside"), node("code", {}, list.commands[k])));
    return one;
  }

  function draw() {
    const list = data.lists[state.list], cards = root.querySelector(".cards");
    chosen().forEach(cutOf);
    const large = [...cards.children].map(c => c.classList.contains("large"));
    const count = Math.min(state.shown, list.order.length);
    cards.replaceChildren(...Array.from({length: count}, (_, k) => {
      const one = card(list, k);
      if (large[k]) one.classList.add("large");
      return one;
    }));
    root.querySelector(".more").hidden = count >= list.order.length;
    root.querySelector(".none").hidden = list.order.length > 0;
  }

  function controls() {
    const bar = root.querySelector(".controls"), list = data.lists[state.list];
    const parts = [];
    const option = (k, text, on) => { const o = node("option", {value: k}, text); o.selected = on; return o; };
    if (data.lists.length > 1) {
      const choice = node("select", {id: "pair"}, ...data.lists.map((l, k) => option(k, l.name, k === state.list)));
      choice.onchange = () => { state.list = +choice.value; state.shown = 12; controls(); draw(); document.getElementById("pair").focus(); };
      parts.push(node("label", {}, "Pair ", choice));
    }
    for (const side of list.sides) {
      const runs = data.runs.map((r, k) => [r, k]).filter(([r]) => r.side === side);
      const run = state.runs[side], name = list.sides.length > 1 ? letters(side) : "Detections";
      if (runs.length > 1) {
        const choice = node("select", {id: `run-${side}`}, ...runs.map(([r, k]) => option(k, r.label, k === run)));
        choice.onchange = () => { state.runs[side] = +choice.value; controls(); draw(); document.getElementById(`run-${side}`).focus(); };
        parts.push(node("label", {}, `Run of ${letters(side)} `, choice));
      }
      const output = node("output", {}, cutOf(run).toFixed(2));
      const slider = node("input", {type: "range", min: "0.01", max: "1", step: "0.01", value: cutOf(run), "aria-label": `Score threshold ${name}`});
      slider.oninput = () => { state.scores[run] = +slider.value; output.textContent = (+slider.value).toFixed(2); draw(); };
      parts.push(node("label", {class: `score s${side % 8}`}, node("b", {}, name), " score from ", slider, output));
    }
    bar.replaceChildren(...parts);
  }
  root.querySelector(".more").onclick = () => { state.shown += 12; draw(); };
  controls();
  draw();
  window.gallery = {data, state, match, draw};
})();
