"""The rules of a transfer once more, written down in plain numpy loops from their description, for comparison.

Nothing here is shared with the program. Parameters are numpy arrays by canonical name.
"""

from __future__ import annotations

import numpy as np


class RefusedError(Exception):
    """The rules do not allow this transfer."""


def transfer(a, a_arch, b, b_arch, *, depths=None, classes_too=False, names=((None, None), (None, None))):
    """Return B's arrays after receiving from A; `names` are A's and B's (channel names, class names)."""
    result = {name: array.copy() for name, array in b.items()}
    for b_path, b_layer, a_path, a_layer in _receiving_layers(a_arch, b_arch, depths, classes_too):
        if a_path.kernels[a_layer - 1] != b_path.kernels[b_layer - 1]:
            raise RefusedError("kernels")
        ins = _input_pairs(a_arch, b_arch, a_path, a_layer, b_path, b_layer, names)
        outs = _output_pairs(a_arch, b_arch, a_path, a_layer, b_path, b_layer, names)
        _copy_layer(a, result, f"{a_path.name}/{a_layer}", f"{b_path.name}/{b_layer}", ins, outs)
        if b_path.name == "fc" and b_layer == b_path.depth:
            for to, given in outs:
                result["softmax/bias"][to] = a["softmax/bias"][given]
    return result


def _receiving_layers(a_arch, b_arch, depths, classes_too):
    a_parallel, b_parallel = [a_arch.normal, *a_arch.subsampled], [b_arch.normal, *b_arch.subsampled]
    found = []
    a_depth = len(a_arch.normal.feature_maps)
    a_last, b_last = len(a_arch.fc.feature_maps), len(b_arch.fc.feature_maps)
    if depths is None:
        for i, b_path in enumerate(b_parallel):
            a_path = a_parallel[i] if i < len(a_parallel) else a_parallel[-1]
            if len(a_path.feature_maps) < len(b_path.feature_maps):
                raise RefusedError("depth")
            found += [(b_path, n, a_path, n) for n in range(1, len(b_path.feature_maps) + 1)]
        if a_last < b_last:
            raise RefusedError("depth")
        found += [(b_arch.fc, n, a_arch.fc, n) for n in range(1, b_last)]
    for depth in sorted(depths or ()):
        before = len(found)
        if depth <= a_depth:
            for i, b_path in enumerate(b_parallel):
                a_path = a_parallel[i] if i < len(a_parallel) else a_parallel[-1]
                if depth <= len(a_path.feature_maps) and depth <= len(b_path.feature_maps):
                    found.append((b_path, depth, a_path, depth))
        elif depth - a_depth < a_last and depth - a_depth < b_last:
            found.append((b_arch.fc, depth - a_depth, a_arch.fc, depth - a_depth))
        elif depth - a_depth == a_last:
            found.append((b_arch.fc, b_last, a_arch.fc, a_last))
        if len(found) == before:
            raise RefusedError("no counterpart")
    classifier = (b_arch.fc, b_last, a_arch.fc, a_last)
    if classes_too and classifier not in found:
        found.append(classifier)
    return found


def _thirds(count):
    third = count // 3
    return [list(range(third)), list(range(third, 2 * third)), list(range(2 * third, count))]


def _pairs(count_b, count_a, both_low_rank):
    """Which (channel of B, channel of A) correspond among the outputs of two layers."""
    if not both_low_rank:
        return [(n, n) for n in range(min(count_b, count_a))]
    pairs = []
    for own, given in zip(_thirds(count_b), _thirds(count_a), strict=True):
        pairs += list(zip(own, given, strict=False))
    return pairs


def _output_pairs(a_arch, b_arch, a_path, a_layer, b_path, b_layer, names):
    if b_path.name == "fc" and b_layer == len(b_path.feature_maps):
        return _named_pairs(names[0][1], names[1][1], a_arch.classes, b_arch.classes)
    both = a_layer in a_path.low_rank_layers and b_layer in b_path.low_rank_layers
    return _pairs(b_path.feature_maps[b_layer - 1], a_path.feature_maps[a_layer - 1], both)


def _named_pairs(a_names, b_names, a_count, b_count):
    if a_names is None or b_names is None:
        return [(n, n) for n in range(min(a_count, b_count))]
    return [(b_names.index(name), a_names.index(name)) for name in b_names if name in a_names]


def _input_pairs(a_arch, b_arch, a_path, a_layer, b_path, b_layer, names):
    if (a_layer == 1) != (b_layer == 1):
        return []
    if a_layer > 1:
        before = (a_path, a_layer - 1, b_path, b_layer - 1)
        both = before[1] in a_path.low_rank_layers and before[3] in b_path.low_rank_layers
        return _pairs(b_path.feature_maps[b_layer - 2], a_path.feature_maps[a_layer - 2], both)
    if b_path.name != "fc":
        return _named_pairs(names[0][0], names[1][0], a_arch.input_channels, b_arch.input_channels)
    pairs, a_start, b_start = [], 0, 0
    for a_par, b_par in zip([a_arch.normal, *a_arch.subsampled], [b_arch.normal, *b_arch.subsampled], strict=False):
        a_n, b_n = a_par.feature_maps[-1], b_par.feature_maps[-1]
        both = len(a_par.feature_maps) in a_par.low_rank_layers and len(b_par.feature_maps) in b_par.low_rank_layers
        pairs += [(b_start + to, a_start + given) for to, given in _pairs(b_n, a_n, both)]
        a_start, b_start = a_start + a_n, b_start + b_n
    return pairs


def _copy_layer(a, result, a_name, b_name, ins, outs):
    for role in ("bias", "bn_gamma", "bn_beta", "prelu_alpha"):
        own, given = result.get(f"{b_name}/{role}"), a.get(f"{a_name}/{role}")
        if own is not None and given is not None:
            for to, source in ins:
                own[to] = given[source]
    for role in ("bn_mean_rolling", "bn_var_rolling"):
        own, given = result.get(f"{b_name}/{role}"), a.get(f"{a_name}/{role}")
        if own is not None and given is not None:
            for to, source in ins:
                same = own.shape[0] == given.shape[0]
                own[:, to] = given[:, source] if same else sum(given[:, source]) / len(given)
    own, given = _whole_kernels(result, b_name), _whole_kernels(a, a_name)
    if own is None or given is None or len(own) != len(given):
        return
    for to_out, source_out in outs:
        own_rows, own_row = _row(own, to_out)
        given_rows, given_row = _row(given, source_out)
        if own_rows.shape[2:] != given_rows.shape[2:]:
            raise AssertionError("feature maps of different groups were paired")
        for to_in, source_in in ins:
            own_rows[own_row, to_in] = given_rows[given_row, source_in]


def _whole_kernels(arrays, name):
    """The weights of a layer in the order of the feature maps that they make; one, or three for low rank."""
    if f"{name}/weight" in arrays:
        return [arrays[f"{name}/weight"]]
    return [arrays[f"{name}/weight_{axis}"] for axis in "xyz"]


def _row(weights, number):
    """The weight that makes feature map `number`, and the row in it."""
    for weight in weights:
        if number < len(weight):
            return weight, number
        number -= len(weight)
    raise AssertionError("no such feature map")


def arrays_of(parameters):
    return {name: tensor.numpy().copy() for name, tensor in parameters.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        exact = "rolling" not in name
        np.testing.assert_allclose(found[name], array, rtol=0 if exact else 1e-6, atol=0, err_msg=name)
