"use strict";
/* The page of `foveal serve`: photos go to /predict one after the other with every score; threshold and classes act here. */
(() => {
  const $ = id => document.getElementById(id);
  const state = {models: [], classes: [], photos: [], off: new Set(), score: 0.5, key: "", queue: [], running: 0, done: 0, stream: null};
  const AT_ONCE = 2, LOWEST = 0.01;
  const hue = label => (state.classes.indexOf(label) * 137.5 + 150) % 360;
  const color = label => `hsl(${hue(label).toFixed(0)} 85% 55%)`;
  const ink = label => hue(label) > 215 && hue(label) < 345 ? "#fff" : "#000";  // blue and violet are dark
  const plain = value => Number(value) ? Number(value).toExponential(1) : "0";
  const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

  /* ------------------------------------------------------------------------------------------ the server */
  const headers = () => state.key ? {Authorization: `Bearer ${state.key}`} : {};
  async function predict(body, model) {
    for (let attempt = 0; ; attempt++) {
      const answer = await fetch(`/predict?${new URLSearchParams({score: LOWEST, model})}`, {method: "POST", body, headers: {...headers(), "Content-Type": "application/octet-stream"}});
      const result = await answer.json();
      if (answer.ok) return result;
      if ((answer.status !== 503 && answer.status !== 429) || attempt >= 5) throw new Error(result.message);
      await sleep(1000 * Number(answer.headers.get("Retry-After") || 1));
    }
  }
  async function begin() {
    $("address").textContent = location.origin;
    const answer = await fetch("/info", {headers: headers()});
    if (answer.status === 401) {
      $("key-error").textContent = state.key ? "This is not the key." : "";
      $("ask").hidden = false;
      $("key").focus();
      return;
    }
    const info = await answer.json();
    $("ask").hidden = true;
    $("work").hidden = $("models").hidden = false;
    state.models = info.models;
    state.classes = info.models[0].classes;
    document.title = `${info.models.map(m => m.name).join(" / ")}: foveal serve`;
    $("title").textContent = info.models.map(m => m.name).join(" and ");
    state.models.forEach((m, k) => $("which").append(node("option", {value: k}, m.name)));
    $("cards").classList.toggle("pairs", state.models.length > 1);
    $("which-row").hidden = state.models.length < 2;
    $("model-cards").replaceChildren(...state.models.map(modelCard));
    classList();
  }
  function modelCard(model) {
    const rows = [["architecture", model.architecture], ["classes", `${model.classes.length}: ${model.classes.slice(0, 12).join(", ")}${model.classes.length > 12 ? ", ..." : ""}`],
      ["runs on", model.runtime], ["input", typeof model.input === "string" ? model.input : inputText(model.input)], ["sha256", model.sha256]];
    const proof = model.proof;
    if (proof) {
      rows.push(["proof", `${proof.proved ? "answers as torch does" : "NOT proved"}: ${proof.matched} of ${proof.boxes} boxes on ${proof.images} images matched`],
        ["furthest apart", `${plain(proof.worst_pixels)} px, ${plain(proof.worst_score)} of score`]);
      if (proof.scores && proof.scores.onnx !== undefined) rows.push(["AP", `${proof.scores.onnx} (torch ${proof.scores.torch})`]);
      if (proof.onnx_ms && proof.onnx_ms.p50 !== undefined) rows.push(["ms an image", `${Number(proof.onnx_ms.p50).toFixed(1)} (torch ${Number(proof.torch_ms.p50).toFixed(1)})`]);
    } else rows.push(["proof", "none: this is the trained detector itself"]);
    return node("article", {class: "card"}, node("h3", {}, model.name), node("dl", {}, ...rows.filter(r => r[1]).flatMap(([a, b]) => [node("dt", {}, a), node("dd", {}, String(b))])));
  }
  function inputText(rule) {
    const size = rule.rule === "Resize" ? `${rule.short} to ${rule.long} px` : rule.height ? `${rule.width} x ${rule.height} px` : "";
    return `${rule.rule} ${size}`.trim();
  }

  /* ------------------------------------------------------------------------------------------ photos */
  function add(files) {
    const images = [...files].filter(f => f.type.startsWith("image/") || /\.(jpe?g|png|webp|bmp|tiff?|gif|avif|jp2|qoi|ppm)$/i.test(f.name));
    if (!images.length) { say(files.length ? "This is no image." : "", true); return; }
    if (!state.queue.length && !state.running) { state.done = 0; state.total = 0; }
    for (const file of images) {
      const photo = {name: file.name || "pasted.png", file, url: URL.createObjectURL(file), results: state.models.map(() => null), error: null};
      photo.card = card(photo);
      state.photos.push(photo);
      state.queue.push(photo);
      state.total++;
      $("cards").append(photo.card);
    }
    $("drop").classList.add("small");
    $("controls").hidden = false;
    pump();
  }
  function pump() {
    while (state.running < AT_ONCE && state.queue.length) {
      const photo = state.queue.shift();
      state.running++;
      detect(photo).finally(() => { state.running--; state.done++; progress(); pump(); });
    }
    progress();
  }
  async function detect(photo) {
    try {
      await Promise.all(state.models.map(async (model, k) => { photo.results[k] = await predict(photo.file, model.name); }));
    } catch (error) { photo.error = error.message; }
    draw(photo);
    counts();
  }
  function progress() {
    const busy = state.running + state.queue.length > 0;
    $("progress").hidden = !busy || state.total < 2;
    $("progress").max = state.total || 1;
    $("progress").value = state.done;
    if (busy) say(`${state.done} of ${state.total} photos`);
    else if (state.total) say(`${state.photos.length} photo${state.photos.length === 1 ? "" : "s"}, ${shown().reduce((n, e) => n + e.detections.length, 0)} objects${state.models.length > 1 ? ` of ${state.models[Number($("which").value)].name}` : ""}${state.photos.some(p => p.error) ? `, ${state.photos.filter(p => p.error).length} not read` : ""}`);
  }
  function say(text, bad) { $("said").textContent = text; $("said").className = bad ? "bad" : "soft"; }

  /* ------------------------------------------------------------------------------------------ drawing */
  const visible = d => d.score >= state.score && !state.off.has(d.label);
  function card(photo) {
    const panels = state.models.map((model, k) => node("div", {class: `panel s${k}`},
      node("div", {class: "photo"}, node("img", {src: photo.url, alt: photo.name, onload: () => draw(photo)}), node("canvas", {})), node("p", {class: "soft"}, "...")));
    const large = node("button", {type: "button", "aria-label": `Enlarge ${photo.name}`, title: "Enlarge or reduce"}, "⤢");
    const gone = node("button", {type: "button", "aria-label": `Remove ${photo.name}`, title: "Remove"}, "✕");
    const one = node("article", {class: "card"}, node("header", {}, node("h3", {}, photo.name), node("span", {class: "buttons"}, large, gone)),
      node("div", {class: panels.length > 1 ? "panels two" : "panels"}, ...panels), node("details", {}, node("summary", {}, "Table"), node("div", {class: "scroll found"})));
    large.onclick = () => { one.classList.toggle("large"); draw(photo); };
    gone.onclick = () => { remove(photo); progress(); counts(); };
    return one;
  }
  function remove(photo) {
    URL.revokeObjectURL(photo.url);
    photo.card.remove();
    state.photos = state.photos.filter(p => p !== photo);
    state.queue = state.queue.filter(p => p !== photo);
  }
  function boxes(canvas, result, shownWidth) {
    const unit = Math.max(1, result.width / Math.max(shownWidth, 200));  // photo pixels of a pixel on the screen
    const ratio = Math.min(2, window.devicePixelRatio || 1) / unit;
    canvas.width = Math.max(1, Math.round(result.width * ratio));
    canvas.height = Math.max(1, Math.round(result.height * ratio));
    const c = canvas.getContext("2d");
    c.scale(canvas.width / result.width, canvas.height / result.height);
    c.font = `600 ${12 * unit}px system-ui, sans-serif`;
    c.textBaseline = "top";
    const kept = result.detections.filter(visible).reverse();  // the best on top
    for (const d of kept) {
      const [x1, y1, x2, y2] = d.box;
      for (const [width, style] of [[4, "rgb(0 0 0 / .55)"], [2, color(d.label)]]) {
        c.lineWidth = width * unit; c.strokeStyle = style; c.strokeRect(x1, y1, x2 - x1, y2 - y1);
      }
    }
    for (const d of kept) {
      const [x1, y1] = d.box, text = shownWidth < 300 ? d.label : `${d.label} ${d.score.toFixed(2)}`;
      const w = c.measureText(text).width + 8 * unit, h = 16 * unit;
      const x = Math.max(0, Math.min(x1, result.width - w)), y = y1 >= h ? y1 - h : Math.min(y1, result.height - h);
      c.fillStyle = color(d.label); c.fillRect(x, y, w, h);
      c.fillStyle = ink(d.label); c.fillText(text, x + 4 * unit, y + 2 * unit);
    }
  }
  function draw(photo) {
    const panels = photo.card.querySelectorAll(".panel"), rows = [];
    state.models.forEach((model, k) => {
      const result = photo.results[k], line = panels[k].querySelector("p");
      const name = state.models.length > 1 ? `${model.name}: ` : "";
      if (!result) { line.replaceChildren(photo.error ? node("span", {class: "bad"}, `${name}${photo.error}`) : `${name}...`); return; }
      boxes(panels[k].querySelector("canvas"), result, panels[k].clientWidth);
      const kept = result.detections.filter(visible);
      line.replaceChildren(node("b", {}, name), `${kept.length} object${kept.length === 1 ? "" : "s"} · ${result.width} x ${result.height} · ${result.ms.toFixed(0)} ms`);
      for (const d of kept) rows.push([...(name ? [model.name] : []), d.label, d.score.toFixed(3), d.box.map(v => v.toFixed(0)).join(" ")]);
    });
    photo.card.querySelector(".found").replaceChildren(node("table", {}, ...rows.map(r => node("tr", {}, ...r.map(v => node("td", {}, v))))));
  }
  const drawAll = () => { state.photos.forEach(draw); progress(); };

  /* ------------------------------------------------------------------------------------------ controls */
  function classList() {
    $("class-list").replaceChildren(
      node("p", {class: "row"}, node("button", {type: "button", onclick: () => toggle([])}, "All"), node("button", {type: "button", onclick: () => toggle(state.classes)}, "None")),
      ...state.classes.map(name => node("label", {}, node("input", {type: "checkbox", value: name, checked: "", onchange: e => { e.target.checked ? state.off.delete(name) : state.off.add(name); classesChanged(); }}),
        node("i", {class: "dot", style: null}), node("span", {}, name), node("i", {}, ""))));
    $("class-list").querySelectorAll(".dot").forEach((dot, k) => { dot.style.background = color(state.classes[k]); dot.style.margin = "0"; });
  }
  function toggle(off) { state.off = new Set(off); $("class-list").querySelectorAll("input").forEach(i => { i.checked = !state.off.has(i.value); }); classesChanged(); }
  function classesChanged() { $("classes-text").textContent = state.off.size ? `${state.classes.length - state.off.size} of ${state.classes.length}` : "all"; drawAll(); }
  function counts() {
    const seen = {};
    for (const photo of state.photos) for (const r of photo.results) for (const d of r ? r.detections : []) if (d.score >= state.score) seen[d.label] = (seen[d.label] || 0) + 1;
    $("class-list").querySelectorAll("label").forEach((l, k) => { l.lastChild.textContent = seen[state.classes[k]] || ""; });
  }
  function setScore(value) {
    state.score = Math.min(1, Math.max(LOWEST, value));
    $("score").value = state.score;
    $("score-text").textContent = state.score.toFixed(2);
    drawAll(); counts();
  }
  function shown() {
    const k = Number($("which").value || 0);
    return state.photos.filter(p => p.results[k]).map(p => ({image: p.name, width: p.results[k].width, height: p.results[k].height, detections: p.results[k].detections.filter(visible)}));
  }
  function save() {
    const [name, blob] = formats[$("format").value](shown(), state.classes);
    const link = node("a", {href: URL.createObjectURL(blob), download: name});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  /* ------------------------------------------------------------------------------------------ camera */
  async function camera() {
    if (!navigator.mediaDevices) { say("A camera needs https, or this page on localhost: start foveal serve with --cert and --cert-key.", true); return; }
    try { state.stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 640}, facingMode: "environment"}}); }
    catch (error) { say(`No camera: ${error.message}`, true); return; }
    const video = $("video");
    video.srcObject = state.stream;
    await video.play();
    $("live").hidden = false;
    $("controls").hidden = false;
    const canvas = document.createElement("canvas"), times = [];
    while (state.stream) {
      try {
        const result = await predict(await frame(canvas, 0.85), state.models[0].name);
        boxes($("live-boxes"), result, video.clientWidth);
        state.live = result;
        times.push(performance.now());
        while (times.length > 10) times.shift();
        if (times.length > 1) $("rate").textContent = `${(1000 * (times.length - 1) / (times.at(-1) - times[0])).toFixed(1)} pictures/s, ${result.detections.filter(visible).length} objects`;
      } catch (error) { say(error.message, true); await sleep(1000); }
    }
  }
  function frame(canvas, quality) {
    const video = $("video");
    canvas.width = video.videoWidth; canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    return new Promise(resolve => canvas.toBlob(resolve, "image/jpeg", quality));
  }
  function stop() { state.stream?.getTracks().forEach(t => t.stop()); state.stream = null; $("live").hidden = true; }

  /* ------------------------------------------------------------------------------------------ events */
  $("key-form").onsubmit = e => { e.preventDefault(); state.key = $("key").value; begin(); };
  $("choose").onclick = e => { e.stopPropagation(); $("files").click(); };
  $("camera").onclick = e => { e.stopPropagation(); state.stream ? stop() : camera(); };
  $("stop").onclick = stop;
  $("snap").onclick = async () => { const blob = await frame(document.createElement("canvas"), 0.92); add([new File([blob], `camera-${state.photos.length + 1}.jpg`, {type: "image/jpeg"})]); };
  $("drop").onclick = () => $("files").click();
  $("drop").onkeydown = e => { if (e.target === $("drop") && (e.key === "Enter" || e.key === " ")) { e.preventDefault(); $("files").click(); } };
  $("files").onclick = e => e.stopPropagation();
  $("files").onchange = () => { add($("files").files); $("files").value = ""; };
  addEventListener("dragover", e => { e.preventDefault(); $("drop").classList.add("over"); });
  addEventListener("dragleave", () => $("drop").classList.remove("over"));
  addEventListener("drop", e => { e.preventDefault(); $("drop").classList.remove("over"); add(e.dataTransfer.files); });
  addEventListener("paste", e => { if (e.clipboardData.files.length) add(e.clipboardData.files); });
  $("score").oninput = () => setScore(Number($("score").value));
  $("which").onchange = progress;
  $("save").onclick = save;
  $("clear").onclick = () => { [...state.photos].forEach(remove); state.total = 0; say(""); counts(); };
  addEventListener("keydown", e => {
    if (/^(input|select|textarea)$/i.test(e.target.tagName) || e.ctrlKey || e.metaKey || e.altKey || $("work").hidden) return;
    if (e.key === "o") $("files").click();
    else if (e.key === "s" && state.photos.length) save();
    else if (e.key === "ArrowLeft") setScore(state.score - 0.05);
    else if (e.key === "ArrowRight") setScore(state.score + 0.05);
  });
  addEventListener("click", e => { if (!$("classes").contains(e.target)) $("classes").open = false; });
  let resizing = 0;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(drawAll, 100); });
  window.page = {state, add, setScore, shown};
  begin();
})();
