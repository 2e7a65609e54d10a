"""The full name of a data set, from what a user types."""

from nnunet_attn.errors import InputError


def full_dataset_name(text: str, option: str = "-d", remedy: str = "correct it") -> str:
    """Return a data set's full name, as nnU-Net looks it up in its folders.

    Args:
        text: Number or name.
        option: The option it was given with, for the message.
        remedy: What to do where there is none, as the message's last words.
    Raises:
        InputError: If nnU-Net's folders have none of this number or name, or several.
    """
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    try:
        return str(maybe_convert_to_dataset_name(int(text) if text.isdecimal() else text))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{option} {text}: nnU-Net's folders have no data set of this number or name, or several; {remedy}"
        ) from error
