"""All weights of a network as plain content, to be kept beside other ones or put in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from deepmedic.model import parameters
from deepmedic.model.network import DeepMedicNet


def copy_of(network: DeepMedicNet) -> dict[str, Any]:
    """Return copies of parameters and rolling statistics, and the rows of these, as a saved model names them."""
    tensors = parameters.named_tensors(network)
    return {
        "parameters": {name: tensor.detach().clone() for name, tensor in tensors.items()},
        "rolling_rows": parameters.rolling_rows(network),
    }


def put_into(network: DeepMedicNet, weights: Mapping[str, Any]) -> None:
    """Give a network the weights that `copy_of` returned.

    Raises:
        ModelError: they are of another architecture.
    """
    parameters.load_tensors(network, weights["parameters"])
    parameters.set_rolling_rows(network, weights["rolling_rows"])


@contextmanager
def lent(network: DeepMedicNet, weights: Mapping[str, Any]) -> Iterator[None]:
    """Give a network other weights inside the block, and its own again afterwards."""
    own = copy_of(network)
    put_into(network, weights)
    try:
        yield
    finally:
        put_into(network, own)
