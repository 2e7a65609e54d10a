"""Sub-commands of `nnunet-attn` that have many flags: each module parses, calls and prints one of them."""
