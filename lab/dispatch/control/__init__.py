"""What a person asks of a plan's runs: prepare, submit, retry, cancel."""
