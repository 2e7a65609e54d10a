"""The one exception that means: the input is wrong, and this is what to do about it."""


class InputError(ValueError):
    """Wrong input from the user; the message names the value got, the rule and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """
