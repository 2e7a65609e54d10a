"""What is said about names that were proposed: of channels, by which nnU-Net normalises, and of labels."""

from collections.abc import Mapping

from nnunet_attn.registering.plan import RegistrationPlan

# what nnU-Net does with a channel, by the class that it chooses by the channel's name
_NORMALISED = {
    "CTNormalization": "as CT, with clipping and scaling by the labelled voxels of all cases",
    "ZScoreNormalization": "image by image, by its mean and standard deviation",
    "NoNormalization": "not at all",
    "RescaleTo01Normalization": "image by image, to 0 to 1",
    "RGBTo01Normalization": "from 0 to 255 to 0 to 1",
}


def channel_lines(plan: RegistrationPlan) -> list[str]:
    """Say what each channel is called, and how nnU-Net normalises it because of that name."""
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

    lines = []
    for number, name in plan.dataset_json["channel_names"].items():
        scheme = get_normalization_scheme(name).__name__
        lines.append(f"channel {number} is called {name}, so nnU-Net normalises it {_NORMALISED.get(scheme, scheme)}")
    return lines


def proposals(plan: RegistrationPlan) -> list[str]:
    """Say which names nobody gave, and how to give them."""
    names = list(plan.dataset_json["channel_names"].values())
    lines = []
    if plan.request.channel_names is None:
        if names == ["R", "G", "B"]:
            lines.append("channels are the colours of the images")
        elif all(name == "image" or name.startswith("channel_") for name in names):
            lines.append(
                "nothing tells what the channels are, and nnU-Net normalises by their names; give them, above all for "
                f"CT in Hounsfield units: --channels {' '.join(['CT', *names[1:]])}"
            )
        else:
            lines.append(f"the channel is called {names[0]} by its DICOM header; give --channels if it is not so")
    if plan.request.labels is None and not plan.request.unlabeled:
        foreground = [
            f"{name}={value}" for name, value in label_values(plan).items() if name not in ("background", "ignore")
        ]
        if foreground:
            lines.append(f"label names are proposed; give better ones: --label {' '.join(foreground)}")
    return lines


def label_values(plan: RegistrationPlan) -> Mapping[str, str]:
    """Return the name of each label with its value, or values of a region, as one writes them."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for name, value in plan.dataset_json.get("labels", {}).items()
    }
