"""What training reports: curves, throughput, summaries."""
