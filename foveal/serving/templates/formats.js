"use strict";
/* What the page saves: the JSON of `foveal predict --json`, a table, COCO results with their images, or YOLO files. */
const formats = (() => {
  const cell = value => {
    let text = String(value);
    if (/^[=+\-@\t\r]/.test(text) && typeof value === "string") text = "'" + text;  // a spreadsheet would compute it
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const json = shown => JSON.stringify(shown.map(e => ({image: e.image, width: e.width, height: e.height, detections: e.detections})), null, 1) + "\n";
  const csv = shown => [["image", "label", "score", "x1", "y1", "x2", "y2"].join(","),
    ...shown.flatMap(e => e.detections.map(d => [e.image, d.label, d.score, ...d.box].map(cell).join(",")))].join("\r\n") + "\r\n";
  function coco(shown, classes) {
    const images = shown.map((e, k) => ({id: k + 1, file_name: e.image, width: e.width, height: e.height}));
    const annotations = [];
    shown.forEach((e, k) => e.detections.forEach(d => {
      const [x1, y1, x2, y2] = d.box;
      annotations.push({id: annotations.length + 1, image_id: k + 1, category_id: classes.indexOf(d.label) + 1, bbox: [x1, y1, x2 - x1, y2 - y1], area: (x2 - x1) * (y2 - y1), iscrowd: 0, score: d.score});
    }));
    return JSON.stringify({images, annotations, categories: classes.map((name, k) => ({id: k + 1, name}))}, null, 1) + "\n";
  }
  /* Names of files without folders, each once. */
  function stems(shown) {
    const used = new Set();
    return shown.map(e => {
      const stem = e.image.replace(/\.[^.]*$/, "").replace(/[\\/:\0]/g, "_") || "image";
      let name = stem;
      for (let k = 2; used.has(name.toLowerCase()); k++) name = `${stem}-${k}`;
      used.add(name.toLowerCase());
      return name;
    });
  }
  function yolo(shown, classes) {
    const names = stems(shown);
    const files = shown.map((e, k) => [`labels/${names[k]}.txt`, e.detections.map(d => {
      const [x1, y1, x2, y2] = d.box;
      const numbers = [(x1 + x2) / 2 / e.width, (y1 + y2) / 2 / e.height, (x2 - x1) / e.width, (y2 - y1) / e.height];
      return [classes.indexOf(d.label), ...numbers.map(v => v.toFixed(6))].join(" ");
    }).join("\n") + (e.detections.length ? "\n" : "")]);
    const yaml = "path: .\ntrain: images\nval: images\nnames:\n" + classes.map((name, k) => `  ${k}: ${JSON.stringify(name)}\n`).join("");
    return zip([["data.yaml", yaml], ...files]);
  }
  /* A zip archive without compression. */
  const table = Uint32Array.from({length: 256}, (_, n) => { for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1; return n; });
  const crc32 = data => { let c = ~0; for (const byte of data) c = table[(c ^ byte) & 255] ^ (c >>> 8); return ~c >>> 0; };
  function zip(files) {
    const encoder = new TextEncoder(), parts = [], central = [];
    let at = 0;
    const add = data => { parts.push(data); at += data.length; };
    const header = (size, fields) => {
      const bytes = new DataView(new ArrayBuffer(size));
      let place = 0;
      for (const [width, value] of fields) { width === 4 ? bytes.setUint32(place, value, true) : bytes.setUint16(place, value, true); place += width; }
      return new Uint8Array(bytes.buffer);
    };
    for (const [name, text] of files) {
      const path = encoder.encode(name), data = encoder.encode(text), start = at;
      const common = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 0x21], [4, crc32(data)], [4, data.length], [4, data.length], [2, path.length], [2, 0]];
      add(header(30, [[4, 0x04034b50], ...common])); add(path); add(data);
      central.push(header(46, [[4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, start]]), path);
    }
    const first = at;
    central.forEach(add);
    add(header(22, [[4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, at - first], [4, first], [2, 0]]));
    return new Blob(parts, {type: "application/zip"});
  }
  return {
    json: (shown) => ["detections.json", new Blob([json(shown)], {type: "application/json"})],
    csv: (shown) => ["detections.csv", new Blob([csv(shown)], {type: "text/csv"})],
    coco: (shown, classes) => ["coco.json", new Blob([coco(shown, classes)], {type: "application/json"})],
    yolo: (shown, classes) => ["yolo.zip", yolo(shown, classes)],
  };
})();
