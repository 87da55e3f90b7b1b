// SPDX-License-Identifier: Apache-2.0
// Scroll viewer of one CT and its vertebrae: three planes on one WebGL 2 canvas drawn by NiiVue, marks and keys by this file.
"use strict";
(() => {
  // h, v, d: axes (0 R, 1 A, 2 S) along the width, the height and the depth of a plane; the patient's right and front lie on the left.
  const PLANES = {
    sagittal: { type: 2, h: 1, v: 2, d: 0, ends: ["A", "P", "S", "I"], letters: "LR" },
    coronal: { type: 1, h: 0, v: 2, d: 1, ends: ["R", "L", "S", "I"], letters: "PA" },
    axial: { type: 0, h: 0, v: 1, d: 2, ends: ["R", "L", "A", "P"], letters: "IS" },
  };
  const CLOSE_MM = 130; // height of the field of view after a jump to a vertebra
  const NARROW = 700; // px: one plane at a time below
  const LABEL_MM = 14; // levels are written for vertebrae whose centre is this close to the plane
  const WHEEL = 50; // of wheel movement per slice

  const bytes = (base64) => Uint8Array.from(atob(base64.trim()), (c) => c.charCodeAt(0));
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
  // "L 4.0" in the coordinates of the scan, as in the titles of the pictures.
  const position = (axis, mm) => `${["RL", "AP", "SI"][axis][mm > -0.05 ? 0 : 1]} ${Math.abs(mm).toFixed(1)}`;

  // Inverse of viewer_volume.encode_hu: gzip, high and low bytes apart, zigzag differences, steps of several HU.
  function decodeHu(base64, count, step) {
    const raw = niivue.gunzipSync(bytes(base64));
    const hu = new Int16Array(count);
    let value = 0;
    for (let n = 0; n < count; n++) {
      const z = raw[n] | (raw[n + count] << 8);
      value += (z >>> 1) ^ -(z & 1);
      hu[n] = value * step;
    }
    return hu;
  }

  // NIfTI-1 file in memory, along R, A, S, with its first voxel at the origin: oblique scans are drawn upright on their own grid.
  function nifti(shape, spacing, data, code, intent) {
    const file = new ArrayBuffer(352 + data.byteLength);
    const header = new DataView(file);
    header.setInt32(0, 348, true);
    [3, ...shape, 1, 1, 1, 1].forEach((n, i) => header.setInt16(40 + 2 * i, n, true));
    header.setInt16(68, intent, true);
    header.setInt16(70, code, true);
    header.setInt16(72, data.BYTES_PER_ELEMENT * 8, true);
    [1, ...spacing, 0, 0, 0, 0].forEach((d, i) => header.setFloat32(76 + 4 * i, d, true));
    header.setFloat32(108, 352, true);
    header.setFloat32(112, 1, true);
    header.setUint8(123, 2);
    header.setInt16(254, 2, true);
    spacing.forEach((d, i) => header.setFloat32(280 + 20 * i, d, true));
    [0x6e, 0x2b, 0x31, 0].forEach((c, i) => header.setUint8(344 + i, c));
    new Uint8Array(file, 352).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return file;
  }

  class Viewer {
    constructor(root) {
      this.root = root;
      this.find = (selector) => root.querySelector(selector);
      this.meta = JSON.parse(this.find(".viewer-meta").textContent);
      this.stage = this.find(".stage");
      this.canvas = this.find("canvas.pixels");
      this.marks = this.find("canvas.marks");
      const centres = this.meta.vertebrae.filter((v) => v.centre);
      const first = centres.find((v) => v.fractured) || centres[centres.length >> 1];
      this.cross = this.meta.shape.map((n, axis) => (first ? clamp(Math.round(first.centre[axis]), 0, n - 1) : n >> 1));
      this.pan = this.cross.slice();
      this.zoom = 0; // px per mm; 0 fits the whole volume
      this.plane = "all";
      this.hovered = "sagittal";
      this.mask = true;
      this.selected = 0;
      this.wheel = 0;
      this.pointers = new Map();
      this.hover = false;
    }

    async start() {
      const { shape, spacing, step } = this.meta;
      this.stage.parentElement.classList.toggle("single", !this.find(".list"));
      const count = shape[0] * shape[1] * shape[2];
      this.hu = decodeHu(this.find(".viewer-hu").textContent, count, step);
      this.labels = niivue.gunzipSync(bytes(this.find(".viewer-labels").textContent));
      const nv = new niivue.Niivue({
        interactive: false, dragAndDropEnabled: false, isOrientationTextVisible: false, crosshairWidth: 0, logLevel: "error",
        isRadiologicalConvention: true, sagittalNoseLeft: true, backColor: [0, 0, 0, 1], loadingText: "", isColorbar: false,
        multiplanarShowRender: niivue.SHOW_RENDER.NEVER, showLegend: false, trustCalMinMax: false,
      });
      await nv.attachToCanvas(this.canvas, false);
      // A tile shows the part of the plane that fits its own shape; NiiVue would fit the tile to the shape of the volume.
      nv.calculateWidthHeight = (type, scale, width, height) => [width, height];
      const original = nv.screenFieldOfViewExtendedVox.bind(nv);
      nv.screenFieldOfViewExtendedVox = (type) => {
        const field = original(type);
        const tile = this.tiles().find((t) => t.type === type);
        if (!tile) return field;
        [[tile.h, tile.width], [tile.v, tile.height]].forEach(([axis, size], i) => {
          field.mnMM[i] = tile.centre[axis] - size / tile.scale / 2;
          field.mxMM[i] = tile.centre[axis] + size / tile.scale / 2;
          field.fovMM[i] = size / tile.scale;
        });
        return field;
      };
      this.nv = nv;
      this.arrange();
      await nv.loadFromArrayBuffer(nifti(shape, spacing, this.hu, 4, 0), "scan.nii");
      await nv.loadFromArrayBuffer(nifti(shape, spacing, this.labels, 2, 1002), "vertebrae.nii");
      this.colourMask();
      this.window(this.meta.windows[0]);
      this.bind();
      new ResizeObserver(() => this.layout()).observe(this.stage);
      this.layout();
      this.root.dataset.ready = "true";
    }

    get shown() {
      if (this.plane !== "all") return [this.plane];
      return this.stage.clientWidth < NARROW ? ["sagittal"] : ["sagittal", "coronal", "axial"];
    }

    // Tiles in CSS pixels with their scale (px/mm) and centre (mm).
    tiles() {
      const { shape, spacing } = this.meta;
      const names = this.shown;
      const total = this.stage.clientWidth;
      const height = this.stage.clientHeight;
      const gap = 2;
      const width = (total - gap * (names.length - 1)) / names.length;
      return names.map((name, n) => {
        const plane = PLANES[name];
        const size = (axis) => shape[axis] * spacing[axis];
        const scale = Math.max(Math.min(width / size(plane.h), height / size(plane.v)), this.zoom);
        const centre = shape.map((count, axis) => {
          const seen = (axis === plane.h ? width : height) / scale;
          const low = -0.5 * spacing[axis], high = (count - 0.5) * spacing[axis];
          if (seen >= high - low) return (low + high) / 2;
          return clamp(this.pan[axis] * spacing[axis], low + seen / 2, high - seen / 2);
        });
        return { ...plane, name, left: n * (width + gap), top: 0, width, height, scale, centre };
      });
    }

    arrange() {
      const width = this.stage.clientWidth, height = this.stage.clientHeight;
      this.nv.customLayout = this.tiles().map((t) => ({
        sliceType: t.type, position: [t.left / width, t.top / height, t.width / width, t.height / height],
      }));
    }

    layout() {
      const tiles = this.tiles();
      const width = this.stage.clientWidth, height = this.stage.clientHeight;
      if (!width || !height) return;
      this.arrange();
      const pressed = tiles.length > 1 ? "all" : tiles[0].name;
      this.root.querySelectorAll("[data-plane]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.plane === pressed)));
      const ratio = window.devicePixelRatio || 1;
      this.marks.width = Math.round(width * ratio);
      this.marks.height = Math.round(height * ratio);
      this.root.querySelectorAll("[data-slice]").forEach((label) => {
        label.hidden = !tiles.some((t) => t.name === label.dataset.slice);
      });
      this.draw();
    }

    draw() {
      const { shape, spacing, affine } = this.meta;
      // The view follows the crosshair, which stays in the middle four fifths of every tile.
      for (const t of this.tiles()) {
        for (const [axis, size] of [[t.h, t.width], [t.v, t.height]]) {
          const half = (0.4 * size) / t.scale / spacing[axis];
          this.pan[axis] = clamp(this.pan[axis], this.cross[axis] - half, this.cross[axis] + half);
        }
      }
      this.nv.scene.crosshairPos = this.cross.map((x, axis) => (x + 0.5) / shape[axis]);
      this.nv.drawScene();
      this.drawMarks();
      const [i, j, k] = this.cross;
      const at = i + shape[0] * (j + shape[1] * k);
      const world = [0, 1, 2].map((r) => affine[r][0] * i + affine[r][1] * j + affine[r][2] * k + affine[r][3]);
      const vertebra = this.meta.vertebrae.find((v) => v.number === this.labels[at]);
      this.find(".readout").textContent =
        `${[0, 1, 2].map((axis) => position(axis, world[axis])).join("  ")} mm \u00b7 ${String(this.hu[at]).replace("-", "\u2212")} HU` +
        (vertebra ? ` \u00b7 ${vertebra.text}` : "");
      this.root.querySelectorAll("[data-slice]").forEach((label) => {
        const { d } = PLANES[label.dataset.slice];
        label.querySelector("input").value = this.cross[d];
        label.querySelector("output").textContent = `${this.cross[d] + 1}/${shape[d]}`;
      });
      this.root.dataset.cross = this.cross.join(",");
      this.root.dataset.mask = this.mask ? "on" : "off";
    }

    drawMarks() {
      const { spacing, shape, affine } = this.meta;
      const pen = this.marks.getContext("2d");
      const ratio = window.devicePixelRatio || 1;
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, this.stage.clientWidth, this.stage.clientHeight);
      const write = (text, x, y, align, colour, size = 12) => {
        pen.font = `600 ${size}px system-ui, sans-serif`;
        pen.textAlign = align;
        pen.textBaseline = "middle";
        pen.lineWidth = 3;
        pen.strokeStyle = "rgba(0,0,0,.85)";
        pen.strokeText(text, x, y);
        pen.fillStyle = colour;
        pen.fillText(text, x, y);
      };
      for (const t of this.tiles()) {
        const x = (mm) => t.left + t.width / 2 - (mm - t.centre[t.h]) * t.scale;
        const y = (mm) => t.top + t.height / 2 - (mm - t.centre[t.v]) * t.scale;
        const cx = x(this.cross[t.h] * spacing[t.h]), cy = y(this.cross[t.v] * spacing[t.v]);
        pen.save();
        pen.beginPath();
        pen.rect(t.left, t.top, t.width, t.height);
        pen.clip();
        pen.strokeStyle = "rgba(255,255,255,.55)";
        pen.lineWidth = 1;
        pen.beginPath();
        for (const [x0, y0, x1, y1] of [
          [t.left, cy, cx - 14, cy], [cx + 14, cy, t.left + t.width, cy], [cx, t.top, cx, cy - 14], [cx, cy + 14, cx, t.top + t.height],
        ]) {
          pen.moveTo(x0, y0);
          pen.lineTo(x1, y1);
        }
        pen.stroke();
        if (this.mask && t.name !== "axial") {
          let last = -100;
          for (const v of this.meta.vertebrae) {
            if (!v.centre || Math.abs(v.centre[t.d] - this.cross[t.d]) * spacing[t.d] > LABEL_MM) continue;
            const py = y(v.centre[t.v] * spacing[t.v]);
            if (py < t.top + 18 || py > t.top + t.height - 18 || py - last < 13) continue;
            last = py;
            const name = (v.fractured ? "\u25b2 " : "") + v.short;
            write(name, t.left + t.width - 8, py, "right", v.number === this.selected ? "#ffffff" : v.colour, v.number === this.selected ? 15 : 12);
          }
        }
        const chosen = this.meta.vertebrae.find((v) => v.number === this.selected && v.box);
        if (chosen && this.cross[t.d] >= chosen.box[0][t.d] && this.cross[t.d] <= chosen.box[1][t.d]) {
          const [right, left] = [0, 1].map((end) => x((chosen.box[end][t.h] + (end ? 1.5 : -1.5)) * spacing[t.h]));
          const [low, high] = [0, 1].map((end) => y((chosen.box[end][t.v] + (end ? 1.5 : -1.5)) * spacing[t.v]));
          this.brackets(pen, left, high, right, low);
        }
        const [left, right, top, bottom] = t.ends;
        write(left, t.left + 10, t.top + t.height / 2, "left", "#c9d1d9");
        // In the other planes the names of the vertebrae stand at the right edge.
        write(right, t.left + t.width - 10, t.top + (t.name === "axial" ? t.height / 2 : 14), "right", "#c9d1d9");
        write(top, t.left + t.width / 2, t.top + 30, "center", "#c9d1d9");
        write(bottom, t.left + t.width / 2, t.top + t.height - 12, "center", "#c9d1d9");
        const middle = shape.map((n) => (n - 1) / 2);
        middle[t.d] = this.cross[t.d];
        const mm = affine[t.d].reduce((sum, a, n) => sum + a * (n < 3 ? middle[n] : 1), 0);
        write(`${t.name}, ${position(t.d, mm)} mm`, t.left + 10, t.top + 14, "left", "#ffffff");
        const bar = [50, 20].find((length) => t.scale * length < t.width * 0.4) || 10;
        pen.fillStyle = "#ffffff";
        pen.fillRect(t.left + 10, t.top + t.height - 14, bar * t.scale, 3);
        write(`${bar / 10} cm`, t.left + 10, t.top + t.height - 24, "left", "#ffffff", 11);
        pen.restore();
      }
    }

    // Corners of a rectangle around the selected vertebra; they hide none of it.
    brackets(pen, x0, y0, x1, y1) {
      const size = Math.min(14, (x1 - x0) / 4, (y1 - y0) / 4);
      pen.beginPath();
      for (const [x, y, dx, dy] of [[x0, y0, size, size], [x1, y0, -size, size], [x0, y1, size, -size], [x1, y1, -size, -size]]) {
        pen.moveTo(x + dx, y);
        pen.lineTo(x, y);
        pen.lineTo(x, y + dy);
      }
      for (const [colour, width] of [["rgba(0,0,0,.8)", 4.5], ["#ffffff", 2]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = width;
        pen.stroke();
      }
    }

    colourMask() {
      const table = { R: [0], G: [0], B: [0], A: [0], I: [0] };
      for (const v of this.meta.vertebrae) {
        const [r, g, b] = [1, 3, 5].map((n) => parseInt(v.colour.slice(n, n + 2), 16));
        table.R.push(r);
        table.G.push(g);
        table.B.push(b);
        table.A.push(255);
        table.I.push(v.number);
      }
      this.nv.volumes[1].setColormapLabel(table);
      this.opacity();
    }

    opacity() {
      const value = this.mask ? Number(this.find("[name=opacity]").value) : 0;
      this.nv.opts.atlasOutline = this.mask ? 0.95 : 0;
      this.nv.setOpacity(1, value);
    }

    window({ key, low, high }) {
      this.low = low;
      this.high = high;
      const scan = this.nv.volumes[0];
      scan.cal_min = low;
      scan.cal_max = high;
      this.nv.updateGLVolume();
      this.root.querySelectorAll("[data-window]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.window === key)));
      this.find(".levels").textContent = `W ${Math.round(high - low)} L ${Math.round((high + low) / 2)}`;
    }

    toggle() {
      this.mask = !this.mask;
      this.find("[data-action=mask]").setAttribute("aria-pressed", String(this.mask));
      this.opacity();
      this.draw();
    }

    show(plane) {
      this.plane = plane;
      this.layout();
    }

    move(axis, steps) {
      this.cross[axis] = clamp(this.cross[axis] + steps, 0, this.meta.shape[axis] - 1);
      this.draw();
    }

    scale(factor) {
      const now = Math.max(this.zoom, Math.min(...this.tiles().map((t) => t.scale)));
      this.zoom = clamp(now * factor, 0.2, 20);
      this.draw();
    }

    fit() {
      this.zoom = 0;
      this.draw();
    }

    jump(number) {
      const vertebra = this.meta.vertebrae.find((v) => v.number === number);
      this.selected = vertebra ? number : 0;
      this.root.querySelectorAll("[data-jump]").forEach((b) => {
        const chosen = Number(b.dataset.jump) === this.selected;
        b.setAttribute("aria-pressed", String(chosen));
        if (chosen) b.parentElement.scrollTop = b.offsetTop - b.parentElement.clientHeight / 2;
      });
      this.opacity();
      if (vertebra && vertebra.centre) {
        this.cross = vertebra.centre.map((x, axis) => clamp(Math.round(x), 0, this.meta.shape[axis] - 1));
        this.pan = this.cross.slice();
        this.zoom = Math.max(this.zoom, this.stage.clientHeight / CLOSE_MM);
      }
      this.draw();
    }

    neighbour(step) {
      const numbers = this.meta.vertebrae.map((v) => v.number);
      if (!numbers.length) return;
      const at = numbers.indexOf(this.selected);
      const next = at < 0 ? (step > 0 ? 0 : numbers.length - 1) : clamp(at + step, 0, numbers.length - 1);
      this.choose(numbers[next]);
    }

    // The table of the page and the viewer select the same vertebra.
    choose(number) {
      document.dispatchEvent(new CustomEvent("vertebra", { detail: { scan: this.root.dataset.scan, number } }));
    }

    tileAt(event) {
      const box = this.stage.getBoundingClientRect();
      const x = event.clientX - box.left, y = event.clientY - box.top;
      const tile = this.tiles().find((t) => x >= t.left && x < t.left + t.width);
      return tile ? { tile, x, y } : null;
    }

    point(event) {
      const at = this.tileAt(event);
      if (!at) return;
      const { spacing, shape } = this.meta;
      const { tile, x, y } = at;
      const mm = [];
      mm[tile.h] = tile.centre[tile.h] - (x - tile.left - tile.width / 2) / tile.scale;
      mm[tile.v] = tile.centre[tile.v] - (y - tile.top - tile.height / 2) / tile.scale;
      for (const axis of [tile.h, tile.v]) this.cross[axis] = clamp(Math.round(mm[axis] / spacing[axis]), 0, shape[axis] - 1);
      this.hovered = tile.name;
      this.draw();
    }

    bind() {
      const click = (selector, action) => this.root.querySelectorAll(selector).forEach((b) => b.addEventListener("click", () => action(b)));
      click("[data-window]", (b) => this.window(this.meta.windows.find((w) => w.key === b.dataset.window)));
      click("[data-plane]", (b) => this.show(b.dataset.plane));
      click("[data-jump]", (b) => this.choose(Number(b.dataset.jump)));
      click("[data-action=mask]", () => this.toggle());
      click("[data-action=fit]", () => this.fit());
      click("[data-action=closer]", () => this.scale(1.25));
      click("[data-action=wider]", () => this.scale(0.8));
      this.find("[name=opacity]").addEventListener("input", () => (this.opacity(), this.draw()));
      this.root.querySelectorAll("[data-slice] input").forEach((input) => {
        const axis = PLANES[input.parentElement.dataset.slice].d;
        input.addEventListener("input", () => this.move(axis, Number(input.value) - this.cross[axis]));
      });
      this.stage.addEventListener("wheel", (e) => this.onWheel(e), { passive: false });
      this.stage.addEventListener("contextmenu", (e) => e.preventDefault());
      this.stage.addEventListener("pointerdown", (e) => this.onDown(e));
      this.stage.addEventListener("pointermove", (e) => this.onMove(e));
      for (const name of ["pointerup", "pointercancel"]) this.stage.addEventListener(name, (e) => this.pointers.delete(e.pointerId));
      this.root.addEventListener("pointerenter", () => (this.hover = true));
      this.root.addEventListener("pointerleave", () => (this.hover = false));
      document.addEventListener("keydown", (e) => this.onKey(e));
      document.addEventListener("vertebra", (e) => e.detail.scan === this.root.dataset.scan && this.jump(e.detail.number));
    }

    onWheel(event) {
      const at = this.tileAt(event);
      if (!at) return;
      event.preventDefault();
      if (event.ctrlKey) return this.scale(event.deltaY < 0 ? 1.1 : 1 / 1.1);
      this.wheel += event.deltaMode ? event.deltaY * 30 : event.deltaY;
      if (Math.abs(this.wheel) < WHEEL) return;
      this.hovered = at.tile.name;
      this.move(at.tile.d, -Math.sign(this.wheel));
      this.wheel = 0;
    }

    onDown(event) {
      this.stage.focus({ preventScroll: true });
      this.stage.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
      if (this.pointers.size === 1 && event.button === 0 && !event.shiftKey) this.point(event);
    }

    onMove(event) {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      const spread = () => {
        const [a, b] = [...this.pointers.values()];
        return Math.hypot(a[0] - b[0], a[1] - b[1]);
      };
      if (this.pointers.size === 2) {
        const old = spread();
        this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
        return this.scale(spread() / Math.max(old, 1));
      }
      const dx = event.clientX - before[0], dy = event.clientY - before[1];
      this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
      if (event.buttons & 2 || event.shiftKey) {
        const width = Math.max(this.high - this.low + dx * 4, 20), level = (this.high + this.low) / 2 + dy * 4;
        this.window({ key: "", low: level - width / 2, high: level + width / 2 });
        return this.draw();
      }
      this.point(event);
    }

    onKey(event) {
      const target = event.target;
      const here = this.root.contains(target) || this.hover;
      if (!here || event.ctrlKey || event.metaKey || event.altKey) return;
      if (target.matches("input, select, textarea, tr") && event.key.startsWith("Arrow")) return;
      const preset = this.meta.windows.find((w) => w.key === event.key);
      const actions = {
        ArrowLeft: () => this.move(0, 1), ArrowRight: () => this.move(0, -1), ArrowUp: () => this.move(2, 1), ArrowDown: () => this.move(2, -1),
        PageUp: () => this.move(1, 1), PageDown: () => this.move(1, -1), m: () => this.toggle(), f: () => this.fit(), n: () => this.neighbour(1),
        p: () => this.neighbour(-1), "+": () => this.scale(1.25), "-": () => this.scale(0.8),
      };
      const action = preset ? () => (this.window(preset), this.draw()) : actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (!action) return;
      event.preventDefault();
      action();
    }
  }

  function supported() {
    try {
      return Boolean(document.createElement("canvas").getContext("webgl2"));
    } catch {
      return false;
    }
  }

  async function start(root) {
    const fail = (text) => {
      root.querySelector(".no-webgl").append(` ${text}`);
      root.dataset.ready = "failed";
    };
    if (!supported()) return fail("This browser offers no WebGL 2.");
    const viewer = new Viewer(root);
    try {
      await viewer.start();
    } catch (error) {
      return fail(`${error.message || error}.`);
    }
    const wanted = /^#vertebra=(\d+)$/.exec(location.hash);
    if (wanted) viewer.choose(Number(wanted[1]));
    root.viewer = viewer;
  }
  document.querySelectorAll(".viewer").forEach((root) => void start(root));
})();
