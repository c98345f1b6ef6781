"""Where runs stand, and what the machine and cluster say."""
