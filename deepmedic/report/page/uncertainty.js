"use strict";
// Maps of uncertainty over the image: the colours of their values, and the scale below the planes that says what they
// mean. All cases have one scale, from 0 to the largest value of any of them, so that they can be compared.
const deepmedicUncertainty = function (state, data, update) {
  // Every 15th colour of plasma (N. J. Smith, S. van der Walt, 2015; CC0). Its lightness rises evenly, so that the order
  // of values is seen with any kind of colour blindness.
  const PLASMA = [
    [13, 8, 135], [47, 5, 150], [73, 3, 160], [97, 0, 167], [120, 1, 168], [142, 12, 164], [162, 29, 154], [180, 46, 141],
    [196, 62, 127], [210, 79, 113], [222, 97, 100], [233, 114, 87], [243, 133, 75], [249, 154, 62], [253, 175, 49],
    [253, 198, 39], [248, 223, 37], [240, 249, 33],
  ];
  const MEANINGS = {
    entropy: { text: "entropy of the class probabilities", unit: " nats", none: "one class is certain" },
    variance: {
      text: "variance of the probabilities over all predictions, mean over the classes", unit: "", none: "all predictions agree",
    },
  };
  const PREFIX = "uncertainty ";
  let parts = null;
  let share = 1;  // of the scale; larger values have the last colour too

  function kinds(shown) {
    return Object.keys(shown.uncertainty);
  }

  // The kind of map that is shown; null: none is.
  function kind() {
    return state.overlay.startsWith(PREFIX) ? state.overlay.slice(PREFIX.length) : null;
  }

  function largest(of) {
    return Math.max(0, ...data.cases.map((item) => (item.uncertainty && item.uncertainty[of]) || 0));
  }

  function meaning(of) {
    return MEANINGS[of] || { text: of, unit: "", none: "nothing is uncertain" };
  }

  function written(value, of) {
    return Number(value.toPrecision(3)) + meaning(of).unit;
  }

  // The colour of a value, from 0 to 1 of the scale.
  function plasma(value) {
    const place = Math.min(1, value) * (PLASMA.length - 1), below = Math.min(PLASMA.length - 2, Math.floor(place));
    return PLASMA[below].map((part, at) => part + (PLASMA[below + 1][at] - part) * (place - below));
  }

  // What colours a voxel: [red, green, blue, alpha from 0 to 1], or null where nothing is uncertain.
  function colours() {
    const map = state.shown.uncertainty[kind()], top = (largest(kind()) || 1) * share;
    const table = Array.from({ length: 256 }, function (_, code) {
      const value = code / 255 * map.largest / top;
      return value < 0.02 ? null : [...plasma(value), Math.min(1, 0.4 + 3 * value)];
    });
    return (at) => table[map.data[at]];
  }

  function words(at) {
    return Object.entries(state.shown.uncertainty).map(([of, map]) => of + " " + written(map.data[at] / 255 * map.largest, of));
  }

  // --- the scale -----------------------------------------------------------------------------------------------

  function made(parent, name, kind) {
    const element = document.createElement(name);
    element.className = kind;
    parent.append(element);
    return element;
  }

  function build() {
    const box = document.createElement("div");
    box.id = "scale";
    document.getElementById("legend").before(box);
    const line = made(box, "div", "scale-line"), name = made(line, "span", "");
    const bar = made(line, "span", "scale-bar");
    made(bar, "span", "").textContent = "0";
    const gradient = made(bar, "span", "scale-colours");
    gradient.style.background = "linear-gradient(to right, " + PLASMA.map((colour) => "rgb(" + colour.join(",") + ")").join(", ") + ")";
    gradient.setAttribute("role", "img");
    gradient.setAttribute("aria-label", "colours from dark blue over red to yellow");
    const end = made(bar, "span", ""), label = made(line, "label", "");
    label.append("Colours up to ");
    const slider = made(label, "input", "");
    Object.assign(slider, { id: "scale-end", type: "range", min: "1", max: "100", value: "100" });
    slider.addEventListener("input", function () {
      share = Number(slider.value) / 100;
      describe();
      update();
    });
    return { box, name, end, note: made(box, "p", "small") };
  }

  function describe() {
    const of = kind(), map = state.shown.uncertainty[of], top = largest(of);
    parts.name.textContent = "Uncertainty: " + meaning(of).text;
    parts.end.textContent = written(top * share, of) + (share < 1 ? " and more" : "");
    const classes = data.classes.length, possible = of !== "entropy" || classes < 2 ? "" : " Where all " + classes
      + " classes are equally likely it is log(" + classes + ") = " + written(Math.log(classes), of) + ".";
    parts.note.textContent = "0: " + meaning(of).none + ", or outside the ROI." + possible + " Largest in this case: "
      + written(map.largest, of) + "; in any case of this report: " + written(top, of) + ". Shown in 8 bits, in steps of "
      + written(map.largest / 255, of) + "; the file holds exact values.";
  }

  // Shows the scale while a map is shown.
  function legend() {
    if (kind() !== null) {
      parts = parts || build();
      describe();
    }
    if (parts) parts.box.hidden = kind() === null;
  }

  return { PREFIX, kinds, kind, colours, words, legend };
};
