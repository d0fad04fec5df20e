"""A file -> a fitted model, or an error that says what is wrong with it."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ..core.covariance import STRUCTURES
from ..core.structure import CovarianceStructure
from ..data.addresses import Secrets, hide_urls, printable, without_secrets
from ..data.guards import check_file, product
from ..data.store import member, open_node
from ..data.write import Address, read_record
from ..errors import DaskGMMError, ModelFormatError, StoreError
from ..estimators.base import BaseMixture
from ..fitting.candidate import Run
from ..fitting.history import PassRecord
from .layout import FORMAT_VERSION, KIND, LAYOUTS, NOT_STORED, Layout, checksum, decode, digest

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_BESIDE = 1 << 20  # bytes of metadata beside a chunk, where they cannot be told from it


def load(path: Address) -> BaseMixture[Any]:
    """Read a model that `save` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    GaussianMixture or BayesianGaussianMixture
        Predicts the same bits as the one that was saved; can be cloned, fitted again, and go on with ``warm_start``.

    Raises
    ------
    StoreNotFoundError
        If there is nothing at ``path``.
    ModelFormatError
        If what is there is no model, is damaged, or was written in a newer format. The message names file and field.
    """
    name = os.fspath(path)
    try:
        reader = _open(name)
        reader.check_format()
        model = reader.construct()
        reader.fill(model)
    except DaskGMMError:
        raise
    except Exception as error:
        # No field of a file is believed; should one get through, it ends here, and not as somebody's KeyError.
        told = printable(Secrets(name).hide(f"{type(error).__name__}: {error}"), 400)
        raise ModelFormatError(f"{printable(without_secrets(name))} is damaged ({told})") from None
    return model


def _open(path: str) -> _Reader:
    shown = printable(without_secrets(path))
    try:
        node = open_node(path)
    except StoreError as error:
        raise ModelFormatError(f"{shown} is no model: {error}") from error.__cause__
    attributes = read_record(node)
    if isinstance(node, zarr.Group) and attributes.get("format") == KIND:
        return _Reader(shown, node, attributes)
    what = "array" if isinstance(node, zarr.Array) else "group"
    kind = f" ({attributes['format']!r:.40})" if "format" in attributes else ""
    raise ModelFormatError(
        f"{shown} is a Zarr {what}{kind}, and no model that daskgmm wrote. Models come from save() or `daskgmm fit`."
    )


@dataclass(frozen=True)
class _Reader:
    """A group that claims to be a model; every method raises `ModelFormatError` where it is none."""

    path: str
    """Without credentials, for messages."""
    group: zarr.Group
    attributes: Mapping[str, Any]

    def error(self, field: str, text: str) -> ModelFormatError:
        return ModelFormatError(f"{self.path}: {field} {text}")

    def check_format(self) -> None:
        version = self._count(self.attributes, "format_version")
        if version > FORMAT_VERSION:
            writer = str(self.attributes.get("daskgmm_version"))
            wanted = f"daskgmm>={writer}" if re.fullmatch(r"[0-9A-Za-z.+]{1,32}", writer) else "--upgrade daskgmm"
            raise self.error(
                "format_version",
                f"is {version}, and this version of daskgmm reads up to {FORMAT_VERSION}: pip install '{wanted}'",
            )
        if self._checksum("attributes") != digest(self.attributes):
            raise self.error("attributes", "do not match their checksum: the file is damaged, or was edited by hand")

    @property
    def layout(self) -> Layout:
        """Of the kind of model that the file names."""
        name = self.attributes.get("estimator")
        if not isinstance(name, str) or name not in LAYOUTS:
            raise self.error("estimator", f"is {name!r:.40}; expected one of {', '.join(LAYOUTS)}")
        return LAYOUTS[name]

    def construct(self) -> BaseMixture[Any]:
        """The estimator, not fitted."""
        layout, kind = self.layout, self.layout.estimator
        parameters = {key: decode(value) for key, value in self._mapping("parameters").items()}
        known = set(kind._get_param_names()) - {*layout.given, *NOT_STORED}
        if unknown := parameters.keys() - known:
            raise self.error("parameters", f"hold {sorted(unknown)!a:.200}, which {kind.__name__} does not have")
        given = {key: self.array(key, None) for key in layout.given if key in self._mapping("checksums")}
        model = kind(**parameters, **{key: value if value.ndim else float(value) for key, value in given.items()})
        try:
            model._validate_params()
        except ValueError as error:
            raise self.error("parameters", f"are not valid: {error}") from error
        return model

    def fill(self, model: BaseMixture[Any]) -> None:
        """Set the fitted attributes."""
        fitted = self._mapping("fitted")
        structure = STRUCTURES.get(str(fitted.get("covariance_type")))
        if structure is None:
            raise self.error("covariance_type", f"is {fitted.get('covariance_type')!r:.40}")
        n_features = self._count(fitted, "n_features_in", 1)
        state = self._state(model, structure, self._count(fitted, "n_components", 1), n_features)
        bounds = self._bounds(fitted)
        dtype = {"float32": np.float32, "float64": np.float64}.get(str(fitted.get("dtype")))
        if dtype is None:
            raise self.error("dtype", f"is {fitted.get('dtype')!r:.40}; expected 'float32' or 'float64'")
        n_iter, history = self._count(fitted, "n_iter"), self._history(fitted)
        model._store(Run(state, bounds[:-1], n_iter, self._flag(fitted, "converged"), history, []), dtype)
        model.lower_bound_ = bounds[-1]
        model.n_passes_ = self._count(fitted, "n_passes")
        model.n_features_in_ = n_features
        if fitted.get("feature_names_in") is not None:
            model.feature_names_in_ = self._feature_names(fitted["feature_names_in"], n_features)

    def array(self, name: str, shape: tuple[int, ...] | None) -> Array:
        """One array, of the given shape where it is known; allocated only when its file can hold what it declares."""
        try:
            stored = member(self.group, name)
            if stored is None:
                raise self.error(name, "is missing")
            self._check_declared(name, stored, shape)
            values = np.asarray(stored[...])  # type: ignore[index]  # not a group, that was checked
        except ModelFormatError:
            raise
        except Exception as error:
            # Damaged metadata and chunks end in whatever the libraries below raise for them.
            told = printable(hide_urls(f"{type(error).__name__}: {error}"), 400)
            raise self.error(name, f"cannot be read ({told})") from None
        if checksum(values) != self._checksum(name):
            raise self.error(name, "does not match its checksum: the file is damaged")
        return values

    def _check_declared(self, name: str, stored: Any, shape: tuple[int, ...] | None) -> None:
        if not isinstance(stored, zarr.Array):
            raise self.error(name, "is a group; expected an array")
        if shape is not None and stored.shape != shape:
            raise self.error(name, f"has shape {stored.shape}; expected {shape}")
        if stored.dtype not in ((np.float64,) if shape is not None else (np.float64, np.float32)):
            raise self.error(name, f"has dtype {stored.dtype}; expected float64")
        plain = stored.metadata.zarr_format == 3 and not (stored.filters or stored.compressors or stored.shards)
        if not plain or stored.chunks != tuple(max(1, n) for n in stored.shape):
            raise self.error(name, "is not stored as one uncompressed chunk of Zarr format 3")
        self._check_stored(name, stored, product(stored.shape) * stored.dtype.itemsize)

    def _check_stored(self, name: str, stored: zarr.Array[Any], n_bytes: int) -> None:
        """Raise unless exactly so many bytes are there and can be held."""
        root = getattr(stored.store, "root", None)
        if isinstance(root, Path):
            found = most = self._file_bytes(name, root, stored.metadata.encode_chunk_key((0,) * stored.ndim))
        else:
            found = stored.nbytes_stored()
            most = found - _MOST_BESIDE
        if found < n_bytes and (found or n_bytes > _MOST_BESIDE):  # a small chunk of zeros may have been left out
            raise self.error(name, f"declares {n_bytes} bytes, and fewer are stored: its chunk is missing or cut")
        if most > n_bytes:
            raise self.error(name, f"declares {n_bytes} bytes, and {found} are stored: it is damaged")
        if n_bytes > (memory := _memory()):
            raise self.error(name, f"declares {n_bytes} bytes, and this machine has {memory} of memory: it is damaged")

    def _file_bytes(self, name: str, root: Path, key: str) -> int:
        """Size of a chunk's file, which lies in the model itself: a link could lead anywhere."""
        folder = os.path.join(root, self.group.path, name)
        chunk, *folders = list(accumulate((folder, *key.split("/")), os.path.join))[::-1]
        for path in (chunk, *folders, os.path.join(folder, "zarr.json")):
            if os.path.islink(path):
                raise self.error(name, f"is a link ({printable(path)}); what is in a model has to lie in it")
        check_file(chunk, sys.maxsize, "chunks")
        return os.path.getsize(chunk) if os.path.exists(chunk) else 0

    def _state(
        self, model: BaseMixture[Any], structure: CovarianceStructure, n_components: int, n_features: int
    ) -> Any:
        """What the fit had found."""
        layout, parameters = self.layout, model.get_params(deep=False)
        shapes = layout.shapes(structure, n_components, n_features, parameters)
        arrays = {name: self.array(name, shape) for name, shape in shapes.items()}
        if found := layout.problem(structure, arrays):
            raise self.error(*found)
        return layout.state(structure, arrays, parameters)

    def _mapping(self, field: str) -> Mapping[str, Any]:
        value = self.attributes.get(field)
        if not isinstance(value, dict):
            raise self.error(field, "is missing or damaged")
        return value

    def _checksum(self, name: str) -> Any:
        return self._mapping("checksums").get(name)

    def _count(self, values: Mapping[str, Any], name: str, least: int = 0) -> int:
        value = values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(name, f"is {value!r:.40}; expected an integer of at least {least}")
        return value

    def _bounds(self, fitted: Mapping[str, Any]) -> list[float]:
        """The lower bounds of all iterations and, at the end, that of the fit."""
        bounds = fitted.get("lower_bounds")
        values = [decode(b) for b in (*bounds, fitted.get("lower_bound"))] if isinstance(bounds, list) else [None]
        floats = [value for value in values if isinstance(value, float) and value < math.inf]  # and no NaN
        if len(floats) < len(values):
            raise self.error("lower_bounds", "and lower_bound have to be numbers, and less than infinity")
        return floats

    def _history(self, fitted: Mapping[str, Any]) -> list[PassRecord]:
        records = fitted.get("history")
        if not isinstance(records, list):
            raise self.error("history", "is missing or damaged")
        try:
            return [PassRecord(**{key: decode(value) for key, value in record.items()}) for record in records]
        except (TypeError, ValueError, AttributeError) as error:
            raise self.error("history", f"is not one of passes ({error!s:.200})") from error

    def _flag(self, values: Mapping[str, Any], name: str) -> bool:
        value = values.get(name)
        if not isinstance(value, bool):
            raise self.error(name, f"is {value!r:.40}; expected true or false")
        return value

    def _feature_names(self, names: Any, n_features: int) -> Array:
        if not isinstance(names, list) or len(names) != n_features or not all(map(_is_text, names)):
            raise self.error("feature_names_in", f"has to hold {n_features} names")
        return np.asarray(names, dtype=object)


def _is_text(value: Any) -> bool:
    """Whether it is a text that can be written, which half a surrogate pair is not."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _memory() -> float:
    """Bytes of this machine's memory; infinity where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf
