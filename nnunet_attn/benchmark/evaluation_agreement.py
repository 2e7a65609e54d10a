"""The metrics against SimpleITK, which knows nothing of them, on random blobs with voxels longer one way than another.

Overlap and volumes are its label measures; surfaces the voxels that its erosion by face neighbours takes, and distances
those of its signed Maurer distance maps.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
import surface_distance
from numpy.typing import NDArray

from nnunet_attn.benchmark.evaluation_cases import Size, made_case
from nnunet_attn.evaluation.metrics import case_metrics
from nnunet_attn.evaluation.results import METRICS, SURFACE_METRICS

TOLERANCE_MM = 1.0
EXACT = 1e-5  # relative: SimpleITK computes distance maps in single precision, steps in mm too
IN_VOXEL_DIAGONALS = ("hd95_mm", "assd_mm")


def made_blob(seed: int) -> Size:
    """Return the size of a random blob: its voxels 0.4 to 4 mm long along each axis, its radius 8 to 14 mm."""
    rng = np.random.default_rng(seed)
    spacing = tuple(float(step) for step in np.round(np.exp(rng.uniform(math.log(0.4), math.log(4), 3)), 3))
    organ = tuple(float(rng.uniform(8, 14)) / step for step in spacing)
    shape = tuple(2 * math.ceil(1.3 * half) + 8 for half in organ)
    return Size(f"blob {seed}", shape, spacing, (organ,), error=0.1)


def simpleitk_metrics(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Return all metrics of two masks that are not empty, the surface ones by erosion, as SimpleITK finds them.

    Args:
        prediction: (y x) or (z y x).
        reference: Of the same shape.
        spacing_mm: In the arrays' order.
    """
    ours, theirs = (_image(mask, spacing_mm) for mask in (prediction, reference))
    overlap, shape = sitk.LabelOverlapMeasuresImageFilter(), sitk.LabelShapeStatisticsImageFilter()
    overlap.Execute(ours, theirs)
    volumes = []
    for image in (ours, theirs):
        shape.Execute(image)
        volumes.append(shape.GetPhysicalSize(1))
    surfaces = [_surface(image) for image in (ours, theirs)]
    to_reference = _distances(surfaces[1])[sitk.GetArrayViewFromImage(surfaces[0]) > 0]
    to_prediction = _distances(surfaces[0])[sitk.GetArrayViewFromImage(surfaces[1]) > 0]
    pooled = np.concatenate([to_reference, to_prediction])
    return {
        "dice": overlap.GetDiceCoefficient(1),
        "iou": overlap.GetJaccardCoefficient(1),
        "precision": 1 - overlap.GetFalseDiscoveryRate(1),
        "recall": 1 - overlap.GetFalseNegativeError(1),
        "nsd": float(np.mean(pooled <= TOLERANCE_MM)),
        "hd95_mm": float(max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95))),
        "assd_mm": float(np.mean(pooled)),
        "volume_difference_mm3": volumes[0] - volumes[1],
        "relative_volume_difference": volumes[0] / volumes[1] - 1,
    }


def _image(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> sitk.Image:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing([float(step) for step in reversed(spacing_mm)])
    return image


def _surface(image: sitk.Image) -> sitk.Image:
    eroded = sitk.BinaryErode(image, [1] * image.GetDimension(), sitk.sitkCross, 0.0, 1.0, False)
    return sitk.And(image, sitk.Equal(eroded, 0))


def _distances(surface: sitk.Image) -> NDArray[np.float64]:
    """Of every voxel to the surface; the map is negative or 0 in it."""
    found = sitk.SignedMaurerDistanceMap(surface, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    return np.maximum(sitk.GetArrayFromImage(found).astype(np.float64), 0)


def library_metrics(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Return the surface metrics of two masks that are not empty, all by the library surface-distance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it calls SciPy by names of long ago
        found = surface_distance.compute_surface_distances(reference, prediction, spacing_mm)
    areas = found["surfel_areas_gt"].sum(), found["surfel_areas_pred"].sum()
    directed = surface_distance.compute_average_surface_distance(found)
    return {
        "nsd": float(surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)),
        "hd95_mm": float(surface_distance.compute_robust_hausdorff(found, 95)),
        "assd_mm": float(np.average(directed, weights=areas)),
    }


def compared_blob(seed: int) -> dict[str, Any]:
    """Return the metrics of a random blob in both readings, and by SimpleITK and by the library surface-distance."""
    size = made_blob(seed)
    prediction, reference = made_case(size, seed)
    masks = prediction == 1, reference == 1
    readings = {
        surface: case_metrics(prediction, reference, size.spacing_mm, {"blob": (1,)}, METRICS, TOLERANCE_MM, surface)
        for surface in ("area", "erosion")
    }
    return {
        "seed": seed,
        "shape": list(size.shape),
        "spacing_mm": list(size.spacing_mm),
        "voxel_diagonal_mm": math.hypot(*size.spacing_mm),
        **{surface: found["blob"] for surface, found in readings.items()},
        "simpleitk": simpleitk_metrics(*masks, size.spacing_mm),
        "library": library_metrics(*masks, size.spacing_mm),
    }


def agreement(blobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the largest differences over blobs that `compared_blob` returned.

    `exact` has, by metric, those that should only be rounding, over 1 or the value if it is larger: of overlap,
    volumes and the erosion reading to SimpleITK, and of the area reading to the library surface-distance.
    `in_voxel_diagonals` has those of the area reading's distances to SimpleITK's, and `nsd` that of the NSD.
    """

    def relative(blob: Mapping[str, Any], ours: str, other: str, metric: str) -> float:
        return abs(blob[ours][metric] - blob[other][metric]) / max(1.0, abs(blob[other][metric]))

    def apart(blob: Mapping[str, Any], metric: str) -> float:
        return abs(blob["area"][metric] - blob["simpleitk"][metric])

    return {
        "exact": {
            "simpleitk": {
                metric: max(relative(blob, "erosion", "simpleitk", metric) for blob in blobs) for metric in METRICS
            },
            "library": {
                metric: max(relative(blob, "area", "library", metric) for blob in blobs) for metric in SURFACE_METRICS
            },
        },
        "in_voxel_diagonals": {
            metric: max(apart(blob, metric) / blob["voxel_diagonal_mm"] for blob in blobs)
            for metric in IN_VOXEL_DIAGONALS
        },
        "nsd": max(apart(blob, "nsd") for blob in blobs),
    }
