"""What predictions are worth: metrics, evaluation of folders and cross-validations, paired comparison."""
