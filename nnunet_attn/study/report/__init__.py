"""The page on a study: data, tables, plots, files."""
