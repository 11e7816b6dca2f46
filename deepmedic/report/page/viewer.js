"use strict";
// The three planes of a case and what moves them; slices.js draws each one. Text only ever becomes textContent.
(function () {
  const root = document.getElementById("viewer");
  if (!root) return;
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (name) => document.getElementById(name);
  // Axes of a volume: 0 to the right, 1 to anterior, 2 to superior. Up on the screen is anterior or superior; the nose
  // points left on sagittal planes.
  const PLANES = [
    { name: "axial", fixed: 2, across: 0, up: 1 },
    { name: "coronal", fixed: 1, across: 0, up: 2 },
    { name: "sagittal", fixed: 0, across: 1, up: 2 },
  ];
  const SIDES = ["LR", "PA", "IS"];
  const state = {
    index: 0, shown: null, at: [0, 0, 0], hidden: new Set(), channel: 0, layout: "all", overlay: "labels",
    radiological: true, opacity: 0.45, outline: false, crosshair: true, low: 0, high: 255,
  };
  const uncertainty = deepmedicUncertainty(state, data, update);
  const { mirrored, view, greyScale, draw, colourOf, ERRORS } = deepmedicSlices(state, data.colours, uncertainty);
  let pictures = [];

  function className(label) {
    return label < data.classes.length ? data.classes[label] : "class " + label;
  }

  function option(select, value, text) {
    const element = document.createElement("option");
    element.value = value;
    element.textContent = text;
    select.append(element);
  }

  function element(parent, name, kind, text) {
    const made = document.createElement(name);
    made.className = kind;
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  // --- the planes on the page ----------------------------------------------------------------------------------

  function shownPlanes() {
    return state.layout === "all" ? PLANES : [PLANES[Number(state.layout)]];
  }

  function shownRows() {
    const shown = state.shown;
    const rows = [];
    if (shown.labels) rows.push("truth");
    const maps = Object.keys(shown.probabilities).length + uncertainty.kinds(shown).length;
    if (shown.prediction || maps || !shown.labels) rows.push("prediction");
    return rows;
  }

  // Pixels per millimetre: the same for all planes that are shown, as large as the window allows.
  function commonScale(planes, rows) {
    const style = getComputedStyle(byId("planes")), gap = parseFloat(style.columnGap);
    const room = byId("planes").clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 1;
    const sizes = planes.map(view);
    const across = sizes.map((size) => size.width * size.spacing[0]);
    const tallest = Math.max(...sizes.map((size) => size.height * size.spacing[1]));
    const { kind } = arrangement(planes, rows);
    const sum = across.reduce((total, length) => total + length, 0);
    const total = { pile: Math.max(...across), grid: sum, pair: sum * rows.length }[kind];
    const gaps = { pile: 0, grid: planes.length - 1, pair: rows.length - 1 }[kind];
    const height = Math.max(170, (window.innerHeight - 190) / (kind === "grid" ? rows.length : 1) - 12);
    return Math.min((room - gap * gaps) / total, height / tallest);
  }

  function addPicture(container, plane, what) {
    const picture = element(container, "div", "picture");
    const canvas = element(picture, "canvas", "");
    canvas.tabIndex = 0;
    canvas.dataset.plane = plane.name;
    canvas.dataset.what = what;
    canvas.setAttribute("role", "img");
    element(picture, "span", "what", what === "prediction" && !state.shown.prediction ? "image" : what);
    const sides = SIDES[plane.across], ends = mirrored(plane) ? [sides[1], sides[0]] : [sides[0], sides[1]];
    element(picture, "span", "side left", ends[0]);
    element(picture, "span", "side right", ends[1]);
    element(picture, "span", "side top", SIDES[plane.up][1]);
    element(picture, "span", "side bottom", SIDES[plane.up][0]);
    pictures.push({ plane, what, canvas, scale: 1 });
    listen(canvas, plane);
    return picture;
  }

  function addSlider(container, plane) {
    const label = element(container, "label", "slice", "");
    element(label, "span", "", plane.name);
    const slider = element(label, "input", "");
    slider.type = "range";
    slider.min = 0;
    slider.max = state.shown.shape[plane.fixed] - 1;
    slider.dataset.axis = plane.fixed;
    slider.setAttribute("aria-label", plane.name + " slice");
    slider.addEventListener("input", () => move(plane.fixed, Number(slider.value)));
    element(label, "output", "");
    return label;
  }

  // A window that is wide enough has the planes beside each other, truth above prediction; one plane alone has truth
  // beside prediction; in a narrow window everything is below each other.
  function arrangement(planes, rows) {
    const room = byId("planes").clientWidth;
    const kind = planes.length > 1 ? (room < 600 ? "pile" : "grid") : (room < 420 ? "pile" : "pair");
    const across = { pile: 1, grid: planes.length, pair: rows.length }[kind];
    const place = function (made, planeAt, rowAt) {
      const slider = rowAt === rows.length;
      made.style.gridColumn = kind === "pair" ? (slider ? "1 / -1" : String(rowAt + 1)) : kind === "grid" ? String(planeAt + 1) : "1";
      made.style.gridRow = String(kind === "pair" ? (slider ? 2 : 1) : kind === "grid" ? rowAt + 1 : planeAt * (rows.length + 1) + rowAt + 1);
    };
    return { kind, across, place };
  }

  function build() {
    const planes = shownPlanes(), rows = shownRows(), container = byId("planes");
    container.replaceChildren();
    pictures = [];
    const columns = arrangement(planes, rows);
    container.style.gridTemplateColumns = "repeat(" + columns.across + ", auto)";
    for (const [rowAt, what] of rows.entries()) {
      for (const [planeAt, plane] of planes.entries()) {
        const picture = addPicture(container, plane, what);
        columns.place(picture, planeAt, rowAt);
      }
    }
    for (const [planeAt, plane] of planes.entries()) columns.place(addSlider(container, plane), planeAt, rows.length);
    layOut();
  }

  function layOut() {
    if (!state.shown) return;
    const scale = commonScale(shownPlanes(), shownRows());
    for (const picture of pictures) picture.scale = scale;
    update();
  }

  let waitingFrame = 0;
  function update() {
    if (!waitingFrame) waitingFrame = requestAnimationFrame(function () { waitingFrame = 0; paint(); });
  }

  function paint() {
    if (!state.shown) return;
    const grey = greyScale();
    for (const picture of pictures) {
      draw(picture, grey);
      picture.canvas.setAttribute("aria-label", picture.plane.name + " plane, " + picture.what + ", slice "
        + (state.at[picture.plane.fixed] + 1) + " of " + state.shown.shape[picture.plane.fixed]);
    }
    const place = millimetres();
    for (const slider of root.querySelectorAll("input[data-axis]")) {
      const axis = Number(slider.dataset.axis);
      slider.value = state.at[axis];
      slider.nextElementSibling.value = state.at[axis] + 1 + "/" + state.shown.shape[axis] + "  "
        + (place[axis] < 0 ? SIDES[axis][0] : SIDES[axis][1]) + " " + Math.abs(place[axis]).toFixed(1) + " mm";
    }
    describe(place);
    root.dataset.painted = String(Number(root.dataset.painted || 0) + 1);
  }

  function millimetres() {
    return state.shown.affine.slice(0, 3).map((line) => line[3] + line[0] * state.at[0] + line[1] * state.at[1] + line[2] * state.at[2]);
  }

  function describe(place) {
    const shown = state.shown, [nx, ny] = shown.shape;
    const at = state.at[0] + nx * (state.at[1] + ny * state.at[2]);
    const words = ["At " + place.map((value, axis) => (value < 0 ? SIDES[axis][0] : SIDES[axis][1]) + " " + Math.abs(value).toFixed(1)).join(", ") + " mm"];
    for (const channel of shown.channels) {
      const code = channel.data[at];
      const value = code === 0 ? channel.background : channel.low + (code - 1) / 254 * (channel.high - channel.low);
      if (value !== null) words.push(channel.name + " " + Number(value.toPrecision(3)));
    }
    if (shown.labels) words.push("truth: " + className(shown.labels[at]));
    if (shown.prediction) words.push("prediction: " + className(shown.prediction[at]));
    for (const [number, volume] of Object.entries(shown.probabilities)) {
      words.push("p(" + className(Number(number)) + ") " + (volume[at] / 255).toFixed(2));
    }
    words.push(...uncertainty.words(at));
    byId("readout").textContent = words.join(" · ");
  }

  function move(axis, value) {
    state.at[axis] = Math.max(0, Math.min(state.shown.shape[axis] - 1, value));
    update();
  }

  function listen(canvas, plane) {
    const go = function (event) {
      const box = canvas.getBoundingClientRect(), size = view(plane);
      const column = Math.floor((event.clientX - box.left) / box.width * size.width);
      const row = Math.floor((event.clientY - box.top) / box.height * size.height);
      move(plane.across, mirrored(plane) ? size.width - 1 - column : column);
      move(plane.up, size.height - 1 - row);
    };
    canvas.addEventListener("pointerdown", function (event) {
      canvas.setPointerCapture(event.pointerId);
      go(event);
    });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons) go(event); });
    canvas.addEventListener("wheel", function (event) {
      event.preventDefault();
      move(plane.fixed, state.at[plane.fixed] - Math.sign(event.deltaY));
    }, { passive: false });
    canvas.addEventListener("keydown", function (event) {
      const right = mirrored(plane) ? -1 : 1;
      const steps = {
        ArrowLeft: [plane.across, -right], ArrowRight: [plane.across, right], ArrowUp: [plane.up, 1],
        ArrowDown: [plane.up, -1], PageUp: [plane.fixed, 1], PageDown: [plane.fixed, -1],
      };
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      move(step[0], state.at[step[0]] + step[1]);
    });
  }

  // --- choosing what is shown ----------------------------------------------------------------------------------

  // Where there is most to see: the middle of the axial slice with the most voxels of labels or prediction.
  function interesting(shown) {
    const [nx, ny, nz] = shown.shape, middle = [nx >> 1, ny >> 1, nz >> 1];
    const volume = shown.labels || shown.prediction;
    if (!volume) return middle;
    let best = 0, place = middle;
    for (let z = 0; z < nz; z++) {
      let count = 0, sumX = 0, sumY = 0;
      for (let y = 0, at = z * nx * ny; y < ny; y++) {
        for (let x = 0; x < nx; x++, at++) if (volume[at]) { count++; sumX += x; sumY += y; }
      }
      if (count > best) { best = count; place = [Math.round(sumX / count), Math.round(sumY / count), z]; }
    }
    return place;
  }

  function fillControls(shown) {
    const channel = byId("channel"), overlay = byId("overlay"), before = state.overlay;
    channel.replaceChildren();
    shown.channels.forEach((item, index) => option(channel, index, item.name));
    state.channel = Math.min(state.channel, Math.max(0, shown.channels.length - 1));
    channel.value = state.channel;
    overlay.replaceChildren();
    if (shown.prediction) option(overlay, "labels", "labels");
    if (shown.prediction && shown.labels) option(overlay, "errors", "errors");
    for (const number of Object.keys(shown.probabilities)) option(overlay, "class " + number, "probability of " + className(Number(number)));
    if (!overlay.options.length && uncertainty.kinds(shown).length) option(overlay, "labels", "the image alone");
    for (const kind of uncertainty.kinds(shown)) option(overlay, uncertainty.PREFIX + kind, "uncertainty (" + kind + ")");
    const values = Array.from(overlay.options, (item) => item.value);
    state.overlay = values.includes(before) ? before : values[0] || "labels";
    overlay.value = state.overlay;
    const notes = byId("case-notes");
    notes.replaceChildren();
    for (const note of shown.notes) element(notes, "li", "", note);
    if (shown.stored.oblique >= 1) {
      element(notes, "li", "", "The image is oblique: its axes differ from the patient's by up to " + shown.stored.oblique + " degrees; it is shown along its own axes.");
    }
    legend(shown);
  }

  function legend(shown) {
    uncertainty.legend();
    const box = byId("legend");
    box.replaceChildren();
    const entry = function (colour, text, label) {
      const line = element(box, "label", "");
      if (label !== undefined) {
        const check = element(line, "input", "");
        check.type = "checkbox";
        check.checked = !state.hidden.has(label);
        check.addEventListener("change", function () {
          state.hidden[check.checked ? "delete" : "add"](label);
          update();
        });
      }
      element(line, "span", "swatch").style.background = "rgb(" + colour.join(",") + ")";
      element(line, "span", "", text);
    };
    const present = new Set();
    for (const volume of [shown.labels, shown.prediction]) if (volume) for (const label of volume) present.add(label);
    const labels = Array.from(present).filter((label) => label > 0).sort((a, b) => a - b);
    for (const label of labels) entry(colourOf(label), className(label), label);
    if (state.overlay === "errors") {
      entry(ERRORS.missed, "errors: missed");
      entry(ERRORS.surplus, "errors: not in the truth");
      entry(ERRORS.wrong, "errors: another class");
    }
  }

  async function choose(index) {
    state.index = (index + data.cases.length) % data.cases.length;
    const item = data.cases[state.index];
    byId("case").value = state.index;
    byId("status").textContent = "Loading " + item.name + " …";
    try {
      const shown = await deepmedicVolumes.load(state.index, item.file);
      if (data.cases[state.index] !== item) return;  // another one was chosen meanwhile
      state.shown = shown;
      state.at = interesting(shown);
      byId("status").textContent = "";
      fillControls(shown);
      if (shown.shape[0] > 0) build();
      else byId("planes").replaceChildren();
      root.dataset.loaded = String(state.index);
    } catch (problem) {
      state.shown = null;
      byId("planes").replaceChildren();
      byId("status").textContent = item.name + " cannot be shown: " + problem.message;
    }
  }

  function bind(name, property, read, after) {
    byId(name).addEventListener("input", function (event) {
      state[property] = read(event.target);
      if (state.shown) after();
    });
  }

  const number = (input) => Number(input.value);
  bind("channel", "channel", number, update);
  bind("layout", "layout", (input) => input.value, build);
  bind("convention", "radiological", (input) => input.value === "radiological", build);
  bind("overlay", "overlay", (input) => input.value, function () { legend(state.shown); update(); });
  bind("opacity", "opacity", (input) => Number(input.value) / 100, update);
  bind("outline", "outline", (input) => input.checked, update);
  bind("crosshair", "crosshair", (input) => input.checked, update);
  bind("low", "low", number, update);
  bind("high", "high", number, update);
  byId("case").addEventListener("change", (event) => choose(Number(event.target.value)));
  byId("previous").addEventListener("click", () => choose(state.index - 1));
  byId("next").addEventListener("click", () => choose(state.index + 1));
  window.addEventListener("resize", function () { if (state.shown) build(); });

  // Cases of the metrics table lead to the viewer.
  const indices = new Map(data.cases.map((item, index) => [item.name, index]));
  const table = byId("metrics-table");
  for (const row of table && data.caseColumn >= 0 ? table.tBodies[0].rows : []) {
    const cell = row.cells[data.caseColumn], index = indices.get(cell.textContent);
    if (index === undefined) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "case-link";
    button.textContent = cell.textContent;
    button.addEventListener("click", function () {
      byId("cases").scrollIntoView();
      choose(index);
    });
    cell.replaceChildren(button);
  }

  if (root.clientWidth < 640) byId("layout").value = state.layout = "0";
  // Other pages lead to a case by its name: #case=NAME.
  const wanted = new URLSearchParams(location.hash.slice(1)).get("case");
  if (indices.has(wanted)) byId("cases").scrollIntoView();
  choose(indices.get(wanted) ?? 0);
})();
