"""From finished runs to what the repository shows: published weights and rendered tables."""
