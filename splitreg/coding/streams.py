"""A latent to the streams of a packet and back: the only place where tables and codec meet.

====================  =====================================================================
tables                streams of one image
====================  =====================================================================
``SymbolModel``       the latent
``HyperModel``        the hyper-latent; the latent, with tables predicted from the hyper-latent
``VariableModel``     a byte for the rate, then the streams of the model at that rate
====================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.codec import Codec
from splitreg.coding.hyper import HyperModel
from splitreg.coding.symbols import SymbolModel
from splitreg.coding.variable import VariableModel, fixed_model, position_of
from splitreg.errors import CorruptPacket, RecipeError

#: What ``Bottleneck.freeze`` returns: the same integers on both sides, hashed into every packet.
LatentModel = SymbolModel | HyperModel | VariableModel


def load_model(arrays: Mapping[str, NDArray[np.generic]]) -> LatentModel:
    """Rebuild tables from ``to_arrays``.

    Raises:
        InvalidTables: an array is missing or not valid.
    """
    return VariableModel.from_arrays(arrays) if "gains" in arrays else fixed_model(arrays)


def without_context(tables: LatentModel) -> LatentModel | None:
    """Return tables without their context network; None if they have none."""
    models = tables.models if isinstance(tables, VariableModel) else (tables,)
    if not any(isinstance(model, SymbolModel) and model.context is not None for model in models):
        return None
    plain = tuple(model.with_context(None) if isinstance(model, SymbolModel) else model for model in models)
    return replace(tables, models=plain) if isinstance(tables, VariableModel) else plain[0]


def encode_streams(
    tables: LatentModel, latent: NDArray[np.float32], codec: Codec, rate: float | None = None
) -> tuple[bytes, ...]:
    """Encode a latent as the streams of one image.

    Args:
        tables: frozen tables of the model.
        latent: (C, h, w) float32.
        codec: encodes the streams.
        rate: 0 (fewest bytes) to 1 (most), for a ``VariableModel``; None: its default.

    Raises:
        RecipeError: the rate is not within 0 to 1, or the model has one rate.
        ShapeMismatch: the latent has other channels, or no element.
        InvalidLatent: NaN, infinite or huge values.
    """
    if isinstance(tables, VariableModel):
        position = tables.position(rate)
        first, *rest = encode_streams(tables.model_at(position), tables.scaled(latent, position), codec)
        return bytes([position]) + first, *rest
    if rate is not None:
        raise RecipeError("this model has one rate; leave rate out, or train a model with several rates (rates = 5)")
    if isinstance(tables, HyperModel):
        hyper, rows, means = tables.analyse(latent)
        return codec.encode(hyper, tables.hyper), codec.encode_latent(latent - means, rows)
    return (codec.encode_latent(latent, tables),)


def decode_streams(
    tables: LatentModel, streams: Sequence[bytes], shape: tuple[int, int, int], codec: Codec
) -> NDArray[np.float32]:
    """Decode the streams of one image to the (C, h, w) float32 latent.

    Args:
        tables: frozen tables of the model.
        streams: streams of one image.
        shape: (C, h, w).
        codec: decodes the streams.

    Raises:
        CorruptPacket: the streams are not valid for these tables and this shape.
        ShapeMismatch: the shape does not fit the tables.
    """
    if isinstance(tables, VariableModel):
        position = position_of(streams)
        scaled = decode_streams(tables.model_at(position), (streams[0][1:], *streams[1:]), shape, codec)
        return tables.unscaled(scaled, position)
    if isinstance(tables, HyperModel):
        if len(streams) != 2:
            raise CorruptPacket(f"packets of this model have 2 streams per image, this one has {len(streams)}")
        tables.check_shape(shape)
        hyper = codec.decode(streams[0], tables.hyper_shape(shape), tables.hyper)
        rows, means = tables.predict(hyper, (shape[1], shape[2]))
        return codec.decode_latent(streams[1], shape, rows) + means
    if len(streams) != 1:
        raise CorruptPacket(f"packets of this model have 1 stream per image, this one has {len(streams)}")
    return codec.decode_latent(streams[0], shape, tables)
