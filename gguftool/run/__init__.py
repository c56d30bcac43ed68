"""Work: carries plans out, measures what it costs and did."""
