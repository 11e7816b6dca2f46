"""Checkpoints of the original, and a writer of such files that knows nothing of the reader it tests."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.model import ModelConfig
from deepmedic.transfer.tensorflow_model import ImportedModel, import_model

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint"
FILES = {"tiny": "tinyE2E.model.ckpt", "threepath": "threeE2E.model.ckpt"}
TYPE_NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "bool": 10, "uint8": 4}


@pytest.fixture(params=sorted(FILES))
def golden(request: pytest.FixtureRequest) -> str:
    """The name of a checkpoint that the original wrote."""
    return request.param


@pytest.fixture
def golden_prefix() -> Callable[[str], Path]:
    return lambda name: GOLDEN / name / "ckpt" / FILES[name]


@pytest.fixture
def golden_folder() -> Callable[[str], Path]:
    return lambda name: GOLDEN / name


def slow_crc(data: bytes) -> int:
    """CRC-32C bit by bit in whole bytes, from its definition."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.fixture
def crc_by_definition() -> Callable[[bytes], int]:
    return slow_crc


def masked(data: bytes) -> int:
    crc = slow_crc(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number: int) -> bytes:
    number %= 1 << 64
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def number_field(field_number: int, number: int) -> bytes:
    return varint(field_number << 3) + varint(number)


def bytes_field(field_number: int, content: bytes) -> bytes:
    return varint(field_number << 3 | 2) + varint(len(content)) + content


def block(pairs: list[tuple[bytes, bytes]], restart_interval: int = 16) -> bytes:
    content, restarts, last = b"", [], b""
    for number, (key, value) in enumerate(pairs):
        shared = 0
        if number % restart_interval == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return content + b"".join(struct.pack("<I", restart) for restart in restarts) + struct.pack("<I", len(restarts))


def table(pairs: list[tuple[bytes, bytes]], per_block: int = 7, kind: int = 0) -> bytes:
    """A sorted table with so many pairs in each block."""
    content, places = b"", []

    def add(one_block: bytes) -> bytes:
        nonlocal content
        place = varint(len(content)) + varint(len(one_block))
        content += one_block + bytes([kind]) + struct.pack("<I", masked(one_block + bytes([kind])))
        return place

    for start in range(0, len(pairs), per_block):
        part = pairs[start : start + per_block]
        places.append((part[-1][0] + b"\0", add(block(part))))
    handles = add(block([])) + add(block(places, restart_interval=1))
    return content + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


@dataclass
class Layout:
    """How a checkpoint is written; the defaults are those of TensorFlow."""

    shards: int = 1
    big_endian: bool = False
    alignment: int = 1
    per_block: int = 7
    compression: int = 0
    header: bytes | None = None
    entries: dict[str, bytes] = field(default_factory=dict)
    """Entries of the index that replace or join those of the arrays."""


def entry(array: np.ndarray, shard: int, offset: int, raw: bytes) -> bytes:
    dimensions = b"".join(bytes_field(2, number_field(1, size)) for size in array.shape)
    return (
        number_field(1, TYPE_NUMBERS[array.dtype.name])
        + bytes_field(2, dimensions)
        + number_field(3, shard)
        + number_field(4, offset)
        + number_field(5, len(raw))
        + varint(6 << 3 | 5)
        + struct.pack("<I", masked(raw))
    )


def write(prefix: Path, arrays: Mapping[str, Any], layout: Layout | None = None) -> Path:
    layout = layout or Layout()
    data = [b""] * layout.shards
    entries: dict[str, bytes] = {}
    for number, name in enumerate(sorted(arrays)):
        array = np.asarray(arrays[name])
        shard = number % layout.shards
        raw = array.astype(array.dtype.newbyteorder(">" if layout.big_endian else "<")).tobytes()
        entries[name] = entry(array, shard, len(data[shard]), raw)
        data[shard] += raw + bytes(-len(raw) % layout.alignment)
    header = number_field(1, layout.shards) + number_field(2, int(layout.big_endian))
    header += bytes_field(3, number_field(1, 1))
    pairs = [(b"", header if layout.header is None else layout.header)]
    pairs += sorted((name.encode(), value) for name, value in (entries | layout.entries).items())
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(prefix.name + ".index").write_bytes(table(pairs, layout.per_block, layout.compression))
    for shard, content in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{layout.shards:05d}").write_bytes(content)
    return prefix


@pytest.fixture(scope="session")
def writer() -> SimpleNamespace:
    """What the tests use of the functions above."""
    return SimpleNamespace(write=write, layout=Layout, table=table, number_field=number_field, bytes_field=bytes_field)


def pathway(name: str, maps: tuple[int, ...], **more: Any) -> Pathway:
    """Of 3 x 3 x 3 kernels without padding and dropout."""
    depth = len(maps)
    return Pathway(name, maps, ((3, 3, 3),) * depth, ("valid",) * depth, (0.0,) * depth, **more)


def model_config(architecture: Architecture, name: str = "m") -> ModelConfig:
    return ModelConfig(
        name=name,
        folder_for_output=None,
        architecture=architecture,
        segment_size_train=(25, 25, 25),
        segment_size_validation=(17, 17, 17),
        segment_size_inference=(33, 35, 31),
        segment_size_inference_given=True,
    )


@pytest.fixture(scope="session")
def config_of() -> Callable[..., ModelConfig]:
    return model_config


@pytest.fixture(scope="session")
def architectures() -> dict[str, Architecture]:
    """Those of the golden checkpoints, from their model.cfg by hand."""
    single, deep, residual = (1, 1, 1), (4, 4, 5, 5, 6, 6, 6, 6), (4, 6, 8)
    tiny = Architecture(
        input_channels=2,
        classes=3,
        normal=pathway("normal", (5, 6, 7)),
        subsampled=(pathway("subsampled1", (5, 6, 7), factor=(3, 3, 3)),),
        fc=Pathway("fc", (3,), (single,), ("valid",), (0.5,)),
        batch_norm_window=4,
    )
    paddings, dropout = ("mirror", "valid", "valid"), (0.0, 0.5, 0.5)
    threepath = Architecture(
        input_channels=2,
        classes=3,
        normal=pathway("normal", deep, residual_layers=residual),
        subsampled=(
            pathway("subsampled1", deep, factor=(3, 3, 3), residual_layers=residual),
            pathway("subsampled2", deep, factor=(5, 5, 5), residual_layers=residual),
        ),
        fc=Pathway("fc", (20, 2, 3), ((3, 3, 3), single, single), paddings, dropout, (2,)),
        batch_norm_window=3,
    )
    return {"tiny": tiny, "threepath": threepath}


BASIC = Architecture(
    input_channels=2,
    classes=3,
    normal=pathway("normal", (3, 4)),
    subsampled=(pathway("subsampled1", (2, 3), factor=(3, 3, 3)),),
    fc=Pathway("fc", (5, 3), ((1, 1, 1),) * 2, ("valid",) * 2, (0.0, 0.5)),
    batch_norm_window=2,
)


@pytest.fixture(scope="session")
def basic() -> Architecture:
    """Two pathways of two layers, two FC layers, batch norm and PReLU."""
    return BASIC


@pytest.fixture(scope="session")
def variants() -> dict[str, Architecture]:
    """Architectures with other variables, or in another order."""
    low_rank = replace(
        BASIC,
        normal=pathway("normal", (5, 4, 6), low_rank_layers=(1, 3)),
        subsampled=(pathway("subsampled1", (3, 4, 3), low_rank_layers=(2,), factor=(3, 3, 3)),),
    )
    return {
        "basic": BASIC,
        "no batch norm": replace(BASIC, batch_norm_window=0),
        "relu": replace(BASIC, activation="relu"),
        "no batch norm, elu": replace(BASIC, batch_norm_window=-1, activation="elu"),
        "low rank": low_rank,
        "single pathway": replace(BASIC, subsampled=()),
        "twelve layers": replace(BASIC, normal=pathway("normal", (2,) * 12)),
    }


SLOTS = {
    0: {"velocity": "velocities_for_mom"},
    1: {"mean": "means_of_grads", "mean_square": "vars_of_grads"},
    2: {"mean_square": "accu_grad_squared", "velocity": "velocities_for_mom"},
}
"""Slots and the original's names for them, by the number of the optimiser in configs."""


@pytest.fixture(scope="session")
def slots() -> dict[int, dict[str, str]]:
    return SLOTS


def created_by_the_original(architecture: Architecture) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Canonical name ("" for scratch), base name and shape, in the order in which the original creates variables."""
    window = architecture.batch_norm_window
    fused = sum(pathway.feature_maps[-1] for pathway in architecture.parallel)
    for pathway in architecture.pathways:
        is_fc = pathway.name == "fc"
        channels = fused if is_fc else architecture.input_channels
        for layer, maps in enumerate(pathway.feature_maps, 1):
            name, sees_image = f"{pathway.name}/{layer}", layer == 1 and not is_fc
            if window > 0 and not sees_image:
                yield f"{name}/bn_gamma", "gBn", (channels,)
                yield f"{name}/bn_beta", "bBn", (channels,)
                yield f"{name}/bn_mean_rolling", "muBnsForRollingAverage", (window, channels)
                yield f"{name}/bn_var_rolling", "varBnsForRollingAverage", (window, channels)
                yield "", "sharedNewMu_B", (channels,)
                yield "", "sharedNewVar_B", (channels,)
            else:
                yield f"{name}/bias", "b", (channels,)
            if architecture.activation == "prelu" and not sees_image:
                yield f"{name}/prelu_alpha", "aPrelu", (channels,)
            x, y, z = pathway.kernels[layer - 1]
            if layer in pathway.low_rank_layers:
                third = maps // 3
                yield f"{name}/weight_x", "w_x", (third, channels, x, y, 1)
                yield f"{name}/weight_y", "w_y", (third, channels, 1, y, z)
                yield f"{name}/weight_z", "w_z", (maps - 2 * third, channels, x, 1, z)
            else:
                yield f"{name}/weight", "W", (maps, channels, x, y, z)
            channels = maps
    yield "softmax/bias", "b", (architecture.classes,)


def as_trained(architecture: Architecture, kind: int = 2, frozen: tuple[str, ...] = ()) -> tuple[dict, dict]:
    """Random variables as the original saves them, and the network's ones by canonical name."""
    generator = np.random.default_rng(0)
    saved: dict[str, Any] = {}
    counters: dict[str, int] = {}
    network = {}

    def create(scope: str, base: str, shape: tuple[int, ...]) -> np.ndarray:
        number = counters.get(base, 0)
        counters[base] = number + 1
        array = generator.random(shape, dtype=np.float32)
        saved[f"{scope}/{base}_{number}" if number else f"{scope}/{base}"] = array
        return array

    created = list(created_by_the_original(architecture))
    for name, base, shape in created:
        array = create("net", base, shape)
        if name:
            network[name] = array
    for name, _, shape in created:
        if name and not name.endswith("rolling") and name.rpartition("/")[0] not in frozen:
            for base in SLOTS[kind].values():
                create("trainer", base, shape)
    saved |= {"trainer/num_epochs_trained": np.int64(7), "trainer/init_lr": np.float32(0.25)}
    saved |= {"trainer/init_mom": np.float32(0.5)} | ({"trainer/i_adam": np.float32(140)} if kind == 1 else {})
    return saved, network


@pytest.fixture(scope="session")
def simulated() -> Callable[..., tuple[dict[str, Any], dict[str, np.ndarray]]]:
    return as_trained


@pytest.fixture
def imported(tmp_path: Path, writer: Any, config_of: Any) -> Callable[..., ImportedModel]:
    """Import what `saved` holds, with an architecture."""

    def run(architecture: Architecture, saved: dict[str, Any], trained: list[str] | None = None) -> ImportedModel:
        prefix = writer.write(tmp_path / "x.model.ckpt", saved)
        return import_model(prefix, config_of(architecture), trained)

    return run
