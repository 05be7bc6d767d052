"""Which concepts of several networks are the same: `match_extractors` and its result."""
