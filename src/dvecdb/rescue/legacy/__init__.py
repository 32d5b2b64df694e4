"""The files of d-vecDB, every generation of them, in any state."""
