"""Run a study: jobs, locks, devices, the workflow."""
