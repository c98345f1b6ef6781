"""What a sweep's runs say: statistics, the table, and the TensorBoard view. Reads run folders, and writes none."""
