"""Results: what is known about inputs, as typed columns from counts to page, and the files that hold it."""
