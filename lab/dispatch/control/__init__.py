"""What users do with the runs of a plan: submit, retry, cancel, check a launcher."""
