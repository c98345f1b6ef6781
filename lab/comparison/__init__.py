"""Compare a sweep's arms: statistics, the table, and the TensorBoard view. This package never changes a run folder."""
