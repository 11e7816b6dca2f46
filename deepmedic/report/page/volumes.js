"use strict";
// Cases of the report: read from the page or from a file beside it, and unpacked. Volumes are [x, y, z] with x running
// fastest and axes to the patient's right, anterior and superior.
const deepmedicVolumes = (function () {
  const kept = new Map();  // index -> promise of an unpacked case, the last few that were shown
  const waiting = new Map();
  const MOST_KEPT = 3;

  async function unpack(text, voxels, differences) {
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const codes = new Uint8Array(await new Response(stream).arrayBuffer());
    if (codes.length !== voxels) throw new Error("a volume of this case is damaged");
    if (differences) for (let at = 1; at < codes.length; at++) codes[at] += codes[at - 1];
    return codes;
  }

  async function unpackCase(packed) {
    const [nx, ny, nz] = packed.shape;
    const voxels = nx * ny * nz;
    const labels = (text) => (text === null ? null : unpack(text, voxels, false));
    const probabilities = {};
    for (const [number, text] of Object.entries(packed.probabilities)) {
      probabilities[number] = await unpack(text, voxels, false);
    }
    const uncertainty = {};
    for (const [kind, map] of Object.entries(packed.uncertainty || {})) {
      uncertainty[kind] = { ...map, data: await unpack(map.data, voxels, false) };
    }
    const channels = [];
    for (const channel of packed.channels) {
      channels.push({ ...channel, data: await unpack(channel.data, voxels, true) });
    }
    return {
      ...packed, channels, probabilities, uncertainty,
      labels: await labels(packed.labels),
      prediction: await labels(packed.prediction),
    };
  }

  // Called by the files beside the page.
  window.deepmedicCase = function (index, packed) {
    const found = waiting.get(index);
    if (found) found(packed);
  };

  function read(index, file) {
    const element = document.getElementById("case-" + index);
    if (element) return Promise.resolve(JSON.parse(element.textContent));
    return new Promise(function (resolve, reject) {
      const script = document.createElement("script");
      waiting.set(index, resolve);
      script.onerror = () => reject(new Error(
        "the file " + file + " is not there. The images of this case lie beside the page: copy that folder along with it."));
      script.src = file;
      document.head.append(script);
      script.onload = () => script.remove();
    }).finally(() => waiting.delete(index));
  }

  return {
    load: function (index, file) {
      if (!kept.has(index)) {
        const promise = read(index, file).then(unpackCase);
        kept.set(index, promise);
        promise.catch(() => kept.delete(index));
        if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
      }
      return kept.get(index);
    },
  };
})();
