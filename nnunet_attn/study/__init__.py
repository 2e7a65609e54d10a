"""Cross-validation studies: one file describes which trainers are compared on which data, and how."""
