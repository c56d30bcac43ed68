"""Which type each tensor gets: TYPE names, mixtures, rules in every dialect that people paste."""
