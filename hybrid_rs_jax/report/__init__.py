"""What goes in and comes out: counts files, result files, tables, plots, and the words of the guarantee."""
