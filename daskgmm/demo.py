"""Demonstration: two photographs, segmented pixel by pixel, out of core.

The pixels of scikit-learn's two sample photographs become one Zarr array of 546,560 rows × 3 colours in compressed
chunks. Two worker processes with little memory fit a mixture to it and label it, chunk by chunk; each photograph is
then drawn beside its segmentation, in which every pixel has the mean colour of its component.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .data.store import open_zarr
from .data.write import check_target, new_store, record
from .engine.cluster import embedded_cluster
from .engine.events import Listener
from .errors import MissingDependencyError, OutputExistsError
from .estimators.gaussian_mixture import GaussianMixture
from .estimators.model_record import Record, model_record
from .results import RESULTS, write_predictions

Array = np.ndarray[Any, np.dtype[Any]]

_PIXELS = "pixels"
_CHUNK_LINES = 61  # of 427: seven chunks for each photograph
_COMPONENTS = 16
_WORKERS, _MEMORY = 2, "600MB"
_SOFTWARE = "daskgmm demo"


def run_demo(output: str | os.PathLike[str] = "daskgmm-demo", *, callbacks: Sequence[Listener] = ()) -> Record:
    """Run the demonstration, in under a minute on two processors.

    Parameters
    ----------
    output : str or path
        Directory for ``pixels.zarr``, ``model.zarr``, ``labels.zarr`` and a PNG for each photograph. Outputs of an
        earlier run are replaced, other files are left alone.
    callbacks : sequence of callable
        Called with every event, see `daskgmm.events`.

    Returns
    -------
    dict
        Summary of the model, and the paths of all outputs.

    Raises
    ------
    MissingDependencyError
        If Pillow or matplotlib are not installed.
    OutputExistsError
        If something in ``output`` has one of these names and is not from an earlier run.
    """
    _check_dependencies()
    begin = time.perf_counter()
    photographs = _load_photographs()
    paths = {name: os.path.join(output, f"{name}.zarr") for name in ("pixels", "model", "labels")}
    pictures = {name: os.path.join(output, f"{name}.png") for name in photographs}
    if not os.path.lexists(output):
        os.makedirs(output)
    _check_targets(paths, pictures)
    _write_pixels(paths["pixels"], photographs)
    model = _fit_and_label(paths, tuple(callbacks))
    labels = open_zarr(paths["labels"], "labels")
    stops = np.cumsum([photograph[..., 0].size for photograph in photographs.values()])
    for (name, photograph), stop in zip(photographs.items(), stops.tolist(), strict=True):
        segments = np.asarray(labels[stop - photograph[..., 0].size : stop]).reshape(photograph.shape[:2])
        _draw(pictures[name], f"{name}.jpg", photograph, segments, model)
    seconds = round(time.perf_counter() - begin, 3)
    summary = {**model_record(model), "feature_names": ["red", "green", "blue"], "n_rows": int(stops[-1])}
    return {**summary, "seconds": seconds, **paths, "pictures": list(pictures.values())}


def _check_dependencies() -> None:
    for package in ("PIL", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "demo", "The demonstration")


def _load_photographs() -> dict[str, Array]:
    from sklearn.datasets import load_sample_images

    samples = load_sample_images()
    names = [os.path.splitext(os.path.basename(name))[0] for name in samples.filenames]
    return dict(zip(names, samples.images, strict=True))


def _check_targets(stores: Mapping[str, str], pictures: Mapping[str, str]) -> None:
    for name, kind in (("pixels", _PIXELS), ("model", "model"), ("labels", RESULTS)):
        check_target(stores[name], kind, overwrite=True)
    for path in pictures.values():
        if os.path.exists(path) and not _is_ours(path):
            raise OutputExistsError(f"{path} exists and is not from an earlier run: choose another directory")


def _is_ours(path: str) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.info.get("Software") == _SOFTWARE
    except OSError:
        return False


def _write_pixels(path: str, photographs: Mapping[str, Array]) -> None:
    pixels = np.concatenate([photograph.reshape(-1, 3) for photograph in photographs.values()])
    columns = next(iter(photographs.values())).shape[1]
    with new_store(path, record(_PIXELS, photographs=list(photographs)), overwrite=True) as group:
        group.create_array("pixels", data=pixels, chunks=(_CHUNK_LINES * columns, 3), dimension_names=("row", "colour"))


def _fit_and_label(paths: Mapping[str, str], callbacks: tuple[Any, ...]) -> GaussianMixture:
    # The values have been rounded to integers, which adds a variance of 1/12.
    model = GaussianMixture(_COMPONENTS, reg_covar=1 / 12, tol=5e-4, max_iter=300, random_state=0, callbacks=callbacks)
    with embedded_cluster(_WORKERS, 1, _MEMORY, callbacks=callbacks) as client:
        model.set_params(scheduler=client).fit(paths["pixels"])
        model.save(paths["model"], overwrite=True)
        write_predictions(
            model, paths["pixels"], paths["labels"], overwrite=True, model_name=paths["model"], callbacks=callbacks
        )
    return model.set_params(scheduler=None)


def _draw(path: str, title: str, photograph: Array, labels: Array, model: GaussianMixture) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = np.clip(model.means_ / 255, 0, 1)
    figure = Figure(figsize=(12.8, 5.2), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    layout = [["photograph", "segmentation"], ["palette", "palette"]]
    axes: dict[str, Any] = figure.subplot_mosaic(layout, height_ratios=[12, 1])
    axes["photograph"].imshow(photograph)
    axes["photograph"].set_title(title)
    axes["segmentation"].imshow(colours[labels], interpolation="nearest")
    axes["segmentation"].set_title(f"{len(colours)} Gaussian components, each in its mean colour")
    _draw_palette(axes["palette"], colours, model.weights_)
    for axis in axes.values():
        axis.set_axis_off()
    figure.savefig(path, metadata={"Software": _SOFTWARE})


def _draw_palette(axis: Any, colours: Array, weights: Array) -> None:
    """Draw the mean colours by weight, each as wide as its weight."""
    left = 0.0
    for k in np.argsort(weights)[::-1]:
        axis.barh(0, weights[k], left=left, color=colours[k], edgecolor="white", height=1)
        if weights[k] > 0.03:
            dark = colours[k] @ (0.299, 0.587, 0.114) < 0.5
            text = f"{100 * weights[k]:.0f} %"
            axis.text(left + weights[k] / 2, 0, text, ha="center", va="center", color="white" if dark else "black")
        left += weights[k]
    axis.set_xlim(0, left)
    axis.set_title("components by weight: share of the pixels of both photographs", fontsize="medium")
