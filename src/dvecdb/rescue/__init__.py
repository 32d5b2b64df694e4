"""What others left behind, and our own after the worst: read whatever is there, write nothing."""
