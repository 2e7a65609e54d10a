"""Where cases come from: folders, a pattern or a table; each returns `Found`."""

from nnunet_attn.registering.folders import from_folders
from nnunet_attn.registering.naming import Found
from nnunet_attn.registering.patterns import from_pattern
from nnunet_attn.registering.table import from_csv

__all__ = ["Found", "from_csv", "from_folders", "from_pattern"]
