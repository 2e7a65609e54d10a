"""Plans, as nnU-Net writes them, for every kind of configuration that a network must work on."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_attn.architectures.build import PlannedUNet
from nnunet_attn.architectures.registry import Network
from nnunet_attn.training.network import PLANS_KEY, planned_unet

REQUIRES_IMPORT = ["conv_op", "norm_op", "dropout_op", "nonlin"]


def architecture(
    patch_size: list[int], strides: list[list[int]], features: list[int] | None = None, residual: bool = False
) -> dict[str, Any]:
    """Return an architecture entry of the plans: a PlainConvUNet or a ResidualEncoderUNet."""
    dims, stages = len(patch_size), len(strides)
    blocks = "n_blocks_per_stage" if residual else "n_conv_per_stage"
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet."
        + ("ResidualEncoderUNet" if residual else "PlainConvUNet"),
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": features or [4 * 2**i for i in range(stages)],
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [[1 if s == 1 and i > 0 else 3 for s in stride] for i, stride in enumerate(strides)],
            "strides": strides,
            blocks: [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": REQUIRES_IMPORT,
    }


def configuration(patch_size: list[int], strides: list[list[int]], **more: Any) -> dict[str, Any]:
    """Return a configuration entry of the plans."""
    resampling = {"order": 1, "order_z": 0, "force_separate_z": None}
    names = ("data", "seg", "probabilities")
    return {
        "data_identifier": f"nnUNetPlans_made_{len(patch_size)}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch_size,
        "median_image_size_in_voxels": [float(size) for size in patch_size],
        "spacing": [1.0] * len(patch_size),
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        **{f"resampling_fn_{name}": "resample_data_or_seg_to_shape" for name in names},
        **{f"resampling_fn_{name}_kwargs": {"is_seg": name == "seg", **resampling} for name in names},
        "architecture": architecture(patch_size, strides),
        "batch_dice": False,
        **more,
    }


ALL_2 = [2, 2, 2]
LABELS = {"background": 0, "left": 1, "right": 2}
REGIONS = {"background": 0, "whole": [1, 2], "right": 2}
IGNORE = {**LABELS, "ignore": 3}


@dataclass(frozen=True)
class Kind:
    """One kind of configuration: name of the configuration, its entry, and the labels of the data set."""

    configuration: str
    entry: dict[str, Any]
    labels: dict[str, Any]

    @property
    def plans(self) -> dict[str, Any]:
        """The whole plans, with what a cascade needs beside the configuration itself."""
        entries = {self.configuration: self.entry}
        if "previous_stage" in self.entry:
            entries["3d_lowres"] = {
                **self.entry,
                "next_stage": self.configuration,
                "data_identifier": "nnUNetPlans_made_lowres",
            }
            del entries["3d_lowres"]["previous_stage"]
        return deepcopy(
            {
                "dataset_name": "Dataset901_Made",
                "plans_name": "nnUNetPlansMade",
                "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
                "original_median_shape_after_transp": [16, 16, 16],
                "image_reader_writer": "SimpleITKIO",
                "transpose_forward": [0, 1, 2],
                "transpose_backward": [0, 1, 2],
                "configurations": entries,
                "experiment_planner_used": "ExperimentPlanner",
                "label_manager": "LabelManager",
                "foreground_intensity_properties_per_channel": {"0": {}},
                "continue_training": False,
            }
        )

    @property
    def dataset_json(self) -> dict[str, Any]:
        """The data set's own description."""
        made = {"channel_names": {"0": "MRI"}, "labels": self.labels, "numTraining": 4, "file_ending": ".nii.gz"}
        return made | ({"regions_class_order": [1, 2]} if self.labels is REGIONS else {})

    @property
    def manager(self) -> ConfigurationManager:
        """nnU-Net's own view of the configuration."""
        return PlansManager(self.plans).get_configuration(self.configuration)

    def with_options(self, network: Network) -> "Kind":
        """The same with the options that make a network small."""
        if not network.small_options:
            return self
        return replace(self, entry={**self.entry, PLANS_KEY: {network.name: dict(network.small_options)}})

    @property
    def planned_unet(self) -> PlannedUNet:
        """What the configuration says about its network."""
        return planned_unet(self.manager)


_STRIDES_3D = [[1, 1, 1], ALL_2, ALL_2]
_THIN = [[1, 1, 1], [1, 2, 2], ALL_2]

KINDS: dict[str, Kind] = {
    "2d": Kind("2d", configuration([16, 24], [[1, 1], [2, 2], [2, 2]]), LABELS),
    "3d": Kind("3d_fullres", configuration([16, 16, 16], _STRIDES_3D), LABELS),
    "anisotropic": Kind("3d_fullres", configuration([6, 24, 16], _THIN), LABELS),
    "odd": Kind("3d_fullres", configuration([12, 20, 28], _STRIDES_3D), LABELS),
    "residual": Kind(
        "3d_fullres",
        configuration([16, 16, 16], _STRIDES_3D, architecture=architecture([16, 16, 16], _STRIDES_3D, residual=True)),
        LABELS,
    ),
    "cascade": Kind("3d_cascade_fullres", configuration([16, 16, 16], _STRIDES_3D, previous_stage="3d_lowres"), LABELS),
    "regions": Kind("3d_fullres", configuration([16, 16, 16], _STRIDES_3D), REGIONS),
    "ignore": Kind("3d_fullres", configuration([16, 16, 16], _STRIDES_3D), IGNORE),
}
