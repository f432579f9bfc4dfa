"""What blocks and words do: a block map, a reading of words, distances, and intervals over seeds."""
