"""Models: which there are (catalogue), where they come from (sources), how they run."""
