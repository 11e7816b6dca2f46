"use strict";
// One slice of a case on a canvas: the image, labels, probabilities or uncertainty over it, and the crosshair. `state` is
// what the viewer shows at the moment: the case, the place, and how it is to be drawn.
const deepmedicSlices = function (state, colours, uncertainty) {
  const ERRORS = { missed: [255, 80, 200], surplus: [255, 225, 60], wrong: [70, 210, 255] };

  function colourOf(label) {
    return colours[label - 1];
  }

  // --- geometry of a slice -------------------------------------------------------------------------------------

  function mirrored(plane) {
    return plane.across === 0 ? state.radiological : true;
  }

  function view(plane) {
    const shape = state.shown.shape, strides = [1, shape[0], shape[0] * shape[1]];
    const width = shape[plane.across], height = shape[plane.up], flip = mirrored(plane);
    const base = state.at[plane.fixed] * strides[plane.fixed];
    const offset = (column, row) => base + (flip ? width - 1 - column : column) * strides[plane.across]
      + (height - 1 - row) * strides[plane.up];
    return { width, height, offset, spacing: [state.shown.spacing[plane.across], state.shown.spacing[plane.up]] };
  }

  // --- drawing -------------------------------------------------------------------------------------------------

  function drawn(size, paint) {
    const canvas = document.createElement("canvas");
    canvas.width = size.width;
    canvas.height = size.height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(size.width, size.height);
    for (let row = 0, pixel = 0; row < size.height; row++) {
      for (let column = 0; column < size.width; column++, pixel += 4) paint(image.data, pixel, size.offset(column, row));
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  function greyScale() {
    const table = new Uint8ClampedArray(256), low = Math.min(state.low, state.high - 1);
    for (let code = 1; code < 256; code++) table[code] = 255 * (code - 1 - low) / (state.high - 1 - low || 1);
    return table;
  }

  // What colours a voxel of the overlay: [red, green, blue, alpha from 0 to 1], or null.
  function overlayOf(what, mode) {
    const shown = state.shown;
    const labels = what === "truth" ? shown.labels : shown.prediction;
    if (mode.startsWith("class ")) {
      const volume = shown.probabilities[mode.slice(6)];
      return (at) => { const p = volume[at] / 255; return p < 0.02 ? null : heat(p); };
    }
    if (mode.startsWith(uncertainty.PREFIX)) return uncertainty.colours();
    if (mode === "errors") {
      return function (at) {
        const truth = shown.labels[at], found = shown.prediction[at];
        if (truth === found || (state.hidden.has(truth) && state.hidden.has(found))) return null;
        return [...(found === 0 ? ERRORS.missed : truth === 0 ? ERRORS.surplus : ERRORS.wrong), 1];
      };
    }
    return labels === null ? () => null : function (at) {
      const label = labels[at];
      return label === 0 || state.hidden.has(label) ? null : [...colourOf(label), 1];
    };
  }

  // Black, red, yellow, white over the probability.
  function heat(p) {
    return [255 * Math.min(1, 3 * p), 255 * Math.min(1, Math.max(0, 3 * p - 1)), 255 * Math.max(0, 3 * p - 2), Math.min(1, 0.25 + p)];
  }

  function outlines(context, size, colour, scale) {
    const paths = new Map();
    const key = (column, row) => {
      if (column < 0 || row < 0 || column >= size.width || row >= size.height) return "";
      const found = colour(size.offset(column, row));
      return found === null ? "" : found.slice(0, 3).join(",");
    };
    for (let row = 0; row <= size.height; row++) {
      for (let column = 0; column <= size.width; column++) {
        const here = key(column, row);
        for (const [other, dx, dy] of [[key(column - 1, row), 0, 1], [key(column, row - 1), 1, 0]]) {
          if (other === here) continue;
          const name = here || other;
          if (!paths.has(name)) paths.set(name, new Path2D());
          paths.get(name).moveTo(column * scale[0], row * scale[1]);
          paths.get(name).lineTo((column + dx) * scale[0], (row + dy) * scale[1]);
        }
      }
    }
    context.lineWidth = 1.5 * (window.devicePixelRatio || 1);
    for (const [name, path] of paths) {
      context.strokeStyle = "rgb(" + name + ")";
      context.stroke(path);
    }
  }

  function draw(picture, grey) {
    const size = view(picture.plane), canvas = picture.canvas, context = canvas.getContext("2d");
    const ratio = window.devicePixelRatio || 1, shown = state.shown;
    const width = Math.round(size.width * size.spacing[0] * picture.scale);
    const height = Math.round(size.height * size.spacing[1] * picture.scale);
    canvas.style.width = width + "px";
    canvas.style.height = height + "px";
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const channel = shown.channels[state.channel];
    if (channel) {
      context.imageSmoothingEnabled = true;
      context.imageSmoothingQuality = "high";
      context.drawImage(drawn(size, function (pixels, pixel, at) {
        pixels[pixel] = pixels[pixel + 1] = pixels[pixel + 2] = grey[channel.data[at]];
        pixels[pixel + 3] = 255;
      }), 0, 0, canvas.width, canvas.height);
    }
    const mode = picture.what === "truth" ? "labels" : state.overlay, uncertain = mode.startsWith(uncertainty.PREFIX);
    const colour = overlayOf(picture.what, mode);
    const scale = [canvas.width / size.width, canvas.height / size.height];
    if (state.outline && !uncertain && !mode.startsWith("class ")) {
      context.globalAlpha = Math.min(1, state.opacity * 2);
      outlines(context, size, colour, scale);
    } else if (state.opacity > 0) {
      context.imageSmoothingEnabled = false;
      context.globalAlpha = state.opacity;
      context.drawImage(drawn(size, function (pixels, pixel, at) {
        const found = colour(at);
        if (found === null) return;
        pixels.set([found[0], found[1], found[2], 255 * found[3]], pixel);
      }), 0, 0, canvas.width, canvas.height);
    }
    if (state.outline && uncertain) {  // the labels over it, to see where they are uncertain
      context.globalAlpha = Math.min(1, state.opacity * 2);
      outlines(context, size, overlayOf(picture.what, "labels"), scale);
    }
    context.globalAlpha = 1;
    if (state.crosshair) crosshair(context, picture.plane, size, scale, ratio);
  }

  function crosshair(context, plane, size, scale, ratio) {
    const column = mirrored(plane) ? size.width - 1 - state.at[plane.across] : state.at[plane.across];
    const x = (column + 0.5) * scale[0], y = (size.height - 0.5 - state.at[plane.up]) * scale[1];
    context.strokeStyle = "rgba(255, 230, 107, 0.55)";
    context.lineWidth = ratio;
    context.beginPath();
    const gap = 8 * ratio;
    for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, size.width * scale[0], y],
      [x, 0, x, y - gap], [x, y + gap, x, size.height * scale[1]]]) {
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
    }
    context.stroke();
  }

  return { mirrored, view, greyScale, draw, colourOf, ERRORS };
};
