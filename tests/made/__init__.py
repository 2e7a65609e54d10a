"""Plans and preprocessed data that tests make themselves, small enough for milliseconds."""
