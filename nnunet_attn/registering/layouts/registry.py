"""The known layouts, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from nnunet_attn.registering.layouts import amos, brain_us, btcv, decathlon, glas, kits, left_atrium, monuseg
from nnunet_attn.registering.layouts.contract import Layout, LayoutData, LayoutOptions

__all__ = ["LAYOUTS", "Layout", "LayoutData", "LayoutOptions"]

_ALL = (
    Layout(btcv.NAME, "BTCV: abdominal CT, 13 organs", "BTCV", btcv.URL, btcv.read, label_readings=btcv.READINGS),
    Layout(
        amos.NAME,
        "AMOS 2022: abdominal CT and MR, 15 organs",
        "AMOS22",
        amos.URL,
        amos.read,
        modalities=amos.MODALITIES,
    ),
    Layout(kits.NAME, "KiTS23: CT, kidneys with tumours and cysts as regions", "KiTS23", kits.URL, kits.read),
    Layout(
        decathlon.NAME,
        "Medical Segmentation Decathlon: any of its tasks",
        "Decathlon",
        decathlon.URL,
        decathlon.read,
    ),
    Layout(glas.NAME, "GlaS 2015: glands in colon tissue, RGB", "GlaS", glas.URL, glas.read),
    Layout(monuseg.NAME, "MoNuSeg 2018: nuclei in tissue, RGB, from polygons", "MoNuSeg", monuseg.URL, monuseg.read),
    Layout(brain_us.NAME, "Brain ultrasound of MedT: images and grey masks", "BrainUS", brain_us.URL, brain_us.read),
    Layout(
        left_atrium.NAME,
        "Left atrium, 2018 challenge: MR in NRRD",
        "LeftAtrium",
        left_atrium.URL,
        left_atrium.read,
    ),
    Layout(
        "binary-hippocampus",
        "Decathlon's Task04 with one label",
        "BinaryHippocampus",
        decathlon.URL,
        decathlon.read_binary_hippocampus,
    ),
    Layout(
        "binary-pancreas",
        "Decathlon's Task07 with one label",
        "BinaryPancreas",
        decathlon.URL,
        decathlon.read_binary_pancreas,
    ),
)

LAYOUTS: Mapping[str, Layout] = MappingProxyType({layout.name: layout for layout in _ALL})
"""Name -> layout."""
