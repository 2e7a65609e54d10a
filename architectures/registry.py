"""The table of networks: pure data, imports no torch. A row makes a network exist everywhere in this package."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Network:
    """One network family.

    Args:
        name: Name of the network; also its key in the plans (`configurations.<name>.nnunet_attn.<network>`).
        class_path: Dotted path of the class; None stands for the network that the plans name.
        trainers: Names of its trainers, the default one first.
        dims: Numbers of spatial axes it can work on.
        cascade: Whether it can be the second stage of a cascade (label channels beside the image).
        fixed_patch: Whether it takes crops of the planned patch size only, which all of nnU-Net's tiles have.
        title: One line for tables.
        source: Paper and identifier.
        small_options: Arguments that make it small enough for a test on a CPU.
        trainer_options: Names that the plans may set beside the network's arguments, read by its trainers alone.
        planned_width: Whether its width is that of the planned U-Net; if not, it is an option of its own.
    """

    name: str
    class_path: str | None
    trainers: tuple[str, ...]
    dims: tuple[int, ...]
    title: str
    source: str
    cascade: bool = True
    fixed_patch: bool = True
    small_options: Mapping[str, Any] = field(default_factory=dict)
    trainer_options: tuple[str, ...] = ()
    planned_width: bool = False


_NARROW: dict[str, Any] = {"features": [8, 8, 16, 16], "depths": [1, 2, 1, 1], "num_heads": 4, "stem_channels": [4, 8]}

_NARROW_WINDOWS: dict[str, Any] = {"embed_dim": 24, "num_heads": 3}

NETWORKS: tuple[Network, ...] = (
    Network(
        name="PlainUNet",
        class_path=None,
        trainers=("nnUNetTrainerPlain",),
        dims=(2, 3),
        title="the U-Net that the plans name, without attention: the reference of every comparison",
        source="Isensee et al. 2021, doi:10.1038/s41592-020-01008-z",
        fixed_patch=False,
        planned_width=True,
    ),
    Network(
        name="UNetPlusPlus",
        class_path="nnunet_attn.architectures.unet_plus_plus.UNetPlusPlus",
        trainers=("nnUNetTrainerUNetPlusPlus",),
        dims=(2, 3),
        title="UNet++: nested, densely connected nodes between encoder and decoder, without attention",
        source="Zhou et al. 2018, arXiv:1807.10165; the baseline of Karimi et al. 2021, arXiv:2102.13645",
        fixed_patch=False,
        planned_width=True,
    ),
    Network(
        name="GASAUNet",
        class_path="nnunet_attn.architectures.gasa_unet.GASAUNet",
        trainers=("nnUNetTrainerGASA", "nnUNetTrainerGASANoPE", "nnUNetTrainerGASABPE"),
        dims=(2, 3),
        title="global axial self-attention at the bottleneck of the planned U-Net",
        source="Sun et al. 2024, arXiv:2409.13146",
        planned_width=True,
    ),
    *(
        Network(
            name=name,
            class_path=f"nnunet_attn.architectures.medt.{name}",
            trainers=trainers,
            dims=(2, 3),
            title=title,
            source="Valanarasu et al. 2021, arXiv:2102.10662",
            fixed_patch=False,
            small_options={**_NARROW, **own},
        )
        for name, trainers, title, own in (
            (
                "MedT",
                ("nnUNetTrainerMedT", "nnUNetTrainerMedTPaper", "nnUNetTrainerMedTPostNorm"),
                "Medical Transformer: gated axial attention on the image, axial attention on a grid of its cells",
                {"local_stem": 8},
            ),
            ("MedTGlobal", ("nnUNetTrainerMedTGlobal",), "ablation of MedT: its global branch alone", {}),
            (
                "MedTLocal",
                ("nnUNetTrainerMedTLocal",),
                "ablation of MedT: its local branch alone",
                {"local_stem": 8},
            ),
            (
                "LoGo",
                ("nnUNetTrainerLoGo",),
                "MedT's two branches with axial attention without gates",
                {"local_stem": 8},
            ),
            (
                "GatedAxialUNet",
                ("nnUNetTrainerGatedAxial",),
                "U-Net whose encoder is gated axial attention",
                {"heads": 2},
            ),
            (
                "AxialUNet",
                ("nnUNetTrainerAxialUNet",),
                "U-Net whose encoder is axial attention without gates: the baseline of the gated one",
                {},
            ),
        )
    ),
    Network(
        name="MAT",
        class_path="nnunet_attn.architectures.mat.MAT",
        trainers=("nnUNetTrainerMAT",),
        dims=(2, 3),
        title="the planned U-Net with a block of gated axial attention at its bottleneck",
        source="Valanarasu et al. 2021, arXiv:2102.10662, in 3D; a baseline of Sun et al. 2024, arXiv:2409.13146",
        fixed_patch=False,
        planned_width=True,
    ),
    Network(
        name="NNFormer",
        class_path="nnunet_attn.architectures.nnformer.NNFormer",
        trainers=("nnUNetTrainerNNFormer",),
        dims=(3,),
        title="nnFormer: window attention, global in the deepest stages, and attention to the skips",
        source="Zhou et al. 2021, arXiv:2109.03201",
        small_options=_NARROW_WINDOWS,
    ),
    Network(
        name="NNFormer2021",
        class_path="nnunet_attn.architectures.nnformer.NNFormer2021",
        trainers=("nnUNetTrainerFINENoTokens",),
        dims=(3,),
        title="the plain Swin U-Net of nnFormer's first publication: FINE without its tokens",
        source="Zhou et al. 2021, arXiv:2109.03201v1",
        small_options=_NARROW_WINDOWS,
    ),
    Network(
        name="FINE",
        class_path="nnunet_attn.architectures.fine.FINE",
        trainers=("nnUNetTrainerFINE", "nnUNetTrainerFINEPublished", "nnUNetTrainerFINEWindowTokens"),
        dims=(3,),
        title="nnFormer with memory tokens that know where a crop lies in the whole volume",
        source="Themyr et al. 2022, arXiv:2210.05313",
        cascade=False,
        small_options=_NARROW_WINDOWS,
    ),
    Network(
        name="PatchTransformer",
        class_path="nnunet_attn.architectures.patch_transformer.PatchTransformer",
        trainers=("nnUNetTrainerPatchTransformer", "nnUNetTrainerPatchTransformerPaper"),
        dims=(2, 3),
        title="no convolutions: attention among the patches of a block, which labels the block's centre patch",
        source="Karimi et al. 2021, arXiv:2102.13645",
        fixed_patch=False,
        small_options={"embed_dim": 32, "depth": 2, "num_heads": 4, "head_dim": 8, "mlp_dim": 64},
        trainer_options=("train_cells", "batch_size"),
    ),
)


def network_named(name: str) -> Network:
    """Return the row of a network.

    Raises:
        KeyError: If there is no such network; the message lists those that exist.
    """
    for network in NETWORKS:
        if network.name == name:
            return network
    raise KeyError(f"no network {name!r}; there are {', '.join(network.name for network in NETWORKS)}")
