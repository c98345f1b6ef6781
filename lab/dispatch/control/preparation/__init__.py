"""From a plan to run folders: which runs exist already, which are created, and how all of them stand."""
